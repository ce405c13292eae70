"""Vector fields of x' = f(t, x): modules whose forward takes the time and the state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.flows.activations import find_activation
from robustbench_dyn.lipschitz.bounds import lipschitz_bound
from robustbench_dyn.lipschitz.norms import conv_norm


class Autonomous(nn.Module):
    """f(t, x) = net(x), where net keeps the shape of its input."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, _t: float, x: Tensor) -> Tensor:
        """Return the velocity, of x's shape."""
        velocity: Tensor = self.net(x)
        return velocity

    def lipschitz_bound(self) -> float:
        """Return Lip(net)."""
        return lipschitz_bound(self.net)


class NonautonomousConv(nn.Module):
    """f(t, x) = sigma(A(t) x + b(t)) with convolutions A(t) = sum_k P_k(2t - 1) A_k; b(t) likewise.

    P_k are the Legendre polynomials, t in [0, 1], so that few coefficients give the weights at any
    number of steps. Example of Murari, "Neural networks modelled by dynamical systems" (2022).
    """

    def __init__(
        self, channels: int, *, kernel_size: int = 3, n_basis: int = 3, activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.activation = find_activation(activation)
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(
            torch.empty(n_basis, channels, channels, kernel_size, kernel_size)
        )
        for coefficient in self.weight:
            nn.init.orthogonal_(coefficient, gain=1 / n_basis)
        self.bias = nn.Parameter(torch.zeros(n_basis, channels))

    def forward(self, t: float, x: Tensor) -> Tensor:
        """Return the velocity at time t in [0, 1]; x: (batch, channels, height, width)."""
        basis = x.new_tensor(legendre(2 * t - 1, len(self.weight)))
        weight = torch.tensordot(basis, self.weight, dims=1)
        bias = torch.tensordot(basis, self.bias, dims=1)
        return self.activation.function(F.conv2d(x, weight, bias, padding=self.padding))

    def lipschitz_bound(self) -> float:
        """Return Lip(sigma) sum_k |A_k|, which bounds |A(t)| at all times because |P_k| <= 1."""
        return self.activation.lipschitz_constant * sum(conv_norm(weight) for weight in self.weight)


def legendre(s: float, n: int) -> list[float]:
    """Return P_0(s) ... P_(n-1)(s), by (k + 1) P_(k+1) = (2k + 1) s P_k - k P_(k-1)."""
    values = [1.0, s]
    for k in range(1, n - 1):
        values.append(((2 * k + 1) * s * values[k] - k * values[k - 1]) / (k + 1))
    return values[:n]


class ConvPotential(nn.Module):
    """f(x) = grad V(x) = A^T sigma(A x + b) with V(x) = sum_i R((A x + b)_i), R' = sigma.

    A is an unconstrained convolution to `terms` channels; V is convex where sigma increases. The
    module takes the state without the time: it is the force of Hamiltonian and gradient flows.
    (arXiv 2210.02373, section 2.)
    """

    def __init__(
        self, channels: int, terms: int, *, kernel_size: int = 3, activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.activation = find_activation(activation)
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.empty(terms, channels, kernel_size, kernel_size))
        nn.init.orthogonal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(terms))

    def forward(self, x: Tensor) -> Tensor:
        """Return grad V(x), (batch, channels, height, width)."""
        force = self.activation.function(self._arguments(x))
        return F.conv_transpose2d(force, self.weight, padding=self.padding)

    def energy(self, x: Tensor) -> Tensor:
        """Return V(x), (batch,)."""
        return self.activation.primitive(self._arguments(x)).flatten(1).sum(dim=1)

    def _arguments(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)

    def lipschitz_bound(self) -> float:
        """Return max abs(sigma') |A|^2."""
        return self.activation.lipschitz_constant * conv_norm(self.weight) ** 2
