"""Attacks against oracles: linear classifiers, whose distances are known, and AutoAttack itself."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_dyn import attacks
from robustbench_dyn.attacks.base import Attack, searching
from robustbench_dyn.attacks.catalogue import (
    attack_info,
    attack_names,
    resolve_attacks,
    suite_names,
)
from robustbench_dyn.attacks.external import autoattack as members_of
from robustbench_dyn.attacks.native import apgd
from robustbench_dyn.errors import InputError, ShapeError
from robustbench_dyn.threat_models import NORMS, ThreatModel, distance, project

DUAL = {"Linf": 1, "L2": 2, "L1": torch.inf}
PAIRS = [(name, norm) for name in attack_names() for norm in NORMS
         if norm in attack_info(name).norms and not attack_info(name).on_surrogates]  # fmt: skip


class Linear(nn.Module):
    """Logits W x + b, in x's dtype, with distances small enough that [0, 1] does not matter."""

    def __init__(self, n_classes, shape=(1, 4, 4), offset=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(n_classes)
        d = int(np.prod(shape))
        self.weight = nn.Parameter(torch.randn(n_classes, d, generator=generator).double())
        # Class 1 is class 0's one near rival: cross-entropy alone follows a mixture of rivals.
        lead = torch.tensor([1.0, 0.0] + [-8.0] * (n_classes - 2))
        self.bias = nn.Parameter(offset + lead - self.weight.detach().sum(dim=1) / 2)

    def forward(self, x):
        return x.flatten(1) @ self.weight.to(x.dtype).T + self.bias.to(x.dtype)


def problem(model, n=4, shape=(1, 4, 4), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.06 * (torch.rand(n, *shape, generator=generator).to(dtype) - 0.5)
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


def exact_distance(model, x, y, norm):
    """Return the distance to the nearest decision boundary, |margin| / dual norm of the weight."""
    with torch.no_grad():
        logits, rows = model(x), torch.arange(len(x))
        margins = logits[rows, y].unsqueeze(1) - logits
        weights = model.weight[y].unsqueeze(1) - model.weight
        distances = margins / weights.norm(p=DUAL[norm], dim=2)
        distances[rows, y] = torch.inf
        return distances.amin(dim=1)


def rejection(search, norm, n_classes, *, scale=1.3, shape=(1, 4, 4), offset=0.0):
    """Say what is wrong with a search on a linear classifier, example by example; "" if nothing."""
    model = Linear(n_classes, shape, offset)
    x, y = problem(model, shape=shape)
    exact = exact_distance(model, x, y, norm)
    for i in range(len(x)):
        eps = scale * float(exact[i])
        threat_model = ThreatModel(norm, eps)
        candidates = search(model, x[i : i + 1], y[i : i + 1], threat_model,
                            seed=0, batch_size=8, n_classes=n_classes)  # fmt: skip
        x_adv = project(candidates, x[i : i + 1], threat_model)
        with torch.no_grad():
            raw_fools = bool(model(candidates).argmax(dim=1) != y[i])
            fools = bool(model(x_adv).argmax(dim=1) != y[i])
        # Float64 rounds the margin of a point beyond the boundary by a few 1e-16 of its terms.
        closest = float(exact[i]) * (1 - 1e-9)
        if raw_fools and float(distance(candidates, x[i : i + 1], norm)) < closest:
            return f"example {i} is fooled nearer than its exact distance"
        if not fools:
            return f"example {i} is not fooled at {scale} times its exact distance"
    return ""


def run(attack, model, x, y, threat_model, *, seed=0, batch_size=8, n_classes=10):
    if isinstance(attack, str):
        attack = attack_info(attack)
    return attack.search(model, x, y, threat_model,
                         seed=seed, batch_size=batch_size, n_classes=n_classes)  # fmt: skip


@pytest.mark.parametrize(("name", "norm"), PAIRS)
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_attack_fools_a_linear_classifier_soon_after_its_exact_distance(name, norm, n_classes):
    attack = attack_info(name)
    if n_classes < attack.min_classes:
        with pytest.raises(InputError, match=f"needs {attack.min_classes} classes"):
            resolve_attacks(name, norm, n_classes)
        return
    # One step in one direction, or a random search in a ball whose volume is mostly on its axes.
    scale = {"fgsm": 2.0, "square": 3.0, "aa-square": 3.0, "square-long": 3.0}.get(name, 1.3)
    assert rejection(attack.search, norm, n_classes, scale=scale) == ""


@pytest.mark.parametrize("norm", NORMS)
def test_an_attack_that_does_nothing_is_rejected(norm):
    assert "not fooled" in rejection(lambda model, x, y, threat_model, **_: x, norm, 3)


def test_a_fooling_point_nearer_than_the_exact_distance_is_rejected():
    def cheat(model, x, y, threat_model, **_):
        model.weight.data, model.bias.data = model.weight.data.roll(1, 0), model.bias.data.roll(1)
        return x + 1e-12

    assert "nearer" in rejection(cheat, "L2", 3)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_breaks_everything_just_outside_the_exact_distance(norm):
    assert rejection(attack_info("pgd").search, norm, 10, scale=1.1) == ""


def test_minimum_norm_attacks_come_near_the_optimum():
    model = Linear(3)
    x, y = problem(model)
    exact = exact_distance(model, x, y, "L2")
    # DeepFool overshoots by 2 %; CW stops at 100 steps of one of four constants.
    for name, slack in (("deepfool", 1.03), ("cw", 1.3)):
        x_adv = run(name, model, x, y, ThreatModel("L2", 0.01), n_classes=3)
        assert (model(x_adv).argmax(dim=1) != y).all()
        assert (distance(x_adv, x, "L2") <= slack * exact).all()


def test_cw_is_not_blinded_by_negative_logits_or_by_pixels_at_the_ends():
    # torchattacks alone takes max(0 * logit, ...), and its arctanh is infinite at 0 and 1.
    assert rejection(attack_info("cw").search, "L2", 3, offset=-100.0) == ""
    model = Linear(2)
    model.bias.data.zero_()
    model.weight.data = torch.stack([-torch.ones(16), torch.ones(16)]).double()
    model.bias.data[0] = 0.3
    x, y = torch.zeros(1, 1, 4, 4).double(), torch.tensor([0])
    x_adv = run("cw", model, x, y, ThreatModel("L2", 1.0), n_classes=2)
    assert model(x_adv).argmax(dim=1) == 1


@pytest.mark.parametrize(("name", "norm"), PAIRS)
@pytest.mark.parametrize("shape", [(16,), (4, 4), (3, 4, 6)])
def test_inputs_of_any_shape_can_be_attacked(name, norm, shape):
    scale = 4.0 if name in {"square", "square-long", "aa-square", "fgsm"} else 1.5
    assert rejection(attack_info(name).search, norm, 4, scale=scale, shape=shape) == ""


# The equality with AutoAttack


class Net(nn.Module):
    def __init__(self, n_classes=10):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.body = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(),
                nn.Linear(64, n_classes),
            )  # fmt: skip
        self.eval()

    def forward(self, x):
        return self.body(x)


def images(model, n=10, seed=3):
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


def survivors(chain, model, x, y, threat_model, *, seed, batch_size):
    """Run the members in order, each on what is not yet broken, as the harness does."""
    alive, x_adv = torch.ones(len(x), dtype=torch.bool), x.clone()
    for attack in chain:
        if not alive.any():
            break
        rows = alive.nonzero().squeeze(1)
        found = run(attack, model, x[rows], y[rows], threat_model,
                    seed=seed, batch_size=batch_size)  # fmt: skip
        with torch.no_grad():
            # In the library's own batches: another batch size can round another way.
            fooled = torch.cat([model(part).argmax(dim=1) for part in found.split(batch_size)])
        fooled = fooled != y[rows]
        x_adv[rows[fooled]] = found[fooled]
        alive[rows[fooled]] = False
    return alive, x_adv


@pytest.mark.parametrize(
    ("version", "norm", "eps"),
    [("autoattack", "Linf", 0.025), ("autoattack", "L2", 0.08), ("autoattack", "L1", 0.25),
     ("plus", "Linf", 0.025)],
)  # fmt: skip
def test_suite_equals_pyautoattacks_own_run(version, norm, eps, monkeypatch):
    from pyautoattack import AutoAttack  # noqa: PLC0415

    monkeypatch.setattr("pyautoattack.checks.check_dynamic", lambda *_, **__: None)
    model = Net()
    x, y = images(model, n=6)
    chain = [attack for attack in resolve_attacks(version, norm, 10) if not attack.only_on_signs]
    their_name = version.replace("autoattack", "standard")
    theirs = AutoAttack(model, norm=norm, eps=eps, seed=7, version=their_name)
    assert [attack.name for attack in chain] == [f"aa-{name}" for name in theirs.attacks_to_run]
    # Square's 5,000 queries for each survivor would take a minute; both sides get 100.
    theirs.square.n_queries = 100
    monkeypatch.setattr(
        "pyautoattack.square.SquareAttack.__init__",
        partial_queries(members_square_init(), 100),
    )
    with torch.random.fork_rng():
        expected, _ = theirs.run_standard_evaluation(x, y, batch_size=4)
    alive, x_adv = survivors(chain, model, x, y, ThreatModel(norm, eps), seed=7, batch_size=4)
    broken = model(expected).argmax(dim=1) != y
    assert 0 < broken.sum() < len(x), "the comparison needs both outcomes"
    assert torch.equal(~alive, broken)
    assert torch.equal(x_adv, expected)


def members_square_init():
    from pyautoattack.square import SquareAttack  # noqa: PLC0415

    return SquareAttack.__init__


def partial_queries(init, n_queries):
    def patched(self, *args, **kwargs):
        assert kwargs["n_queries"] == 5000
        init(self, *args, **kwargs | {"n_queries": n_queries})

    return patched


# The adapters' traps


QUICK = [("fgsm", "Linf"), ("pgd", "Linf"), ("pgd", "L2"), ("cw", "L2"), ("deepfool", "L2"),
         ("apgd-ce", "Linf"), ("apgd-dlr", "L2"), ("apgd-t", "L2"), ("fab-t", "L1"),
         ("square", "Linf"), ("square", "L2"), ("hop-skip-jump", "L2"), ("rays", "Linf"),
         ("aa-apgd-ce", "L1"), ("aa-apgd-dlr", "L2"), ("aa-apgd-t", "Linf"),
         ("aa-fab", "Linf"), ("aa-fab-t", "L2"),
         ("aa-square", "Linf")]  # fmt: skip
WIDE = {"Linf": 0.3, "L2": 1.0, "L1": 4.0}  # large enough that every search ends soon


@pytest.mark.parametrize(("name", "norm"), QUICK)
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
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="out of order"):
        run("pgd", model, torch.rand(2, 1, 6, 6, generator=torch.Generator()),
            torch.zeros(2).long(), ThreatModel("Linf", 0.1))  # fmt: skip
    assert model.training
    assert model.body.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "norm"), QUICK)
def test_search_is_fixed_by_its_arguments(name, norm):
    model = Net()
    x, y = images(model)
    threat_model = ThreatModel(norm, WIDE[norm])
    first = run(name, model, x, y, threat_model, seed=5, batch_size=4)
    torch.rand(3), np.random.rand(3)  # noqa: NPY002
    assert torch.equal(first, run(name, model, x, y, threat_model, seed=5, batch_size=4))
    # Chunks are independent of one another, and in our own attacks examples, up to rounding.
    alone = run(name, model, x[:4], y[:4], threat_model, seed=5)
    torch.testing.assert_close(first[:4], alone, rtol=0, atol=1e-5)


def test_another_seed_gives_other_candidates():
    model = Net()
    x, y = images(model)
    threat_model = ThreatModel("Linf", 0.02)
    first, second = (run("pgd", model, x, y, threat_model, seed=seed) for seed in (1, 2))
    assert not torch.equal(first, second)


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


@pytest.mark.parametrize(("name", "norm"), QUICK)
@pytest.mark.parametrize("kind", [GradientFlow, Bare, Permuting])
def test_awkward_models_are_fooled(kind, name, norm):
    model = kind()
    x = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(4))
    y = model(x.clone().requires_grad_() * 1).argmax(dim=1)
    for guard in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with guard:
            x_adv = run(name, model, x, y, ThreatModel(norm, WIDE[norm]))
        fooled = model(x_adv.clone().requires_grad_() * 1).argmax(dim=1) != y
        assert fooled.float().mean() >= 0.5


@pytest.mark.parametrize(("name", "norm"), QUICK)
def test_nan_logits_do_not_crash(name, norm):
    class Undefined(Net):
        def forward(self, x):
            return super().forward(x) * torch.nan

    x, _ = images(Net(), n=3)
    x_adv = run(name, Undefined(), x, torch.zeros(3).long(), ThreatModel(norm, WIDE[norm]))
    assert x_adv.shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "norm"), QUICK)
def test_batches_of_none_and_of_one_keep_shape_and_dtype(name, norm, dtype):
    model = Net().to(dtype)
    x, y = images(Net(), n=1)
    for n in (0, 1):
        x_adv = run(name, model, x[:n].to(dtype), y[:n], ThreatModel(norm, WIDE[norm]))
        assert x_adv.shape == (n, 1, 6, 6)
        assert x_adv.dtype is dtype


def test_search_runs_in_chunks_of_batch_size():
    sizes = []

    def perturb(chunk):
        sizes.append(len(chunk.x))
        return chunk.x

    attack = Attack("none", frozenset(NORMS), "", "", 2, searching(perturb))
    x, y = images(Net(), n=7)
    assert torch.equal(run(attack, Net(), x, y, ThreatModel("L2", 1.0), batch_size=3), x)
    assert sizes == [3, 3, 1]


def test_mismatched_labels_and_batch_sizes_are_refused():
    x, y = images(Net())
    with pytest.raises(ShapeError, match="10 examples"):
        run("pgd", Net(), x, y[:4], ThreatModel("Linf", 0.1))
    with pytest.raises(InputError, match="batch_size=0"):
        run("pgd", Net(), x, y, ThreatModel("Linf", 0.1), batch_size=0)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("suite", ["standard", "autoattack", "plus"])
def test_suites_never_ask_for_more_targets_than_there_are(suite, n_classes):
    model = Linear(n_classes)
    x, y = problem(model)
    for attack in resolve_attacks(suite, "Linf", n_classes):
        x_adv = run(attack, model, x, y, ThreatModel("Linf", 0.5), n_classes=n_classes)
        assert (model(x_adv).argmax(dim=1) != y).all(), attack.name


# Names and suites


def names(spec, norm="Linf", n_classes=10):
    attacks = resolve_attacks(spec, norm, n_classes)
    return [attack.name for attack in attacks if not attack.only_on_signs]


def test_names_and_suites_resolve_in_order():
    assert suite_names() == ("standard", "autoattack", "plus", "rand", "none")
    assert names("standard") == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert names("autoattack") == ["aa-apgd-ce", "aa-apgd-t", "aa-fab-t", "aa-square"]
    assert names("standard", norm="L1") == names("autoattack", norm="L1")
    assert names("none") == []
    assert names(" pgd, square") == names(["pgd", "square"]) == ["pgd", "square"]


def test_suites_end_with_attacks_that_are_run_only_on_signs():
    def on_signs(spec, norm):
        attacks = resolve_attacks(spec, norm, 10)
        flags = [attack.only_on_signs for attack in attacks]
        assert flags == sorted(flags)
        return [attack.name for attack in attacks if attack.only_on_signs]

    for suite in ("standard", "autoattack", "plus"):
        assert on_signs(suite, "Linf") == ["rays", "hop-skip-jump", "square-long"]
        assert on_signs(suite, "L2") == ["hop-skip-jump", "square-long"]
        assert on_signs(suite, "L1") == ["hop-skip-jump"]
    for spec in ("rand", "none", "apgd-ce", "hop-skip-jump,square-long"):
        assert on_signs(spec, "Linf") == []


def test_few_classes_drop_the_undefined_losses_and_restart_apgd(monkeypatch):
    assert names("standard", n_classes=3) == ["apgd-ce", "apgd-dlr", "fab-t", "square"]
    assert names("standard", n_classes=2) == ["apgd-ce", "fab-t", "square"]
    assert names("autoattack", n_classes=3) == ["aa-apgd-ce", "aa-fab-t", "aa-square"]
    plus = ["aa-apgd-ce", "aa-apgd-dlr", "aa-fab", "aa-square", "aa-fab-t"]
    assert names("plus", n_classes=3) == plus
    restarts = []
    monkeypatch.setattr(
        members_of, "_apgd", lambda problem, *, loss, settings:
        restarts.append(settings.apgd_restarts) or problem.x,
    )  # fmt: skip
    monkeypatch.setattr(
        apgd, "apgd", lambda problem, *, loss, n_restarts: restarts.append(n_restarts) or problem.x
    )
    x, y = problem(Linear(10))
    for suite in ("autoattack", "standard"):
        for n_classes in (3, 10):
            first = resolve_attacks(suite, "Linf", n_classes)[0]
            run(first, Linear(n_classes), x, y, ThreatModel("Linf", 0.1), n_classes=n_classes)
    assert restarts == [5, 1, 5, 1]


@pytest.mark.parametrize(
    ("spec", "norm", "n_classes", "message"),
    [("sqare", "Linf", 10, "did you mean 'square'"), ("apgd-t", "Linf", 3, "needs 4 classes"),
     ("apgd-dlr", "L2", 2, "needs 3 classes"), ("cw", "Linf", 10, "knows L2, not Linf"),
     ("pgd", "L1", 10, "knows L2, Linf, not L1"),
     ("square", "L1", 10, "knows L2, Linf, not L1"), ("pgd,standard", "L2", 10, "is a suite"),
     ("", "L2", 10, "no attack is called ''"), ([], "L2", 10, "'none'"),
     ("standard", "L3", 10, "norm='L3'"), ("standard", "L2", 1, "n_classes=1")],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(spec, norm, n_classes, message):
    with pytest.raises(InputError, match=message):
        resolve_attacks(spec, norm, n_classes)


def test_listing_the_attacks_is_light():
    code = (
        "import sys, robustbench_dyn.attacks.catalogue as a; a.attack_names(); a.suite_names();"
        "a.resolve_attacks('standard', 'L2', 10);"
        "print({'torch', 'numpy', 'torchattacks', 'pyautoattack'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert set(attacks.__all__) <= set(vars(attacks))
