"""Branch and bound over the input: against grids of points, for any activations."""

import pytest
import torch
from torch import nn

from robustbench_dyn import ThreatModel, load_dataset, load_model
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.bounds.ball import Ball, Box
from robustbench_dyn.certification.bounds.intermediate import (
    intermediate_bounds,
    relaxation_state,
)
from robustbench_dyn.certification.branch_and_bound import input_splitting
from robustbench_dyn.certification.branch_and_bound.parts import Parts, cut, inside
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.certification.proofs import input_splitting as proofs
from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.candidates import check_candidates
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.threat_models import NORMS, project

SHAPE = (1, 1, 2)
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus)


def network(seed, activation):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Flatten(), nn.Linear(2, 12), activation(), nn.Linear(12, 12), activation()]
        model = nn.Sequential(*layers, nn.Linear(12, 3)).double().requires_grad_(False)
        for layer in model[1::2]:
            layer.weight.mul_(4)
        x = torch.rand(1, *SHAPE).double()
    return model, x


def nearest_on_a_grid(model, x, norm, points=401):
    """Return the distance of the nearest point of a grid that gets another class; inf for none."""
    line = torch.linspace(0, 1, points, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line).view(-1, *SHAPE)
    other = model(grid).argmax(dim=1) != model(x).argmax(dim=1)
    order = {"Linf": torch.inf, "L2": 2, "L1": 1}[norm]
    distances = (grid[other] - x).flatten(1).norm(p=order, dim=1)
    return float(distances.min()) if len(distances) else float("inf")


def prove(model, x, threat_model, *, settings=""):
    with frozen_eval(model), torch.no_grad():
        spec = f"complete:split=inputs{settings}"
        (prepared,) = resolve_certifiers(spec, model, tuple(x.shape[1:]), threat_model.norm)
        y = model(x).argmax(dim=1)
        proof = prepared.prove(x, model(x), y, threat_model)
        checked = check_candidates(model, proof.candidates, x, y, threat_model)
    return radii(proof) >= threat_model.eps, checked.fooled


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_balls_are_decided_as_a_grid_decides_them(norm, activation):
    for seed in range(3):
        model, x = network(seed, activation)
        nearest = nearest_on_a_grid(model, x, norm)
        if not 0.02 < nearest < 1:
            continue
        # The grid's nearest point is at most a step from the nearest one.
        proved, _ = prove(model, x, ThreatModel(norm, nearest - 0.006))
        assert proved.all()
        proved, fooled = prove(model, x, ThreatModel(norm, nearest))
        assert not proved.any()
        assert fooled.all()


def test_a_part_left_out_too_soon_is_caught_by_the_grid(monkeypatch):
    model, x = network(0, nn.Tanh)
    threat_model = ThreatModel("L2", nearest_on_a_grid(model, x, "L2"))
    assert not prove(model, x, threat_model)[0].any()

    def halved(parts, ball):
        away = torch.maximum(parts.lower - ball.centre, ball.centre - parts.upper).clamp_min(0)
        return away.norm(dim=1) <= ball.eps / 2

    monkeypatch.setattr(input_splitting, "inside", halved)
    assert prove(model, x, threat_model)[0].any()


def test_no_more_than_its_seconds_are_taken():
    model, x = network(0, nn.Tanh)
    threat_model = ThreatModel("L2", 0.99 * nearest_on_a_grid(model, x, "L2"))
    proved, fooled = prove(model, x, threat_model, settings=",seconds_per_example=0")
    assert not proved.any()
    assert not fooled.any()


def test_bounds_over_boxes_contain_samples():
    model, _ = network(1, nn.Tanh)
    state = relaxation_state(model, SHAPE)
    generator = torch.Generator().manual_seed(0)
    ends = torch.rand(5, 2, 2, generator=generator, dtype=torch.float64).sort(dim=1).values
    box = Box(ends[:, 0], ends[:, 1], torch.Size(SHAPE))
    bounds, _ = intermediate_bounds(state, box)
    for _ in range(200):
        share = torch.rand(5, 2, generator=generator, dtype=torch.float64)
        inside = (ends[:, 0] + share * (ends[:, 1] - ends[:, 0])).view(-1, *SHAPE)
        for k, value in enumerate(state.exact.outputs(inside)):
            assert (bounds.lower[k] <= value + 1e-12).all()
            assert (value <= bounds.upper[k] + 1e-12).all()


@pytest.mark.parametrize("norm", NORMS)
def test_parts_outside_of_the_ball_alone_are_left_out(norm):
    x, threat_model = torch.full((1, *SHAPE), 0.5).double(), ThreatModel(norm, 0.3)
    ball = Ball(x, threat_model)
    left, first = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    whole = Parts(ball.lower, ball.upper, left, first)
    parts = cut(whole, 8)
    kept = parts.at(inside(parts, ball))
    points = torch.rand(2000, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    points = project(points, x.expand_as(points), threat_model).flatten(1)
    among = (kept.lower <= points[:, None]) & (points[:, None] <= kept.upper)
    assert among.all(dim=2).any(dim=1).all()
    assert (len(kept.lower) < len(parts.lower)) == (norm != "Linf")


@pytest.mark.parametrize("model", ["euler_resnet", "hamiltonian"])
def test_networks_of_the_plane_are_decided(model):
    data, threat_model = load_dataset("moons", n_examples=6), ThreatModel("Linf", 0.1)
    proved, fooled = prove(load_model(model, dataset="moons"), data.x, threat_model)
    assert (proved ^ fooled).all()


def test_unknown_ways_to_split_are_refused():
    with pytest.raises(InputError, match="split='sideways' is not one of auto, neurons, inputs"):
        resolve_certifiers("complete:split=sideways", nn.Identity(), SHAPE, "L2")


def verdicts(norm, *, at_once):
    """Return what is decided of each of eight examples, searched so many at a time."""
    model, _ = network(1, nn.ReLU)
    inputs = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    state, found = proofs.prepare(model, SHAPE), list[tuple]()
    with frozen_eval(model), torch.no_grad():
        for x in inputs.split(at_once):
            y = model(x).argmax(dim=1)
            proof = proofs.prove(
                state, x, model(x), y, ThreatModel(norm, 0.2), seconds_per_example=60, seconds=600
            )
            refuted = (proof.candidates != x).flatten(1).any(dim=1)
            columns = (radii(proof).nan_to_num(), refuted, proof.gave_up, proof.within_rounding)
            found += zip(*(column.tolist() for column in columns), strict=True)
    return found


@pytest.fixture
def _few_parts(monkeypatch):
    """Let searches wait for each other, and give up early."""
    for name, value in (("_BATCH", 8), ("_TOGETHER", 20), ("_MOST_PARTS", 16)):
        monkeypatch.setattr(input_splitting, name, value)


@pytest.mark.usefixtures("_few_parts")
@pytest.mark.parametrize("norm", NORMS)
def test_verdicts_do_not_depend_on_the_batch(norm):
    alone = verdicts(norm, at_once=1)
    assert len(set(alone)) > 1
    assert verdicts(norm, at_once=8) == alone


@pytest.mark.usefixtures("_few_parts")
def test_a_count_of_parts_that_examples_share_is_caught(monkeypatch):
    take = input_splitting._InputSearches._take

    def counted(self):
        searches, parts = take(self)
        for search in searches:
            search.n_done = max(search.n_done, len(parts.lower))
        return searches, parts

    monkeypatch.setattr(input_splitting._InputSearches, "_take", counted)
    assert verdicts("L2", at_once=8) != verdicts("L2", at_once=1)
