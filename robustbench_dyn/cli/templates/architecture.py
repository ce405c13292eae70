"""Architecture "example": a gradient flow, which brings no two inputs further apart.

A network is a discretised differential equation here: a FIELD says how a state moves, an INTEGRATOR
takes steps along it, and what both preserve is a PROPERTY, which a check tests. A bound on the
Lipschitz constant turns the margin of a prediction into a certified radius.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.flows import Classifier, UnitRowLinear
from robustbench_dyn.properties import Nonexpansive, Property

# Steps below 2 are nonexpansive; the rest is far more than float32 can round away.
STEP = 1.9


class Field(nn.Module):
    """The field: x' = -W^T relu(W x + b), downhill in a convex potential; x: (batch, features)."""

    def __init__(self, features: int, terms: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(terms, features))
        nn.init.orthogonal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(terms))

    def forward(self, x: Tensor) -> Tensor:
        """Return the velocity at x, of the shape of x."""
        return -F.linear(F.relu(F.linear(x, self.weight, self.bias)), self.weight.T)

    def steepness(self) -> Tensor:
        """Return an upper bound of the field's Lipschitz constant, |W W^T| in the infinity norm."""
        return (self.weight @ self.weight.T).abs().sum(dim=1).max()


class Step(nn.Module):
    """The integrator: one explicit Euler step, x + h f(x), as long as it may be."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: Tensor) -> Tensor:
        """Return the next state, of the shape of x."""
        return x + STEP / self.field.steepness() * self.field(x)

    def lipschitz_bound(self) -> float:
        """Return 1: the Jacobian I - h W^T D W, 0 <= D <= I, has eigenvalues in [1 - STEP, 1].

        The certifier `lipschitz` multiplies the bounds of all layers. A bound has to be proved, as
        in the line above; a run searches for two inputs that refute it.
        """
        return 1.0


class Lift(nn.Module):
    """The state begins as the flat input with zeros behind it, which give the flow room."""

    def __init__(self, zeros: int) -> None:
        super().__init__()
        self.zeros = zeros

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, C, H, W) to (batch, C H W + zeros)."""
        return F.pad(x.flatten(1), (0, self.zeros))

    def lipschitz_bound(self) -> float:
        """Return 1: distances stay as they are."""
        return 1.0


def build(
    input_shape: tuple[int, ...], n_classes: int, *, zeros: int = 6, terms: int = 8, depth: int = 8
) -> nn.Module:
    """Map (batch, C, H, W) in [0, 1] to logits, (batch, classes); the options are a recipe's."""
    features = math.prod(input_shape) + zeros
    steps = [Step(Field(features, terms)) for _ in range(depth)]
    return Classifier(nn.Sequential(Lift(zeros), *steps), UnitRowLinear(features, n_classes))


def properties(_model: nn.Module) -> Iterator[Property]:
    """The property: the part `features`, all before the head, is nonexpansive; as in card.yaml."""
    yield Nonexpansive("features")
