"""What is kept of other eps: what follows from it is what follows from all verdicts."""

import math
import random

import pytest
from oracles import halfspaces, points

from robustbench_dyn import ThreatModel, evaluate_grid
from robustbench_dyn.evaluation import known as keeping
from robustbench_dyn.evaluation.known import KnownElsewhere, informative
from robustbench_dyn.evaluation.transitions import Later, infer_from_other_eps
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import Outcome, Status, Step, Verdict

LATER = [Later("ball", True), Later("pgd", False), Later("square", False)]
RADII = [k / 8 for k in range(1, 13)]


def some_verdict(draw, eps):
    """Any verdict that the type allows, plausible or not."""
    trail = tuple(
        Step(
            draw.choice(["pgd", "square", "ball", "clean", "gone"]),
            draw.choice(list(Outcome)),
            draw.choice(RADII),
            draw.choice(["", "why"]),
        )
        for _ in range(draw.randrange(5))
    )
    radius = draw.choice([math.nan, *RADII])
    values = {
        "example_id": 3,
        "label": 1,
        "prediction": 1,
        "eps": eps,
        "certified_radius": radius,
        "certifier": "" if math.isnan(radius) else draw.choice(["lipschitz", "ball"]),
        "trail": trail,
        "next_stage": draw.choice(["", "", "pgd"]),
        "reason": f"at {eps}",
        "forward_passes": draw.randrange(9),
    }
    status = draw.choice(list(Status))
    if status is Status.CERTIFIED:
        values |= {"certifier": "lipschitz", "certified_radius": eps + draw.choice([0.0, 0.25])}
    if status is Status.BROKEN:
        distance = draw.choice([r for r in RADII if r <= eps])
        values |= {"attack": draw.choice(["pgd", "square"]), "adversarial_distance": distance}
    if status is Status.MISCLASSIFIED:
        values |= {"prediction": 0}
    if status is Status.ERROR:
        values |= {"prediction": -1}
    return Verdict(status=status, **values)


def inferred(verdicts, eps):
    try:
        return repr(infer_from_other_eps(verdicts, eps, LATER))
    # Not every set of verdicts is possible.
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize("seed", range(4))
def test_what_follows_is_what_follows_from_all(seed):
    draw, left_out = random.Random(seed), 0
    for _ in range(400):
        verdicts = [some_verdict(draw, eps) for eps in draw.sample(RADII, draw.randrange(1, 8))]
        rising = sorted(verdicts, key=lambda verdict: verdict.eps)
        elsewhere = KnownElsewhere()
        for verdict in verdicts:  # in any order, one after another
            elsewhere.add([verdict])
        kept = informative(verdicts)
        left_out += len(rising) - len(elsewhere.of(3))
        for eps in {0.01, 2.0, *RADII} - {verdict.eps for verdict in verdicts}:
            expected = inferred(rising, eps)
            assert inferred(kept, eps) == expected
            assert inferred(elsewhere.of(3), eps) == expected
    assert left_out > 100


def test_what_is_kept_is_needed():
    draw, differences = random.Random(0), 0
    for _ in range(300):
        rising = [some_verdict(draw, eps) for eps in RADII[::3]]
        kept = informative(rising)
        for verdict in kept:
            fewer = [other for other in kept if other is not verdict]
            differences += bool(fewer) and any(
                inferred(fewer, eps) != inferred(kept, eps) for eps in (0.01, 0.3, 0.7, 2.0)
            )
    assert differences > 300


def test_a_falling_grid_keeps_few_verdicts(monkeypatch):
    most = []
    add = KnownElsewhere.add

    def noted(self, verdicts):
        add(self, verdicts)
        most.extend(len(kept) for kept in self._of.values())

    monkeypatch.setattr(keeping.KnownElsewhere, "add", noted)
    data = points([0.05, 0.15, 0.25, 0.35, 0.45])
    grid = [ThreatModel("L2", 0.02 * k) for k in range(1, 26)]
    evaluate_grid(halfspaces(), data, grid, attacks="apgd-ce")
    assert max(most) <= 3


def test_a_store_with_all_other_eps_is_read_once(monkeypatch):
    store, reads = Store(), []
    data = points([0.05, 0.15, 0.25, 0.35, 0.45])
    verdicts = Store.verdicts

    def noted(self, key, eps=None):
        reads.append(eps)
        return verdicts(self, key, eps)

    monkeypatch.setattr(Store, "verdicts", noted)
    grid = [ThreatModel("L2", 0.02 * k) for k in range(1, 11)]
    evaluate_grid(halfspaces(), data, grid, attacks="apgd-ce", store=store)
    assert reads.count(None) == 1
