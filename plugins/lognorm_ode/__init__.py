"""Neural ODEs whose field has a logarithmic norm of at most delta, between two affine maps."""

from collections.abc import Iterator

from torch import nn

from robustbench_dyn.flows import (
    Classifier,
    LogNormFlow,
    OrthonormalLinear,
    UnitRowLinear,
    ZeroPadChannels,
)
from robustbench_dyn.properties import Lipschitz, LogarithmicNorm, Property


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    features: int = 128,
    depth: int = 1,
    n_steps: int = 2,
    duration: float = 1.0,
    delta: float = 0.0,
    activation: str = "leaky_relu_0.5",
) -> nn.Module:
    """Build an affine map to `features`, the flow of x' = sigma(A(t) x + b(t)), and a linear head.

    The network of arXiv 2503.15696, a flow as the activation of a shallow network. A and b are
    constant on each of `depth` intervals of length `duration`, which take n_steps explicit Euler
    steps each. delta: the largest logarithmic norm. Points, with H = W = 1, are lifted.
    """
    channels, height, width = input_shape
    layers, size = list[nn.Module](), channels * height * width
    if size < features:
        if height * width > 1:
            raise ValueError(f"inputs {input_shape} have fewer than features={features} numbers")
        layers, size = [ZeroPadChannels(features)], features
    layers += [nn.Flatten(), OrthonormalLinear(size, features)]
    for _ in range(depth):
        flow = LogNormFlow(
            features, delta=delta, duration=duration, n_steps=n_steps, activation=activation
        )
        layers.append(flow)
    return Classifier(nn.Sequential(*layers), UnitRowLinear(features, n_classes))


def properties(model: nn.Module) -> Iterator[Property]:
    """Claim that each field has a logarithmic norm of delta, and each flow the bound of it."""
    for name, module in model.named_modules():
        if isinstance(module, LogNormFlow):
            yield LogarithmicNorm(name, bound=module.delta)
            yield Lipschitz(name, bound=(1 + module.h * module.delta) ** module.n_steps)
