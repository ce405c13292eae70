"""Data sets as tensors in [0, 1], each with the checksum of what was loaded."""

from robustbench_dyn.datasets.catalogue import DATASETS, dataset_info, dataset_names, load_dataset
from robustbench_dyn.datasets.dataset import Dataset, DatasetInfo, RawSplit, Split

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetInfo",
    "RawSplit",
    "Split",
    "dataset_info",
    "dataset_names",
    "load_dataset",
]
