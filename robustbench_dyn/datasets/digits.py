"""scikit-learn's digits: 1,797 grey images of 8 x 8 pixels, 17 levels each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Split
from robustbench_dyn.datasets.stable_random import permute

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# scikit-learn names no split, so ours is fixed here: changing either number changes every result.
SPLIT_SEED = 0
_N_TEST, _N_TRAIN = 500, 1_297


def split_indices(split: Split) -> NDArray[np.intp]:
    """Name the rows of load_digits() in a split: the first 500 of a permutation are the test."""
    order = permute(_N_TEST + _N_TRAIN, seed=SPLIT_SEED)
    return {"test": order[:_N_TEST], "train": order[_N_TEST:]}[split]


def load_raw(split: Split, data_dir: Path | None) -> RawSplit:
    """Read a split out of scikit-learn; x is (n, 1, 8, 8) with levels 0 to 16."""
    del data_dir  # the images come inside scikit-learn
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import, rarely needed

    images, labels = load_digits(return_X_y=True)
    rows = split_indices(split)
    x = images.reshape(-1, 1, 8, 8).astype(np.uint8)
    return RawSplit(x=x[rows], y=labels[rows], white=16)


INFO = DatasetInfo(
    name="digits",
    input_shape=(1, 8, 8),
    class_names=tuple("0123456789"),
    sizes={"train": _N_TRAIN, "test": _N_TEST},
    availability={"train": "shipped", "test": "shipped"},
    source="sklearn.datasets.load_digits; https://archive.ics.uci.edu/dataset/80",
    licence="CC BY 4.0, E. Alpaydin and C. Kaynak",
    load_raw=load_raw,
)
