"""What can be traced, and what is refused by name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustbench_dyn.certification.bounds.intermediate import relaxation_state
from robustbench_dyn.certification.bounds.traced_network import traced_network
from robustbench_dyn.certification.certifiers.linear_relaxation import LinearRelaxation
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.models.loading import discover
from robustbench_dyn.threat_models import ThreatModel


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.scale = function, nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.function(x.flatten(1) * self.scale)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.atan(), "'atan'; choose another certifier, or give it a handler"),
        (lambda x: x**3, "'pow' to the power 3"),
        (lambda x: F.threshold(x, 0.5, 0.0), "'threshold' with a jump"),
        (lambda x: x.cumsum(dim=1), "'cumsum'"),
        (lambda x: x.sort(dim=0)[0], "'sort' over the batch"),
        (lambda x: x.repeat(1, 9).sort(dim=1)[0], "'sort' of 36 values"),
        (lambda x: x.clamp(1.0, 0.0), "'clamp' with ends in the wrong order"),
        (lambda x: F.elu(x, -1.0), "'elu' with alpha -1"),
        (lambda x: x if x.sum() > 0 else -x, "depends on the values"),
        (lambda x: x * (x > 0.5), "'gt', which decides by the values"),
        (lambda x: torch.linalg.solve(torch.eye(4) + x[:, :, None], x), "exchanges rows"),
        (lambda x: torch.linalg.solve(torch.eye(4) * 2, x, left=False), "exchanges rows"),
        (lambda x: nn.LSTM(4, 2, batch_first=True)(x[:, None])[0][:, 0], "mkldnn.enabled"),
        (lambda x: x + torch.rand(4), "does not compute"),
        (lambda x: x - x.roll(1, dims=0), "does not compute"),
        (lambda x: x.mean(dim=0, keepdim=True).expand(len(x), 4), "'mean' over the batch"),
        (lambda x: x[:, 0], "traced back"),
        (lambda x: torch.zeros(len(x), 2), "traced back"),
        (lambda x: x.no_such_thing(), "cannot be traced.*no_such_thing"),
    ],
)
def test_unsupported_operations_are_refused_by_name(function, message):
    with pytest.raises(CertificateError, match=message):
        relaxation_state(Function(function), (1, 2, 2))


def test_a_network_of_half_precision_is_refused():
    with pytest.raises(CertificateError, match="bfloat16"):
        relaxation_state(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).bfloat16(), (1, 2, 2))


def test_float32_networks_are_proved_in_float64():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    exact, fast = traced_network(model, (1, 2, 2))
    assert exact.dtype is torch.float64
    assert fast.dtype is torch.float32
    assert traced_network(model.double(), (1, 2, 2)).fast.dtype is torch.float64


def test_tracing_leaves_the_model_unchanged():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    model = model.append(nn.Linear(64, 2)).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    relaxation_state(model, (1, 6, 6))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["feedforward", "euler_resnet", "hamiltonian", "gradient_flow", "neural_ode"]
)
def test_the_architectures_are_supported(name):
    model = discover(()).get(name).build((1, 28, 28), 10)
    for parameter in model.parameters():
        parameter.data *= 0.5
    x, threat_model = torch.rand(2, 1, 28, 28), ThreatModel("Linf", 1 / 255)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    certifier = LinearRelaxation()
    state = certifier.prepare(model, (1, 28, 28))
    with torch.no_grad():
        proof = certifier.prove(state, x, model(x), y, threat_model)
    assert proof.class_radii.shape == (2, 10)
