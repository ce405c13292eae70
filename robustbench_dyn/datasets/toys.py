"""Two classes in the plane, drawn from a fixed seed: points that one can plot and check by eye."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Split
from robustbench_dyn.datasets.stable_random import draw_uniform

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Shape = Callable[[NDArray[np.float64], NDArray[np.intp]], NDArray[np.float64]]

SEED = 0
_N_TRAIN, _N_TEST = 1_000, 500

# Sines differ in the last bit from one machine to another; on this grid they agree.
_GRID = 2.0**16


def place_on_moons(u: NDArray[np.float64], y: NDArray[np.intp]) -> NDArray[np.float64]:
    """Put points on two interleaved half circles of radius 1 / 3.2; noise is at most 0.1 / 3.2.

    u: (n, 3), uniform on [0, 1): the place on the arc, then the noise. y: (n,), 0 or 1.
    """
    angle = np.pi * u[:, 0]
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    points = np.where(y[:, None] == 0, upper, lower) + 0.2 * (u[:, 1:] - 0.5)
    # The noisy moons fill [-1.1, 2.1] x [-0.6, 1.1]; one scale for both axes keeps the norms true.
    return (points - [0.5, 0.25]) / 3.2 + 0.5


def place_on_spirals(u: NDArray[np.float64], y: NDArray[np.intp]) -> NDArray[np.float64]:
    """Put points on two spiral arms around (1/2, 1/2), half a turn apart; noise is at most 0.015.

    u: (n, 3), uniform on [0, 1): the place on the arm, then the noise. y: (n,), 0 or 1.
    """
    along = np.sqrt(u[:, 0])  # the outer turns are longer, and get more of the points
    radius = 0.08 + 0.37 * along
    angle = 3 * np.pi * along + np.pi * y
    arm = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points: NDArray[np.float64] = 0.5 + arm + 0.03 * (u[:, 1:] - 0.5)
    return points


def load_raw(shape: Shape, split: Split, data_dir: Path | None) -> RawSplit:
    """Draw 1,500 points and keep a split of them; x is (n, 2, 1, 1), in [0, 1].

    The classes alternate, so each prefix of a split is balanced.
    """
    del data_dir  # nothing is read
    n = _N_TRAIN + _N_TEST
    y = np.arange(n) % 2
    points = shape(draw_uniform(n, 3, seed=SEED), y)
    x = (np.round(points * _GRID) / _GRID).astype(np.float32).reshape(n, 2, 1, 1)
    rows = {"train": slice(_N_TRAIN), "test": slice(_N_TRAIN, None)}[split]
    return RawSplit(x=x[rows], y=y[rows], white=1)


def _describe(name: str, shape: Shape, class_names: tuple[str, str]) -> DatasetInfo:
    return DatasetInfo(
        name=name,
        input_shape=(2, 1, 1),
        class_names=class_names,
        sizes={"train": _N_TRAIN, "test": _N_TEST},
        availability={"train": "generated", "test": "generated"},
        source=f"robustbench_dyn.datasets.toys, seed {SEED}",
        licence="MIT, as robustbench-dyn",
        load_raw=partial(load_raw, shape),
    )


MOONS = _describe("moons", place_on_moons, ("upper moon", "lower moon"))
SPIRALS = _describe("spirals", place_on_spirals, ("first arm", "second arm"))
