"""Data set "diagonal": points of the unit square, above and below its diagonal."""

from pathlib import Path

import numpy as np

from robustbench_dyn.datasets import DatasetInfo, RawSplit, Split
from robustbench_dyn.datasets.stable_random import draw_uniform

SIZES: dict[Split, int] = {"train": 400, "test": 100}


def load_raw(split: Split, data_dir: Path | None) -> RawSplit:
    """Draw a split from a fixed seed; x: (n, 2, 1, 1) float32 in [0, 1], y: (n,)."""
    points = draw_uniform(SIZES[split], 2, seed=len(split)).astype(np.float32)
    above = (points[:, 1] > points[:, 0]).astype(np.int64)
    return RawSplit(x=points.reshape(-1, 2, 1, 1), y=above, white=1)


DATASETS = (
    DatasetInfo(
        name="diagonal",
        input_shape=(2, 1, 1),
        class_names=("below", "above"),
        sizes=SIZES,
        availability={"train": "generated", "test": "generated"},
        source="drawn from a fixed seed",
        licence="MIT",
        load_raw=load_raw,
    ),
)
