"""Nonautonomous flows x' = sigma(A(t) x + b(t)) whose weights are polynomials in time."""

from torch import nn

from robustbench_dyn.flows import Classifier, Flow, NonautonomousConv, two_scales


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 16,
    n_basis: int = 3,
    n_steps: int = 4,
    duration: float = 2.0,
    method: str = "euler",
) -> nn.Module:
    """Build one flow per scale, with `n_steps` steps of an integrator over `duration`."""

    def flow(width: int, kernel_size: int) -> list[nn.Module]:
        field = NonautonomousConv(width, kernel_size=kernel_size, n_basis=n_basis)
        return [Flow(field, method=method, n_steps=n_steps, duration=duration)]

    layers, features = two_scales(input_shape, channels, flow)
    return Classifier(nn.Sequential(*layers), nn.Linear(features, n_classes))
