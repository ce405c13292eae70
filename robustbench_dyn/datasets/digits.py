"""Handwritten digits, those of scikit-learn: 1,797 grey images of 8 x 8 pixels, 17 levels each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Split
from robustbench_dyn.datasets.idx_sets import read_shipped
from robustbench_dyn.datasets.published import DIGITS
from robustbench_dyn.datasets.stable_random import permute

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHIPPED_FOLDER = Path(__file__).parent / "digits_files"
# No split of these images is published, so ours is fixed here: changing either number changes
# every result.
SPLIT_SEED = 0
_N_TEST, _N_TRAIN = 500, 1_297


def split_indices(split: Split) -> NDArray[np.intp]:
    """Name the rows of the files in a split: the first 500 of a permutation are the test."""
    order = permute(_N_TEST + _N_TRAIN, seed=SPLIT_SEED)
    return {"test": order[:_N_TEST], "train": order[_N_TEST:]}[split]


def read_all() -> RawSplit:
    """Read the images of both splits, in the order of the files: x is (n, 1, 8, 8), levels 0 to 16.

    Raises IntegrityError where a shipped file is damaged.
    """
    return read_shipped(DIGITS, SHIPPED_FOLDER)._replace(white=16)


def load_raw(split: Split, data_dir: Path | None) -> RawSplit:
    """Return a split of the shipped images, as read_all has them; raises what it raises."""
    del data_dir  # the images come inside this package
    images, rows = read_all(), split_indices(split)
    return images._replace(x=images.x[rows], y=images.y[rows])


INFO = DatasetInfo(
    name="digits",
    input_shape=(1, 8, 8),
    class_names=tuple("0123456789"),
    sizes={"train": _N_TRAIN, "test": _N_TEST},
    availability={"train": "shipped", "test": "shipped"},
    source="https://archive.ics.uci.edu/dataset/80",
    licence="CC BY 4.0, E. Alpaydin and C. Kaynak",
    load_raw=load_raw,
)
