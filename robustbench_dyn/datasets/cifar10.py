"""CIFAR-10: 32 x 32 colour images of ten kinds of objects."""

from __future__ import annotations

from pathlib import Path

from robustbench_dyn.datasets.cifar import CifarSet, read_or_fetch
from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Split
from robustbench_dyn.datasets.published import CIFAR10, CIFAR10_ARCHIVE, CIFAR10_ARCHIVE_MIRRORS


def load_raw(split: Split, data_dir: Path | None) -> RawSplit:
    """Find or fetch a split; x is (n, 3, 32, 32). Raises what read_or_fetch raises."""
    cifar = CifarSet(CIFAR10, CIFAR10_ARCHIVE, CIFAR10_ARCHIVE_MIRRORS, labels="labels")
    return read_or_fetch(cifar, split, data_dir)


INFO = DatasetInfo(
    name="cifar10",
    input_shape=(3, 32, 32),
    class_names=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    sizes={"train": 50_000, "test": 10_000},
    availability={"train": "found or fetched", "test": "found or fetched"},
    source="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none stated; cite Krizhevsky, Learning Multiple Layers of Features, 2009",
    load_raw=load_raw,
)
