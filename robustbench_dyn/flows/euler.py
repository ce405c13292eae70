"""The explicit Euler method applied to a field without constraints: the residual network."""

from __future__ import annotations

from torch import Tensor, nn

from robustbench_dyn.flows.lipschitz import lipschitz_bound


class EulerStep(nn.Module):
    """x -> x + h f(x), one explicit Euler step of x' = f(x) (arXiv 1705.03341, eq. 2.2)."""

    def __init__(self, field: nn.Module, *, step_size: float = 1.0) -> None:
        super().__init__()
        self.field = field
        self.step_size = step_size

    def forward(self, x: Tensor) -> Tensor:
        """Step once; the field keeps the shape of x."""
        velocity: Tensor = self.field(x)
        return x + self.step_size * velocity

    def lipschitz_bound(self) -> float:
        """Return 1 + h Lip(f): true for any field, and vacuous for deep networks."""
        return 1.0 + abs(self.step_size) * lipschitz_bound(self.field)
