"""Data sets as tensors in [0, 1], each with the checksum of what was loaded."""

from robustbench_dyn.datasets.catalogue import DATASETS, dataset_info, dataset_name, dataset_names
from robustbench_dyn.datasets.dataset import Dataset, DatasetInfo, RawSplit, Rows, Split
from robustbench_dyn.datasets.forms import FORMS
from robustbench_dyn.datasets.loading import load_dataset
from robustbench_dyn.datasets.sources.folder import from_folder
from robustbench_dyn.datasets.sources.hugging_face import from_huggingface
from robustbench_dyn.datasets.sources.idx import from_idx
from robustbench_dyn.datasets.sources.npz import from_npz
from robustbench_dyn.datasets.sources.parquet import from_parquet
from robustbench_dyn.datasets.sources.torchvision_sets import from_torchvision

__all__ = [
    "DATASETS",
    "FORMS",
    "Dataset",
    "DatasetInfo",
    "RawSplit",
    "Rows",
    "Split",
    "dataset_info",
    "dataset_name",
    "dataset_names",
    "from_folder",
    "from_huggingface",
    "from_idx",
    "from_npz",
    "from_parquet",
    "from_torchvision",
    "load_dataset",
]
