"""CIFAR-10: 32 x 32 colour images of ten kinds of objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Split
from robustbench_dyn.datasets.torchvision_sets import TorchvisionSet, read_or_download

if TYPE_CHECKING:
    from pathlib import Path

_CIFAR10 = TorchvisionSet(
    class_name="CIFAR10",
    folder="cifar-10-batches-py",
    files=(*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
)


def load_raw(split: Split, data_dir: Path | None) -> RawSplit:
    """Read a split through torchvision, which checks each file's MD5; x is (n, 3, 32, 32).

    Raises DataUnavailableError or IntegrityError, as read_or_download says.
    """
    images, labels = read_or_download(_CIFAR10, split=split, data_dir=data_dir)
    return RawSplit(x=np.moveaxis(images, -1, 1), y=labels, white=255)


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
    source="https://www.cs.toronto.edu/~kriz/cifar.html, through torchvision",
    licence="none stated; cite Krizhevsky, Learning Multiple Layers of Features, 2009",
    load_raw=load_raw,
)
