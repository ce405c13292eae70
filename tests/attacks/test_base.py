"""What the base class does for each attack: settings, chunks, and the caller's state put back."""

import random
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from oracles.attacks import attack_of
from torch import nn

from robustbench_dyn.attacks import Attack, resolve_attacks
from robustbench_dyn.attacks.wrapping import wrap
from robustbench_dyn.errors import InputError, ShapeError
from robustbench_dyn.models.counting import CountingModel
from robustbench_dyn.threat_models import ThreatModel

# One for each call of a library, with small budgets, and one native attack.
CALLS = [
    ("fgsm", "Linf"),
    ("pgd", "Linf"),
    ("pgd", "L2"),
    ("cw:n_steps=50", "L2"),
    ("deepfool", "L2"),
    ("aa-apgd-ce", "L1"),
    ("aa-apgd-t", "Linf"),
    ("aa-fab:n_iterations=10,n_restarts=2", "Linf"),
    ("aa-fab-t:n_iterations=10,n_targets=2", "L2"),
    ("aa-square:n_queries=1000", "Linf"),
    ("apgd-ce", "Linf"),
]
WIDE = {"Linf": 0.3, "L2": 1.0, "L1": 4.0}  # large enough that every search ends soon


class Net(nn.Module):
    def __init__(self, n_classes=10):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.body = nn.Sequential(
                nn.Conv2d(1, 4, 3),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Dropout(),
                nn.Flatten(),
                nn.Linear(64, n_classes),
            )
        self.eval()

    def forward(self, x):
        return self.body(x)


def images(model, n=10, seed=3):
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


def run(attack, model, x, y, threat_model, *, seed=0, batch_size=8, n_classes=10):
    (attack,) = resolve_attacks(attack, threat_model.norm, n_classes)
    return attack.search(
        model, x, y, threat_model, seed=seed, batch_size=batch_size, n_classes=n_classes
    )


# Settings


@dataclass(frozen=True, kw_only=True)
class Search(Attack):
    name = "search"

    n_steps: int = 5
    rate: float = 0.5
    greedy: bool = False
    start: str = "x"
    alpha: float | None = None

    def perturb(self, problem):
        return problem.x


def test_settings_are_the_fields_without_the_schedule():
    defaults = {"n_steps": 5, "rate": 0.5, "greedy": False, "start": "x", "alpha": None}
    assert Search().settings() == defaults
    assert Search(only_on_signs=True, n_steps=6).settings() == defaults | {"n_steps": 6}
    assert Search(rate=1, alpha=2.0).settings() == defaults | {"rate": 1, "alpha": 2.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "n_steps=0 is below 1"),
        ({"n_steps": None}, "n_steps=None is not a whole number"),
        ({"n_steps": 1.5}, "n_steps=1.5 is not a whole number"),
        ({"n_steps": True}, "n_steps=True is not a whole number"),
        ({"rate": "fast"}, "rate='fast' is not a number"),
        ({"rate": float("nan")}, "rate=nan is not finite"),
        ({"greedy": 1}, "greedy=1 is not true or false"),
        ({"start": 3}, "start=3 is not a word"),
        ({"alpha": (1, 2)}, r"alpha=\(1, 2\) is not a number, true, false or a word"),
    ],
)
def test_settings_of_another_kind_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Search(**settings)


@pytest.mark.parametrize("name", ["", "with, comma", "a:b"])
def test_names_that_cannot_be_given_are_refused(name):
    with pytest.raises(InputError, match="give it a class variable `name`"):
        attack_of(lambda problem: problem.x, name=name)


def test_settings_of_a_class_that_is_no_dataclass_are_refused():
    class Forgotten(Search):
        name = "forgotten"
        n_rounds: int = 3

    with pytest.raises(InputError, match="setting 'n_rounds' of attack Forgotten is no field"):
        Forgotten()


# Chunks


def test_search_runs_in_chunks_of_batch_size():
    sizes = []

    def perturb(problem):
        sizes.append(len(problem.x))
        return problem.x

    x, y = images(Net(), n=7)
    for itself, expected in ((False, [3, 3, 1]), (True, [7])):
        sizes.clear()
        attack = attack_of(perturb, batches_itself=itself)
        assert torch.equal(run(attack, Net(), x, y, ThreatModel("L2", 1.0), batch_size=3), x)
        assert sizes == expected


def test_class_radii_are_given_row_by_row():
    seen = []

    def perturb(problem):
        seen.append(problem.class_radii)
        assert torch.equal(problem.open_classes, problem.class_radii < 0.5)
        return problem.x

    x, y = images(Net(3), n=4)
    radii = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    attack_of(perturb).search(
        Net(3),
        x,
        y,
        ThreatModel("L2", 0.5),
        seed=0,
        batch_size=3,
        n_classes=3,
        class_radii=radii,
    )
    assert [len(part) for part in seen] == [3, 1]
    assert torch.equal(torch.cat(seen), radii.scatter(1, y[:, None], torch.inf))


def test_missing_candidates_are_refused():
    x, y = images(Net(), n=4)
    attack = attack_of(lambda problem: problem.x[:1])
    with pytest.raises(ShapeError, match=r"'made-up' returned candidates of shape \(2, 1, 6, 6\)"):
        run(attack, Net(), x, y, ThreatModel("L2", 0.5), batch_size=2)


def test_mismatched_labels_and_batch_sizes_are_refused():
    x, y = images(Net())
    with pytest.raises(ShapeError, match="10 examples"):
        run("pgd", Net(), x, y[:4], ThreatModel("Linf", 0.1))
    with pytest.raises(InputError, match="batch_size=0"):
        run("pgd", Net(), x, y, ThreatModel("Linf", 0.1), batch_size=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_examples_give_no_candidates(dtype):
    x, y = images(Net(), n=1)
    found = run("pgd", Net().to(dtype), x[:0].to(dtype), y[:0], ThreatModel("Linf", 0.1))
    assert found.shape == (0, 1, 6, 6)
    assert found.dtype is dtype


# The caller's state


@pytest.mark.parametrize(("name", "norm"), CALLS)
def test_search_leaves_the_callers_state_alone(name, norm):
    from pyautoattack.checks import funcs  # noqa: PLC0415

    model = Net()
    model.train()
    model.body[1].eval()
    model.body[0].bias.requires_grad_(False)
    model.body[0].weight.grad = torch.ones_like(model.body[0].weight)
    x, y = images(Net())
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    kept_x, counted = x.clone(), dict(funcs)

    def streams():
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002

    def trace(frame, event, arg):
        return None

    before, outer = streams(), sys.gettrace()
    sys.settrace(trace)
    try:
        run(name, model, x, y, ThreatModel(norm, WIDE[norm]))
        kept_trace = sys.gettrace()
    finally:
        sys.settrace(outer)
    assert kept_trace is trace
    assert funcs == counted
    assert streams() == before
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model.body[0].weight.grad, torch.ones_like(model.body[0].weight))
    assert model.body[5].weight.grad is None
    assert torch.equal(x, kept_x)


def test_state_is_put_back_after_a_failure():
    class Broken(Net):
        def forward(self, x):
            raise ValueError("out of order")

    model = Broken()
    model.train()
    x, y = images(Net(), n=2)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="out of order"):
        run("pgd", model, x, y, ThreatModel("Linf", 0.1))
    assert model.training
    assert model.body.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "norm"), CALLS)
def test_search_is_fixed_by_its_arguments(name, norm):
    model = Net()
    x, y = images(model)
    threat_model = ThreatModel(norm, WIDE[norm])
    first = run(name, model, x, y, threat_model, seed=5, batch_size=4)
    torch.rand(3), np.random.rand(3)  # noqa: NPY002
    assert torch.equal(first, run(name, model, x, y, threat_model, seed=5, batch_size=4))
    # Chunks are independent of one another, and in native attacks examples, up to rounding.
    alone = run(name, model, x[:4], y[:4], threat_model, seed=5)
    torch.testing.assert_close(first[:4], alone, rtol=0, atol=1e-5)


def test_another_seed_gives_other_candidates():
    model = Net()
    x, y = images(model)
    threat_model = ThreatModel("Linf", 0.02)
    first, second = (run("pgd", model, x, y, threat_model, seed=seed) for seed in (1, 2))
    assert not torch.equal(first, second)


# Awkward models


class GradientFlow(nn.Module):
    """A network that differentiates an energy in its forward, and so fails under no_grad."""

    def __init__(self):
        super().__init__()
        self.head = Net()

    def forward(self, x):
        energy = (x - 0.5).square().sum() / 2 + self.head.body[0](x).tanh().sum() / 50
        (gradient,) = torch.autograd.grad(energy, x, create_graph=True)
        return self.head(x - 0.1 * gradient)


class Bare(nn.Module):
    """Without parameters; its logits are a view of its input, which it also writes into."""

    def forward(self, x):
        x -= 0.5
        return x.flatten(1)[:, :10]


class Permuting(Net):
    """Its input gradient is not contiguous."""

    def forward(self, x):
        return self.body(x.transpose(2, 3).flip(2))


def share_fooled(model, name, norm):
    x = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(4))
    y = model(x.clone().requires_grad_() * 1).argmax(dim=1)
    x_adv = run(name, model, x, y, ThreatModel(norm, WIDE[norm]))
    assert x_adv.dtype is x.dtype
    return (model(x_adv.clone().requires_grad_() * 1).argmax(dim=1) != y).float().mean()


@pytest.mark.parametrize(("name", "norm"), [*CALLS, ("square", "Linf"), ("fab-t", "L1")])
def test_networks_that_differentiate_in_their_forward_are_fooled(name, norm):
    assert share_fooled(GradientFlow(), name, norm) >= 0.5


@pytest.mark.parametrize(("name", "norm"), [("aa-square", "Linf"), CALLS[7], ("pgd", "L2")])
@pytest.mark.parametrize("kind", [Bare, Permuting])
def test_awkward_models_are_fooled(kind, name, norm):
    assert share_fooled(kind(), name, norm) >= 0.5


@pytest.mark.parametrize("guard", [torch.no_grad, torch.enable_grad])
def test_a_wrapped_network_has_the_graph_that_it_needs(guard):
    model = GradientFlow().requires_grad_(False)
    x, _ = images(Net(), n=3)
    with guard():
        logits = wrap(model, x, 10)(x)
    assert not logits.requires_grad
    assert torch.equal(logits, model(x.clone().requires_grad_()).detach())


def test_a_pass_that_fails_without_a_graph_draws_no_random_numbers():
    class Random(GradientFlow):
        def forward(self, x):
            return super().forward(x + 0.1 * torch.randn_like(x))

    model = CountingModel(Random())
    x, y = images(Net(), n=4)
    first, second = (
        run("apgd-t", model, x, y, ThreatModel("Linf", 0.05), seed=2) for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter(guard):
    model = GradientFlow()
    x, _ = images(Net(), n=4)
    y = torch.zeros(4, dtype=torch.int64)
    with guard():
        found = run("pgd", model, x.clone(), y, ThreatModel("Linf", 0.3))
    assert torch.equal(found, run("pgd", model, x, y, ThreatModel("Linf", 0.3)))


NATIVE = [
    ("apgd-t", "L2"),
    ("fab-t", "L1"),
    ("square", "L2"),
    ("hop-skip-jump", "L2"),
    ("rays", "Linf"),
]


@pytest.mark.parametrize(("name", "norm"), [*CALLS, *NATIVE])
def test_nan_logits_do_not_crash(name, norm):
    class Undefined(Net):
        def forward(self, x):
            return super().forward(x) * torch.nan

    x, _ = images(Net(), n=1)
    x = x.double()
    x_adv = run(name, Undefined().double(), x, torch.zeros(1).long(), ThreatModel(norm, WIDE[norm]))
    assert x_adv.shape == x.shape
    assert x_adv.dtype is x.dtype
