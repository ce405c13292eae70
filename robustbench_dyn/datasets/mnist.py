"""MNIST: 28 x 28 grey images of handwritten digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Split
from robustbench_dyn.datasets.idx_sets import read_or_fetch
from robustbench_dyn.datasets.published import MNIST

if TYPE_CHECKING:
    from pathlib import Path


def load_raw(split: Split, data_dir: Path | None) -> RawSplit:
    """Find or fetch a split; x is (n, 1, 28, 28). Raises what read_or_fetch raises."""
    return read_or_fetch(MNIST, split, data_dir)


INFO = DatasetInfo(
    name="mnist",
    input_shape=(1, 28, 28),
    class_names=tuple("0123456789"),
    sizes={"train": 60_000, "test": 10_000},
    availability={"train": "found or fetched", "test": "found or fetched"},
    source="http://yann.lecun.com/exdb/mnist",
    licence="CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
    load_raw=load_raw,
)
