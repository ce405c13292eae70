"""A neural ODE: x' = f(t, x), solved by torchdiffeq, between a convolution and a linear head."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from robustbench_dyn.errors import CertificateError
from robustbench_dyn.flows import Classifier, Flow, lipschitz_bound
from robustbench_dyn.properties import Convergent, Property

# Fixed-step methods of torchdiffeq, and their names in robustbench_dyn.flows.
FIXED = {"euler": "euler", "heun2": "heun", "rk4": "rk4_38"}
ADAPTIVE = ("dopri5",)
# Of the fixed-step surrogate of an adaptive solver.
_SURROGATE_STEPS = 4
_LOOSER = 100.0


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 32,
    method: str = "heun2",
    n_steps: int = 2,
    rtol: float = 1e-3,
    atol: float = 1e-3,
) -> nn.Module:
    """Build a convolution, one continuous-time block, and a linear head.

    Images, with H and W divisible by 4, are unshuffled by 4 first. method: "euler", "heun2" or
    "rk4" with n_steps equal steps, or "dopri5", which adapts its steps to rtol and atol. Raises
    ValueError for other shapes and methods.
    """
    in_channels, height, width = input_shape
    points = height == width == 1
    if not points and (height % 4 or width % 4):
        raise ValueError(f"inputs {input_shape} need height and width divisible by 4")
    kernel_size, factor = (1, 1) if points else (3, 4)
    block = ODEBlock(
        Field(channels, kernel_size), method=method, n_steps=n_steps, rtol=rtol, atol=atol
    )
    layers: list[nn.Module] = [] if points else [nn.PixelUnshuffle(factor)]
    layers += [
        nn.Conv2d(in_channels * factor**2, channels, kernel_size, padding=kernel_size // 2),
        block,
        nn.Flatten(),
    ]
    features = channels * (height // factor) * (width // factor)
    return NeuralODE(nn.Sequential(*layers), nn.Linear(features, n_classes))


class Field(nn.Module):
    """f(t, x) = B tanh(A x + b + t c) with convolutions A, B: a time-dependent residual block."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
        self.outer = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
        self.push = nn.Parameter(torch.zeros(channels))

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """Return the velocity at time t in [0, 1]; x: (batch, channels, height, width)."""
        inner = self.inner(x) + t * self.push[:, None, None]
        velocity: Tensor = self.outer(torch.tanh(inner))
        return velocity

    def lipschitz_bound(self) -> float:
        """Return |B| |A|, a bound at all times t."""
        return lipschitz_bound(self.inner) * lipschitz_bound(self.outer)


class ODEBlock(nn.Module):
    """x(0) -> x(1) of x' = f(t, x), by torchdiffeq (Chen et al., arXiv 1806.07366).

    The fixed-step methods "euler", "heun2" and "rk4" (order 1, 2 and 4; rk4 is the 3/8 rule) take
    n_steps equal steps. "dopri5" takes enough steps to keep an error estimate below rtol and atol;
    the estimate is a mean over the batch, so that an example's output depends on the rest of its
    batch. Raises ValueError for another method, fewer than one step, or a tolerance of 0.
    """

    def __init__(
        self,
        field: nn.Module,
        *,
        method: str = "heun2",
        n_steps: int = 2,
        rtol: float = 1e-3,
        atol: float = 1e-3,
    ) -> None:
        super().__init__()
        if method not in (*FIXED, *ADAPTIVE):
            known = ", ".join((*FIXED, *ADAPTIVE))
            raise ValueError(f"method={method!r} is unknown; choose one of {known}")
        if n_steps < 1:
            raise ValueError(f"n_steps={n_steps} must be at least 1")
        if not (0 < rtol < math.inf and 0 < atol < math.inf):
            raise ValueError(f"rtol={rtol} and atol={atol} must be positive")
        self.field = field
        self.method, self.n_steps, self.rtol, self.atol = method, n_steps, rtol, atol

    @property
    def adaptive(self) -> bool:
        """Whether the solver adapts its steps."""
        return self.method in ADAPTIVE

    def forward(self, x: Tensor) -> Tensor:
        """Return the state at t = 1, of x's shape."""
        return self._solve(x)[-1]

    def trajectory(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the state after each step; for an adaptive solver, at n_steps equal times."""
        yield from self._solve(x, self.n_steps)[1:]

    def refined(self, factor: int) -> ODEBlock:
        """Return the flow of the same field with `factor` times as many steps."""
        if self.adaptive:
            raise ValueError(f"{self.method} adapts its steps and has no n_steps to refine")
        return ODEBlock(self.field, method=self.method, n_steps=factor * self.n_steps)

    def surrogates(self) -> dict[str, ODEBlock]:
        """Return flows of the same field by another solver, or with other steps or tolerances."""
        if self.adaptive:
            return {
                "rk4": ODEBlock(self.field, method="rk4", n_steps=_SURROGATE_STEPS),
                "looser": ODEBlock(
                    self.field,
                    method=self.method,
                    rtol=_LOOSER * self.rtol,
                    atol=_LOOSER * self.atol,
                ),
            }
        other = "heun2" if self.method == "euler" else "euler"
        return {
            "finer": self.refined(2),
            other: ODEBlock(self.field, method=other, n_steps=self.n_steps),
        }

    def as_flow(self) -> Flow:
        """Return a fixed-step method as a Flow; raises CertificateError for an adaptive one."""
        if self.adaptive:
            raise CertificateError(
                f"no Lipschitz bound is known for {self.method}, whose steps depend on its input"
            )
        return Flow(self.field, method=FIXED[self.method], n_steps=self.n_steps)

    def lipschitz_bound(self) -> float:
        """Return the bound of a fixed-step method; raises CertificateError for dopri5."""
        return self.as_flow().lipschitz_bound()

    def _solve(self, x: Tensor, n_times: int = 1) -> Tensor:
        times = torch.linspace(
            0, 1, 1 + (n_times if self.adaptive else self.n_steps), dtype=x.dtype, device=x.device
        )
        # A fixed-step method steps from each of these times to the next.
        states: Tensor = odeint(
            self.field, x, times, method=self.method, rtol=self.rtol, atol=self.atol
        )
        return states


class NeuralODE(Classifier):
    """A classifier with one ODEBlock among its features."""

    def surrogates(self) -> dict[str, nn.Module]:
        """Return surrogates for transfer attacks, with the same weights.

        The backbone without the block, and the network with each surrogate of the block. Adaptive
        solvers mask gradients: examples that survive attacks through them may fall to transfer
        attacks (arXiv 2009.13145).
        """
        layers: list[nn.Module] = [*self.features.children()]
        (k,) = (k for k, layer in enumerate(layers) if isinstance(layer, ODEBlock))
        block = cast(ODEBlock, layers[k])
        return {
            name: Classifier(nn.Sequential(*layers[:k], other, *layers[k + 1 :]), self.head)
            for name, other in {**block.surrogates(), "backbone": nn.Identity()}.items()
        }


def properties(model: nn.Module) -> Iterator[Property]:
    """Claim the convergence order of each fixed-step method."""
    for name, module in model.named_modules():
        if isinstance(module, ODEBlock) and not module.adaptive:
            yield Convergent(name, module.as_flow().order)
