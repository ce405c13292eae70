"""The parts of an evaluation that pictures are drawn from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from robustbench_dyn.results.telling import Told

if TYPE_CHECKING:
    from torch import nn

    from robustbench_dyn.datasets import Dataset


class Evaluated(Told, Protocol):
    """An evaluation at one eps.

    data: the examples of the verdicts. model: what they were shown to. Either is None where it is
    not at hand, as in an evaluation that was pickled.
    """

    @property
    def data(self) -> Dataset | None: ...  # noqa: D102
    @property
    def model(self) -> nn.Module | None: ...  # noqa: D102


class EvaluatedCurve(Evaluated, Protocol):
    """An evaluation over all eps of a norm; radii: where certifiers were run, rising from 0."""

    @property
    def radii(self) -> tuple[float, ...]: ...  # noqa: D102
