"""The problem that an attack gets: a wrapped model, examples, and a ball."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.threat_models import ThreatModel


def _untold(_passes: float) -> None:
    """Tell the number of passes to come to no display."""


class AttackProblem(NamedTuple):
    """Examples to attack: a wrapped model, x (n, C, H, W) float32 in [0, 1], y (n,) int64.

    batch_size: the most inputs that the model is given at once. class_radii: (n, n_classes)
    float64, inf for the label; it is known that class j does not overtake it nearer than entry j.
    tell: an attack may call it, as often as it likes, with the number of passes, forwards and
    backwards, that it still expects to make for these examples; progress displays show it.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    threat_model: ThreatModel
    seed: int
    n_classes: int
    batch_size: int
    class_radii: Tensor
    tell: Callable[[float], None] = _untold

    @property
    def open_classes(self) -> Tensor:
        """The classes that may overtake the label within eps, (n, n_classes) bool."""
        return self.class_radii < self.threat_model.eps

    def rows(self, rows: Tensor) -> AttackProblem:
        """Return the problem of some examples only; rows: indices or a mask."""
        return self._replace(x=self.x[rows], y=self.y[rows], class_radii=self.class_radii[rows])
