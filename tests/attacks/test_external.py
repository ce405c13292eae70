"""Attacks of torchattacks and pyautoattack: their options, and equality with AutoAttack's run."""

import importlib
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from robustbench_dyn.attacks import ATTACKS, resolve_attacks
from robustbench_dyn.threat_models import ThreatModel

# The class that each attack makes, and what the library calls its settings.
LIBRARY = {
    ("pgd", "Linf"): "torchattacks:PGD",
    ("pgd", "L2"): "torchattacks:PGDL2",
    ("cw", "L2"): "torchattacks:CW",
    ("deepfool", "L2"): "torchattacks:DeepFool",
    ("aa-apgd-ce", "L1"): "pyautoattack.autopgd_base:APGDAttack",
    ("aa-apgd-dlr", "L1"): "pyautoattack.autopgd_base:APGDAttack",
    ("aa-apgd-t", "L1"): "pyautoattack.autopgd_base:APGDAttack_targeted",
    ("aa-fab", "L2"): "pyautoattack.fab_pt:FABAttack_PT",
    ("aa-fab-t", "L2"): "pyautoattack.fab_pt:FABAttack_PT",
    ("aa-square", "Linf"): "pyautoattack.square:SquareAttack",
}
RENAMED = {
    "torchattacks": {"n_steps": "steps"},
    "pyautoattack": {"n_iterations": "n_iter", "n_targets": "n_target_classes"},
}


class OptionsSeen(Exception):  # noqa: N818
    """Carries what a library's class was given."""


def options_of(attack, norm, monkeypatch):
    """Return the options that an attack gives to its library."""
    module, kind = LIBRARY[attack.name, norm].split(":")

    def record(self, _model, **options):
        raise OptionsSeen(options)

    monkeypatch.setattr(getattr(importlib.import_module(module), kind), "__init__", record)
    x, y = torch.full((2, 1, 6, 6), 0.5), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(OptionsSeen) as seen:
        attack.search(Net(), x, y, ThreatModel(norm, 0.1), seed=7, batch_size=2, n_classes=10)
    return seen.value.args[0]


@pytest.mark.parametrize(("name", "norm"), list(LIBRARY))
def test_settings_are_the_librarys_options(name, norm, monkeypatch):
    kind = ATTACKS.get(name)
    defaults = kind().settings()
    for setting, default in defaults.items():
        if setting == "n_constants":
            continue
        changes = {bool: lambda d: not d, int: lambda d: d + 3, float: lambda d: d / 2 + 0.003}
        value = 0.02 if default is None else changes[type(default)](default)
        # There are nine classes besides the label's.
        value = 4 if setting == "n_targets" else value
        option = RENAMED[kind.library].get(setting, setting)
        assert options_of(kind(**{setting: value}), norm, monkeypatch)[option] == value
        assert options_of(kind(), norm, monkeypatch)[option] != value


def test_eps_norm_and_seed_reach_the_library(monkeypatch):
    options = options_of(ATTACKS.create("aa-apgd-ce"), "L1", monkeypatch)
    assert (options["eps"], options["norm"], options["seed"]) == (0.1, "L1", 7)
    assert options_of(ATTACKS.create("pgd"), "L2", monkeypatch)["alpha"] == 2.5 * 0.1 / 20


def test_cw_tries_constants_that_grow_tenfold(monkeypatch):
    tried = []

    class Spy:
        def __init__(self, _model, *, c, **_options):
            tried.append(c)

        def __call__(self, x, _y):
            return x

    monkeypatch.setattr("torchattacks.CW", Spy)
    x, y = images(Net(), n=2)
    for attack in (ATTACKS.create("cw"), ATTACKS.create("cw", {"n_constants": 2, "c": 0.5})):
        attack.search(Net(), x, y, ThreatModel("L2", 0.1), seed=0, batch_size=2, n_classes=10)
    assert tried == [0.1, 1.0, 10.0, 100.0, 0.5, 5.0]


def test_large_radii_are_refused_outside_of_l1():
    attack = ATTACKS.create("aa-apgd-ce", {"use_largereps": True})
    x, y = images(Net(), n=2)
    with pytest.raises(ValueError, match="use_largereps is for L1, not L2"):
        attack.search(Net(), x, y, ThreatModel("L2", 0.1), seed=0, batch_size=2, n_classes=10)


# Equality with AutoAttack


class Net(nn.Module):
    def __init__(self, n_classes=10):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.body = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, n_classes)
            )

    def forward(self, x):
        return self.body(x)


def images(model, n, seed=3):
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return x, model(x).argmax(dim=1)


def survivors(chain, model, x, y, threat_model, *, seed, batch_size):
    """Run attacks in order, each on what is not yet broken."""
    robust, x_adv = torch.ones(len(x), dtype=torch.bool), x.clone()
    for attack in chain:
        if not robust.any():
            break
        rows = robust.nonzero().squeeze(1)
        found = attack.search(
            model, x[rows], y[rows], threat_model, seed=seed, batch_size=batch_size, n_classes=5
        )
        with torch.no_grad():
            # In the library's own batches: another batch size can round another way.
            fooled = torch.cat([model(part).argmax(dim=1) for part in found.split(batch_size)])
        fooled = fooled != y[rows]
        x_adv[rows[fooled]] = found[fooled]
        robust[rows[fooled]] = False
    return robust, x_adv


SHORT = {"n_iter": 12, "n_queries": 50}
BUDGETS = {"n_iter": "n_iterations", "n_queries": "n_queries"}


def shortened(kind, budgets):
    """Return a maker of one of AutoAttack's members that has fewer iterations than it is given."""

    def make(*args, **options):
        (budget,) = BUDGETS.keys() & options.keys()
        budgets.add((budget, options[budget]))
        return kind(*args, **options | {budget: SHORT[budget]})

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "norm", "eps"),
    [
        ("autoattack", "Linf", 0.135),
        ("autoattack", "L2", 0.57),
        ("autoattack", "L1", 1.5),
        ("plus", "Linf", 0.135),
    ],
)
def test_suites_equal_autoattacks_own_run(version, norm, eps, monkeypatch):
    from pyautoattack import AutoAttack, autoattack  # noqa: PLC0415

    monkeypatch.setattr("pyautoattack.checks.check_dynamic", lambda *_, **__: None)
    budgets = set()
    for kind in ("APGDAttack", "APGDAttack_targeted", "FABAttack_PT", "SquareAttack"):
        monkeypatch.setattr(autoattack, kind, shortened(getattr(autoattack, kind), budgets))
    model = Net(n_classes=5)
    x, y = images(model, n=5)
    their_name = version.replace("autoattack", "standard")
    theirs = AutoAttack(model, norm=norm, eps=eps, seed=7, version=their_name)
    chain = [attack for attack in resolve_attacks(version, norm, 5) if not attack.only_on_signs]
    assert [attack.name for attack in chain] == [f"aa-{name}" for name in theirs.attacks_to_run]
    for budget, value in budgets:
        ours = BUDGETS[budget]
        assert all(getattr(attack, ours, value) == value for attack in chain)
        chain = [
            replace(attack, **{ours: SHORT[budget]}) if hasattr(attack, ours) else attack
            for attack in chain
        ]
    # Its version sets them anew; AutoAttack's own loop would ask for more targets than there are.
    theirs.square.n_queries = SHORT["n_queries"]
    theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = 4
    with torch.random.fork_rng():
        expected, _ = theirs.run_standard_evaluation(x, y, batch_size=3)
    robust, x_adv = survivors(chain, model, x, y, ThreatModel(norm, eps), seed=7, batch_size=3)
    broken = model(expected).argmax(dim=1) != y
    assert 0 < broken.sum() < len(x), "the comparison needs both outcomes"
    assert torch.equal(~robust, broken)
    assert torch.equal(x_adv, expected)


def test_torchattacks_is_imported_without_what_it_does_not_need_here():
    program = (
        "import sys, torch\n"
        "from robustbench_dyn.attacks.external import torchattacks\n"
        "assert torchattacks._library() is sys.modules['torchattacks']\n"
        "assert 'scipy.stats.distributions' not in sys.modules, 'it takes half a second'\n"
        "from scipy.stats import binomtest\n"
        "print(binomtest(3, 10).pvalue)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "0.34375\n"
