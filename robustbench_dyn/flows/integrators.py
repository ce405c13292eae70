"""One-step methods for x' = f(t, x): explicit Runge-Kutta and the implicit midpoint rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from robustbench_dyn.errors import CertificateError
from robustbench_dyn.lipschitz.bounds import lipschitz_bound

# Fixed-point iterations of the implicit midpoint rule; each gains a factor h L / 2.
_FIXED_POINT_ITERATIONS = 12


class Tableau(NamedTuple):
    """Butcher tableau: k_i = f(t + c_i h, x + h sum_j a_ij k_j); the step adds h sum_i b_i k_i."""

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    @property
    def c(self) -> tuple[float, ...]:
        """The times of the stages, in units of the step."""
        return tuple(sum(row) for row in self.a)


# Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, section II.1.
EXPLICIT: dict[str, Tableau] = {
    "euler": Tableau(1, ((),), (1.0,)),
    "heun": Tableau(2, ((), (1.0,)), (0.5, 0.5)),
    "rk4": Tableau(4, ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    # Kutta's 3/8 rule; torchdiffeq calls it rk4.
    "rk4_38": Tableau(
        4, ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)
    ),
}
METHODS = (*EXPLICIT, "implicit_midpoint")


class Flow(nn.Module):
    """The flow map x(0) -> x(1) of x' = f(t, x), by n_steps equal steps of a one-step method.

    field: a module f(t, x) that keeps the shape of x. method: "euler" (order 1), "heun" (2),
    "rk4" and "rk4_38" (4) or "implicit_midpoint" (2; it preserves quadratic invariants such as the
    norm up to the error of its fixed-point iteration, which converges for h Lip(f) < 2). All
    methods preserve linear invariants and equilibria. duration: length of the time interval; the
    field receives t in [0, 1]. Raises ValueError for another method or fewer than one step.
    """

    def __init__(
        self, field: nn.Module, *, method: str = "euler", n_steps: int = 1, duration: float = 1.0
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(METHODS)}")
        if n_steps < 1:
            raise ValueError(f"n_steps={n_steps} must be at least 1")
        self.field = field
        self.method, self.n_steps, self.duration = method, n_steps, duration

    @property
    def order(self) -> int:
        """The order of the method: halving the step divides the global error by 2^order."""
        return EXPLICIT[self.method].order if self.method in EXPLICIT else 2

    def forward(self, x: Tensor) -> Tensor:
        """Return the state at the end of the interval, of the shape of x."""
        for state in self.trajectory(x):
            x = state
        return x

    def trajectory(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the state after each step."""
        for k in range(self.n_steps):
            x = self._step(k, x)
            yield x

    def refined(self, factor: int) -> Flow:
        """Return the flow of the same field with `factor` times as many steps."""
        return Flow(
            self.field, method=self.method, n_steps=factor * self.n_steps, duration=self.duration
        )

    def _step(self, k: int, x: Tensor) -> Tensor:
        h = self.duration / self.n_steps
        if self.method == "implicit_midpoint":
            middle = x
            for _ in range(_FIXED_POINT_ITERATIONS):
                middle = x + h / 2 * self.field((k + 0.5) / self.n_steps, middle)
            return 2 * middle - x
        tableau, slopes = EXPLICIT[self.method], list[Tensor]()
        for row, c in zip(tableau.a, tableau.c, strict=True):
            inside = x
            for a, slope in zip(row, slopes, strict=True):
                inside = inside + h * a * slope if a else inside
            slopes.append(self.field((k + c) / self.n_steps, inside))
        for b, slope in zip(tableau.b, slopes, strict=True):
            x = x + h * b * slope
        return x

    def lipschitz_bound(self) -> float:
        """Return a bound for an explicit method, from L = Lip(f); vacuous for long flows.

        The stages k_i are K_i-Lipschitz with K_i = L (1 + h sum_j abs(a_ij) K_j), and a step is
        (1 + h sum_i abs(b_i) K_i)-Lipschitz. Raises CertificateError for implicit_midpoint.
        """
        if self.method not in EXPLICIT:
            raise CertificateError(
                f"Flow has no bound for {self.method}, which iterates to solve its equation"
            )
        h, constant = abs(self.duration) / self.n_steps, lipschitz_bound(self.field)
        tableau, stages = EXPLICIT[self.method], list[float]()
        for row in tableau.a:
            inner = sum(abs(a) * stage for a, stage in zip(row, stages, strict=True))
            stages.append(constant * (1 + h * inner))
        step = 1 + h * sum(abs(b) * stage for b, stage in zip(tableau.b, stages, strict=True))
        bound: float = step**self.n_steps
        return bound
