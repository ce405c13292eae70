"""MNIST: 28 x 28 grey images of handwritten digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Split
from robustbench_dyn.datasets.torchvision_sets import TorchvisionSet, read_or_download

if TYPE_CHECKING:
    from pathlib import Path

_MNIST = TorchvisionSet(
    class_name="MNIST",
    folder="MNIST/raw",
    files=(
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ),
)


def load_raw(split: Split, data_dir: Path | None) -> RawSplit:
    """Read a split through torchvision; x is (n, 1, 28, 28).

    Raises DataUnavailableError or IntegrityError, as read_or_download says.
    """
    images, labels = read_or_download(_MNIST, split=split, data_dir=data_dir)
    return RawSplit(x=images[:, None], y=labels, white=255)


INFO = DatasetInfo(
    name="mnist",
    input_shape=(1, 28, 28),
    class_names=tuple("0123456789"),
    sizes={"train": 60_000, "test": 10_000},
    availability={"train": "found or fetched", "test": "found or fetched"},
    source="http://yann.lecun.com/exdb/mnist, through torchvision",
    licence="CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
    load_raw=load_raw,
)
