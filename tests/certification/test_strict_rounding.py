"""The allowance for rounding, measured and strict, and what a run tells of it."""

import copy
import json
import math
from types import SimpleNamespace

import pytest
import torch
from oracles import halfspaces, points
from oracles.adversaries import ADVERSARIES
from oracles.command import dynbench
from oracles.refutation import built, predictions
from torch import nn

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.certification.proofs import lipschitz
from robustbench_dyn.certification.rounding.allowance import (
    LayerRounding,
    explained_by_rounding,
    layer_rounding,
    margins_of,
    rounding_allowance,
    surface_points,
)
from robustbench_dyn.certification.rounding.running_error import analyse
from robustbench_dyn.flows import Classifier
from robustbench_dyn.flows.gradient import GradientStep, OrthonormalGradientStep
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import Outcome
from robustbench_dyn.threat_models import NORMS, distance

L2 = ThreatModel("L2", 0.1)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_allowance_is_at_most_the_worst_case():
    margins, usual = numbers(1, 1, 1, 1), numbers(0.1, 0.1, 0.1, 0.1)
    worst_case, observed = numbers(0.5, 0.01, 0.5, 2.0), numbers(0, 0, 0.02, 0)
    # Measured and at least usual; the worst case; 16 times the observed rounding; never.
    expected = numbers(0.1, 0.01, 0.34, math.inf)
    found = rounding_allowance(margins, worst_case, observed, usual, strict=False)
    torch.testing.assert_close(found, expected)
    found = rounding_allowance(margins, worst_case, observed, usual, strict=True)
    torch.testing.assert_close(found, numbers(0.5, 0.01, 0.52, math.inf))


def test_nan_has_an_infinite_allowance():
    nan, one = numbers(math.nan), numbers(1.0)
    for margins, worst_case, observed in (
        (nan, one / 2, 0 * one),
        (one, nan, 0 * one),
        (one, one / 2, nan),
    ):
        assert (
            rounding_allowance(margins, worst_case, observed, 0 * one, strict=False).isinf().all()
        )
    assert explained_by_rounding(numbers(0.2, 0.5, math.nan), numbers(0.3, 0.3, 0.3)).tolist() == [
        0.2,
        math.inf,
        math.inf,
    ]


@pytest.mark.parametrize("norm", NORMS)
def test_surface_points_lie_in_their_balls(norm):
    torch.manual_seed(0)
    x, radius = torch.rand(5, 1, 3, 3).double(), torch.linspace(0.05, 0.4, 5).double()
    found = surface_points(x, radius, norm)
    assert ((found >= 0) & (found <= 1)).all()
    assert (distance(found, x, norm) <= radius * (1 + 1e-9)).all()
    assert (distance(found, x, norm) > radius / 3).all()
    assert torch.equal(surface_points(x[3:], radius[3:], norm), found[3:])


def deep(n_layers):
    """Return a network of many rotations, whose worst case is far above the observed rounding."""
    torch.manual_seed(0)
    layers = [nn.Linear(16, 16, bias=False) for _ in range(n_layers)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight)
    head = nn.Linear(16, 2)
    return Classifier(nn.Sequential(nn.Flatten(), *layers), head).eval()


@pytest.mark.parametrize(
    ("name", "n_layers"), [("lipschitz", 30), ("interval", 6), ("linear_relaxation", 6)]
)
def test_strict_radii_are_at_most_the_measured_ones(name, n_layers):
    # So far from the borders of [0, 1] that the nearest points of the plane lie inside.
    model, x = deep(n_layers), 0.4 + 0.2 * torch.rand(20, 1, 4, 4)
    with frozen_eval(model), torch.no_grad():
        logits = model(x)
        y = logits.argmax(dim=1)
        exact = model.double()(x.double())
        model.float()
        weight = model.head.weight.double()
        margin = exact.gather(1, y[:, None])[:, 0] - exact.gather(1, 1 - y[:, None])[:, 0]
        distances = margin / (weight[0] - weight[1]).norm()
        found = []
        for strict in (False, True):
            (prepared,) = resolve_certifiers(name, model, (1, 4, 4), "L2", strict_rounding=strict)
            if prepared.certifier.radius_based:
                found.append(radii(prepared.prove(x, logits, y, L2)).nan_to_num())
            else:
                grid = [distances.median() * (1 - 10.0**-k) for k in range(1, 7)]
                proofs = [prepared.prove(x, logits, y, ThreatModel("L2", float(r))) for r in grid]
                found.append(torch.stack([radii(p).nan_to_num() for p in proofs]).amax(dim=0))
    default, strict = found
    assert (default <= distances).all()
    assert (strict <= default).all()
    assert (strict < default).any() == (name != "interval")
    assert (strict > 0).any()


def test_the_worst_case_contains_the_rounding_of_the_head():
    torch.manual_seed(0)
    model = Classifier(nn.Flatten(), nn.Linear(16, 3)).eval()
    model.head.bias.data = torch.tensor([2.0**20, 2.0**20, 0.0])
    x = torch.rand(30, 1, 4, 4)
    with frozen_eval(model), torch.no_grad():
        y, reach = torch.zeros(30).long(), torch.full((30,), 0.1).double()
        worst_case, exact, _ = layer_rounding(model, strict=True).worst_case(x, y, reach, x)
        observed = (margins_of(model(x), y) - margins_of(exact, y)).abs()
    assert (observed <= worst_case).all()
    assert observed.max() > 1e-2


def test_a_run_tells_where_rounding_forbids_a_proof(tmp_path):
    swamping = next(a for a in ADVERSARIES if a.name == "swamping_biases")
    model, x = built(swamping)
    y = predictions(model, x)
    store = Store(tmp_path / "s.sqlite")
    found = evaluate(model, (x, y), L2, attacks="apgd-ce", certifiers="lipschitz", store=store)
    assert found.summary["certified_accuracy"] == 0
    flags = dict(flag.rsplit(":", 1) for flag in found.summary["flags"].split() if ":" in flag)
    n_flagged = int(flags["within_rounding:lipschitz"])
    trails = [v.trail for v in found.verdicts]
    assert n_flagged == sum(any(s.outcome == "within rounding" for s in t) for t in trails) > 0
    reasons = [v.reason for v in found.verdicts if v.status == "undecided"]
    assert any("rounding may exceed a margin" in reason for reason in reasons)
    # The negative control: the same classifier without what swamps it.
    honest = evaluate(halfspaces(), points([0.3, 0.4]), L2, attacks="pgd", store=store)
    assert honest.summary["certified_accuracy"] == 1
    assert honest.summary["flags"] == "self_declared_bound"
    strict = evaluate(
        halfspaces(), points([0.3, 0.4]), L2, attacks="pgd", store=store, strict_rounding=True
    )
    assert strict.key != honest.key
    assert {r.spec.rounding for r in store.records().values()} == {"measured", "strict"}
    assert {r.spec.precision for r in store.records().values()} == {"float32 without TF32"}


@pytest.mark.slow
def test_the_command_subtracts_the_worst_case(tmp_path):
    arguments = [
        "run",
        "--model",
        "lipflow",
        "--n-examples",
        "24",
        "--attacks",
        "none",
        "--eps",
        "1.0",
        "--json",
    ]
    shares = {}
    for name, more in (("measured", []), ("strict", ["--strict-rounding"])):
        result = dynbench(*arguments, *more, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        document = json.loads(result.stdout)
        assert document["run"]["rounding"] == name
        shares[name] = document["rows"][0]["certified_accuracy"]
    assert 0 < shares["strict"] <= shares["measured"]


def in_another_order(model, seed):
    """Return sll with the terms of its sums permuted: the same function, other float32 sums."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for part in other.modules():
        if isinstance(part, GradientStep):
            order = torch.randperm(len(part.weight), generator=generator)
            for tensor in (part.weight, part.bias, part.log_q):
                tensor.data = tensor.data[order]
    return other


@pytest.fixture(scope="module")
def sll():
    return load_model("sll")


def worst_and_measured(model, x, y):
    """Return bounds of sll's rounding, and what float32 does to margins in three orders of sums."""
    reach = torch.full((len(x),), 0.5, dtype=torch.float64)
    points = surface_points(x, reach, "L2")
    measured = []
    for k in range(3):
        ordered = in_another_order(model, k)
        with frozen_eval(ordered), torch.no_grad():
            worst_case, *exact = layer_rounding(ordered, strict=True).worst_case(
                x, y, reach, points
            )
            measured += [
                (margins_of(ordered(z), y) - margins_of(logits, y)).abs()
                for z, logits in zip((x, points), exact, strict=True)
            ]
    return worst_case, torch.stack(measured).amax(dim=0)


@pytest.mark.parametrize("kind", ["real", "random"])
def test_the_rounding_of_sll_stays_below_its_worst_case(sll, kind):
    data = load_dataset("fashion_mnist", n_examples=6)
    generator = torch.Generator().manual_seed(1)
    x = data.x if kind == "real" else torch.rand(data.x.shape, generator=generator)
    worst_case, measured = worst_and_measured(sll, x, data.y)
    other = torch.arange(10) != data.y[:, None]
    assert (measured[other] <= worst_case[other]).all()
    # Nor is the bound beyond use: far below the margins, which are about 1.
    assert worst_case[other].max() < 0.3
    # The measurement is above 0: a bound of a millionth would be caught.
    assert (measured[other] > 1e-6 * worst_case[other]).any()


def test_sll_certifies_real_examples(sll):
    found = evaluate(
        sll,
        "fashion_mnist",
        ThreatModel("L2", 0.25),
        n_examples=20,
        attacks="none",
        certifiers="lipschitz",
    )
    outcomes = [step.outcome for verdict in found.verdicts for step in verdict.trail]
    assert outcomes.count(Outcome.CERTIFIED) >= 10
    assert Outcome.WITHIN_ROUNDING not in outcomes


def test_rounding_is_bounded_no_further_than_the_nearest_class_or_eps(sll):
    data = load_dataset("fashion_mnist", n_examples=12)
    with frozen_eval(sll):
        logits = sll(data.x).detach()
        right = logits.argmax(dim=1) == data.y
        x, y, logits = data.x[right], data.y[right], logits[right]
        state = lipschitz.prepare(sll, strict_rounding=True)
        asked = []

        def noted(x, logits, y, reach):
            asked.append(reach)
            return state.rounding.allowance(x, logits, y, reach)

        spy = state._replace(rounding=SimpleNamespace(allowance=noted, model=sll))
        for norm, eps in (("L2", 0.1), ("L2", 1.0), ("Linf", 2 / 255)):
            in_l2 = eps * (28.0 if norm == "Linf" else 1.0)
            proof = lipschitz.prove(spy, x, logits, y, ThreatModel(norm, eps))
            margins = margins_of(logits, y)
            nearest = lipschitz.class_radii(state.bounds, margins, y, norm="L2", dimension=784)
            most = nearest.amin(dim=1).clamp_min(in_l2) * (1 + 1e-6)
            assert (asked[-1] <= most).all()
            # What is claimed lies within the ball for which the rounding is bounded.
            other = torch.arange(10) != y[:, None]
            claimed = proof.class_radii * (28.0 if norm == "Linf" else 1.0)
            assert (claimed <= asked[-1][:, None])[other].all()
            assert (radii(proof) > 0).any()


def test_sums_in_blocks_have_less_rounding_to_allow_for():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole, parts = (OrthonormalGradientStep(1024, 16, blocks=k) for k in (1, 16))
    parts.load_state_dict(whole.state_dict())
    x = torch.rand(4, 1024, generator=torch.Generator().manual_seed(0))
    drift = torch.full((4,), 0.1, dtype=torch.float64)
    with frozen_eval(whole), frozen_eval(parts):
        assert torch.allclose(whole(x), parts(x), atol=1e-5)
        errors = [analyse(step, x, x.double(), drift).error_bounds.error for step in (whole, parts)]
    assert (5 * errors[1] < errors[0]).all()


def test_a_worst_case_above_the_margins_certifies_nothing(sll, monkeypatch):
    honest = LayerRounding.worst_case

    def larger(self, *args):
        worst_case, *exact = honest(self, *args)
        return worst_case * 1000, *exact

    monkeypatch.setattr(LayerRounding, "worst_case", larger)
    found = evaluate(
        sll,
        "fashion_mnist",
        ThreatModel("L2", 0.25),
        n_examples=5,
        attacks="none",
        certifiers="lipschitz",
    )
    assert found.summary["certified_accuracy"] == 0
    assert "within_rounding" in found.summary["flags"]
