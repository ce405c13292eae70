"""Training by interval bounds: they hold, equal the certifier's, and raise what it proves."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.bounds.back_substitution import objective_bounds
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import interval_bounds, relaxation_state
from robustbench_dyn.certification.bounds.traced_network import trainable_network
from robustbench_dyn.certification.certifiers.interval import Interval
from robustbench_dyn.errors import InputError
from robustbench_dyn.flows import EulerStep, HamiltonianStep, UnitRowLinear
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.loading import discover
from robustbench_dyn.threat_models import NORMS, ThreatModel, distance, project
from robustbench_dyn.training import (
    certified as certified_training,
)
from robustbench_dyn.training import ibp as live_intervals
from robustbench_dyn.training import (
    loop as training,
)
from robustbench_dyn.training import (
    recipes,
)
from robustbench_dyn.training.certified import CertifiedTraining
from robustbench_dyn.training.ibp import worst_logits

RECIPE = """
model: feedforward
dataset: digits
options: {channels: 8, depth: 2, hidden: 32, strided: true}
certified_training: {norm: Linf, eps: 16/255, warm_up_epochs: 2, ramp_epochs: 4}
optimizer: adam
learning_rate: 0.01
epochs: 10
batch_size: 64
seed: 0
"""
EPS = {"Linf": 0.03, "L2": 0.2, "L1": 0.6}


def seeded(*layers):
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(*layers).double().eval()
    for parameter in model.parameters():
        parameter.data = 0.4 * torch.randn(
            parameter.shape, generator=generator, dtype=torch.float64
        )
    return model


def strided():
    return seeded(
        nn.Conv2d(1, 3, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 4, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


def residual():
    field = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    return seeded(
        nn.PixelUnshuffle(2),
        EulerStep(field, step_size=0.5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 4),
    )


def hamiltonian():
    step = HamiltonianStep(4, 4, step_size=0.5, symmetric=True)
    return seeded(nn.PixelUnshuffle(2), step, nn.Flatten(), nn.Linear(64, 4))


def linear():
    return seeded(nn.Flatten(), nn.Linear(64, 4))


def rescaled():
    return seeded(nn.Flatten(), UnitRowLinear(64, 8), nn.Tanh(), nn.Linear(8, 4))


MODELS = [strided, residual, hamiltonian, linear, rescaled]


def images(n=6, seed=0):
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # As pictures do, some of the inputs lie at the border of [0, 1].
    return x.where(x > 0.3, 0.0), torch.arange(n) % 4


def certified_bounds(model, x, y, threat_model):
    """Return the certifier's upper bounds of F_j - F_y, (batch, classes)."""
    relaxed, ball, n_classes = relaxation_state(model, tuple(x.shape[1:])), Ball(x, threat_model), 4
    example = torch.arange(len(x)).repeat_interleave(n_classes)
    units = torch.eye(n_classes, dtype=torch.float64)
    differences = units[y[example]] - units.repeat(len(x), 1)
    with torch.no_grad():
        bounds = interval_bounds(relaxed, ball)
        least = objective_bounds(
            relaxed.exact, bounds, ball, differences, example, linear_bounds={}
        )
    return -least.value.view(len(x), n_classes)


def sampled_excess(model, x, y, threat_model, worst):
    """Return by how much F_j - F_y at 200 points of each ball exceeds `worst`, at most."""
    generator, most = torch.Generator().manual_seed(1), []
    for k in range(200):
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        noise = noise.sign() if k % 2 else noise
        scale = threat_model.eps * 10 ** (k % 5 / 2 - 1)
        with torch.no_grad():
            logits = model(project(x + scale * noise, x, threat_model))
        most.append(logits - logits.gather(1, y[:, None]) - worst)
    return float(torch.stack(most).max())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", MODELS)
def test_the_bounds_of_training_lie_above_sampled_outputs(make, norm):
    model, (x, y) = make(), images()
    threat_model = ThreatModel(norm, EPS[norm])
    with torch.no_grad():
        worst = worst_logits(trainable_network(model, (1, 8, 8))(), x, y, threat_model)
    assert sampled_excess(model, x, y, threat_model, worst) <= 1e-9
    assert (worst.gather(1, y[:, None]) == 0).all()


def test_bounds_that_drop_the_radius_are_caught(monkeypatch):
    # The negative control: the same samples lie above what is only propagated at the centre.
    def of_a_point(low, high):
        return live_intervals.Interval((low + high) / 2, 0 * (high - low))

    monkeypatch.setattr(live_intervals, "_between", of_a_point)
    model, (x, y) = strided(), images()
    threat_model = ThreatModel("Linf", EPS["Linf"])
    worst = worst_logits(trainable_network(model, (1, 8, 8))(), x, y, threat_model).detach()
    assert sampled_excess(model, x, y, threat_model, worst) > 1e-3
    assert not torch.allclose(worst, certified_bounds(model, x, y, threat_model), rtol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", [strided, rescaled])
def test_the_bounds_of_training_equal_those_of_the_certifier(make, norm):
    model, (x, y) = make(), images()
    threat_model = ThreatModel(norm, EPS[norm])
    with torch.no_grad():
        ours = worst_logits(trainable_network(model, (1, 8, 8))(), x, y, threat_model)
    theirs = certified_bounds(model, x, y, threat_model)
    # The certifier's is wider by its rounding alone.
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", [residual, hamiltonian, linear])
def test_bounds_of_training_are_not_below_the_certifiers(make, norm):
    # Which sees through affine maps that follow one another, and meets ball and box at once.
    model, (x, y) = make(), images()
    threat_model = ThreatModel(norm, EPS[norm])
    with torch.no_grad():
        ours = worst_logits(trainable_network(model, (1, 8, 8))(), x, y, threat_model)
    theirs = certified_bounds(model, x, y, threat_model)
    assert (ours >= theirs - 1e-9).all()
    assert (ours <= theirs + 0.5 * theirs.abs().max()).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", MODELS)
def test_the_gradient_is_that_of_finite_differences(make, norm):
    model, (x, y) = make(), images(2)
    network, threat_model = trainable_network(model, (1, 8, 8)), ThreatModel(norm, EPS[norm])

    def loss():
        return F.cross_entropy(worst_logits(network(), x, y, threat_model), y)

    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(2)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    gradients = torch.autograd.grad(loss(), parameters)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    values, step = [], 1e-6
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(sign * step * direction)
            values.append(loss())
    # Central differences err by the square of the step, and by rounding over it.
    assert float(slope) == pytest.approx(float((values[0] - values[1]) / (2 * step)), rel=1e-4)


def test_a_traced_network_follows_the_weights():
    model, (x, _) = rescaled(), images()
    network = trainable_network(model, (1, 8, 8))
    for parameter in model.parameters():
        parameter.data += 0.1
    assert torch.allclose(network().outputs(x)[-1], model(x))
    # Kept weights would not be followed: nothing of what is frozen elsewhere may leak in.
    with frozen_eval(model):
        model(x)
        stale = trainable_network(model, (1, 8, 8))
    for parameter in model.parameters():
        parameter.data -= 0.1
    assert torch.allclose(stale().outputs(x)[-1], model(x))


def test_radius_and_share_grow_to_what_the_recipe_says():
    settings = CertifiedTraining(norm="Linf", eps=0.1, warm_up_epochs=2, ramp_epochs=4, kappa=0.5)
    assert settings.at(0) == settings.at(2) == (0, 1)
    assert settings.at(4) == pytest.approx((0.05, 0.75))
    assert settings.at(6) == settings.at(9) == pytest.approx((0.1, 0.5))
    assert CertifiedTraining(norm="L2", eps=0.1).at(0) == (0.1, 0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [1.0, 0.5, 0.1])
def test_small_boxes_lie_inside_the_ball(norm, box, monkeypatch):
    model, (x, y) = strided(), images()
    whole, boxes = ThreatModel(norm, EPS[norm]), []

    def loss_of(network, at, y, threat_model):
        boxes.append((at, threat_model))
        return worst_logits(network, at, y, threat_model)

    monkeypatch.setattr(certified_training, "worst_logits", loss_of)
    found = [
        certified_training.certified_loss(
            model,
            trainable_network(model, (1, 8, 8)),
            x,
            y,
            lambda logits: F.cross_entropy(logits, y),
            CertifiedTraining(norm=norm, eps=EPS[norm], box=share),
            torch.Generator().manual_seed(0),
            epochs=1,
        )
        for share in (1.0, box)
    ]
    at, threat_model = boxes[1]
    assert threat_model.eps == box * EPS[norm]
    # Projections leave float32 rounding of the step.
    assert (distance(at, x, norm) + threat_model.eps <= whole.eps * (1 + 1e-6)).all()
    assert bool((at != x).any()) == (box < 1)
    assert (found[1] < found[0]) == (box < 1)


def test_an_unknown_operation_is_named():
    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(x)

    with pytest.raises(InputError, match=r"certified_training.*'sin'"):
        certified_training.trace_for_training(
            seeded(nn.Flatten(), nn.Linear(64, 4), Sine()), (1, 8, 8)
        )


def test_a_weight_that_is_read_as_a_number_is_refused():
    class Frobenius(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight / float(self.weight.norm()), self.bias)

    with pytest.raises(InputError, match="values of its parameters"):
        certified_training.trace_for_training(seeded(nn.Flatten(), Frobenius(64, 4)), (1, 8, 8))


# Whole trainings


@pytest.fixture
def architecture():
    return discover().get("feedforward")


def recipe(tmp_path, *changes):
    text = RECIPE
    for change in changes:
        text = text.replace(*change)
    (tmp_path / "recipe.yaml").write_text(text)
    return recipes.read_recipe(tmp_path / "recipe.yaml")


def certified_accuracy(model, dataset, threat_model):
    data = training.load_dataset(dataset, split="test")
    prepared = Interval().prepared(model, tuple(data.x.shape[1:]))
    with torch.no_grad():
        logits = model(data.x)
    proof = prepared.prove(data.x, logits, data.y, threat_model)
    return float((radii(proof) >= threat_model.eps).double().mean())


def test_certified_training_certifies_more_digits(architecture, tmp_path):
    certified = training.train(recipe(tmp_path), architecture, tmp_path / "a.safetensors")
    section = next(line for line in RECIPE.splitlines() if line.startswith("certified_training"))
    plain = training.train(
        recipe(tmp_path, (section, "")), architecture, tmp_path / "b.safetensors"
    )
    threat_model = ThreatModel("Linf", 16 / 255)
    assert certified_accuracy(certified.model, "digits", threat_model) > 0.5
    assert certified_accuracy(plain.model, "digits", threat_model) < 0.2


@pytest.mark.parametrize("name", ["euler_resnet", "hamiltonian"])
def test_certified_training_certifies_more_of_the_moons_by_flows(name, tmp_path):
    content = {
        "model": name,
        "dataset": "moons",
        "options": {"channels": 16, "depth": 2},
        "certified_training": {"norm": "L2", "eps": 0.06, "ramp_epochs": 5},
        "optimizer": "adam",
        "learning_rate": 0.03,
        "epochs": 10,
        "batch_size": 50,
    }
    plain = {key: value for key, value in content.items() if key != "certified_training"}
    accuracies = []
    for k, one in enumerate((content, plain)):
        trained = training.train(
            recipes.Recipe.model_validate(one),
            discover().get(name),
            tmp_path / f"{k}.safetensors",
        )
        accuracies.append(certified_accuracy(trained.model, "moons", ThreatModel("L2", 0.06)))
    assert accuracies[0] > 0.7
    assert accuracies[1] < 0.5


@pytest.mark.parametrize("stop_at", [30, 100])
def test_a_stopped_certified_training_ends_with_the_same_weights(stop_at, architecture, tmp_path):
    def stop(report):
        if report.step == stop_at:
            raise KeyboardInterrupt

    one = recipe(tmp_path, ("epochs: 10", "epochs: 7"))
    whole = training.train(one, architecture, tmp_path / "whole.safetensors")
    out = tmp_path / "stopped.safetensors"
    with pytest.raises(KeyboardInterrupt):
        training.train(one, architecture, out, progress=stop)
    assert training.train(one, architecture, out).sha256 == whole.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("kappa: 0", "kappa: 1"), "kappa"),
        (("eps: 16/255", "eps: 16"), r"wider than the input range \[0, 1\]"),
        (("eps: 16/255", "eps: wide"), "not a number"),
        (("norm: Linf", "norm: L3"), "certified_training.norm"),
        (("kappa: 0", "box: 0"), "certified_training.box"),
        (("kappa: 0", "n_steps: 3"), "n_steps belongs to a box below 1"),
        (("ramp_epochs", "ramp"), "unknown key 'certified_training.ramp'"),
        (("ramp_epochs: 4", "ramp_epochs: 8"), "less than epochs=10"),
        (("seed: 0", "precision: bfloat16"), "needs precision float32"),
        (("seed: 0", "adversary: {norm: L2, eps: 0.5}"), "certified_training and adversary"),
        (("seed: 0", "augmentation: {noise: 0.1}"), "certified_training and augmentation.noise"),
    ],
)
def test_the_section_of_a_recipe_is_strict(change, message, tmp_path):
    with pytest.raises(InputError, match=message) as raised:
        recipe(tmp_path, ("ramp_epochs: 4", "ramp_epochs: 4, kappa: 0"), change)
    assert "\n" not in str(raised.value)
