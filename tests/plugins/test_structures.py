"""Plugins with a Lipschitz bound by construction keep it in training; what they represent."""

import pytest
import torch
from torch import nn

from robustbench_dyn.errors import RegistryError
from robustbench_dyn.flows import (
    OrthonormalGradientStep,
    OrthonormalLinear,
    lipschitz_bound,
)
from robustbench_dyn.models.loading import build_model, discover

SMALL = {
    "nonexpansive_rk": {"channels": 4, "terms": 8, "depth": 1, "dense_depth": 2},
    "lipschitz_universal": {"channels": 4, "depth": 1, "width": 12, "dense_depth": 2},
    "lognorm_ode": {"features": 16, "depth": 2},
    "monotone_equilibrium": {"features": 12, "depth": 2},
    "contractive_hamiltonian": {"channels": 4, "terms": 8, "depth": 1, "dense_depth": 2},
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("input_shape", [(1, 8, 8), (2, 1, 1)])
def test_training_steps_keep_the_bound(name, input_shape):
    torch.manual_seed(0)
    architecture = discover().get(name)
    model = build_model(architecture, input_shape=input_shape, n_classes=3, options=SMALL[name])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(3):
        x = torch.rand(8, *input_shape)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(8) % 3).backward()
        optimizer.step()
        for module in model.modules():
            if callable(retract := getattr(module, "retract", None)):
                retract()
        assert lipschitz_bound(model.features) <= 1 + 1e-4


@pytest.mark.parametrize("name", ["lognorm_ode", "monotone_equilibrium"])
def test_images_smaller_than_the_state_are_refused(name):
    with pytest.raises(RegistryError, match="fewer than features=65"):
        build_model(
            discover().get(name), input_shape=(1, 8, 8), n_classes=3, options={"features": 65}
        )


# lipschitz_universal: piecewise affine functions that such layers represent exactly


def fold(at):
    """Return x -> at - |x - at| on the line: one residual step with W = 1."""
    step = OrthonormalGradientStep(1, 1).double()
    step.step_size = 2.0
    with torch.no_grad():
        step.weight.fill_(1.0)
        step.bias.fill_(-at)
    return step


def test_folds_of_the_line_represent_a_zigzag_of_slope_1_exactly():
    network = nn.Sequential(fold(0.5), fold(0.25), fold(0.125))
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None]
    y = network(x).detach()[:, 0]
    # The distance to the nearest multiple of a quarter.
    torch.testing.assert_close(y, (x[:, 0] - (4 * x[:, 0]).round() / 4).abs())
    assert lipschitz_bound(network) <= 1 + 1e-9


def test_residual_steps_sort_and_so_represent_a_maximum_exactly():
    """A step along (1, -1) / sqrt(2) swaps two coordinates that are in the wrong order."""
    layers = list[nn.Module]()
    for first, second in [(0, 1), (2, 3), (0, 2)]:
        step = OrthonormalGradientStep(4, 1).double()
        step.step_size = 2.0
        with torch.no_grad():
            step.weight.zero_()
            step.bias.zero_()
            step.weight[0, first], step.weight[0, second] = -(0.5**0.5), 0.5**0.5
        layers.append(step)
    head = OrthonormalLinear(4, 1).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0, 0, 0]]))
    network = nn.Sequential(*layers, head)
    x = torch.randn(200, 4, dtype=torch.float64)
    torch.testing.assert_close(network(x).detach()[:, 0], x.amax(dim=1))
    # Negative control: without the last comparison it is the larger of two.
    shorter = nn.Sequential(*layers[:2], head)
    assert not torch.allclose(shorter(x).detach()[:, 0], x.amax(dim=1))
    assert lipschitz_bound(network) <= 1 + 1e-9


def test_an_affine_map_that_left_the_manifold_has_a_larger_bound():
    layer = OrthonormalLinear(6, 4)
    assert lipschitz_bound(layer) <= 1 + 1e-6
    with torch.no_grad():
        layer.weight.mul_(1.2)
    assert lipschitz_bound(layer) >= 1.2
    assert lipschitz_bound(layer) >= float(
        torch.linalg.matrix_norm(layer.weight.detach().double(), 2)
    )
    layer.retract()
    assert lipschitz_bound(layer) <= 1 + 1e-6
