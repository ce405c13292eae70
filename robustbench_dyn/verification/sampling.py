"""The random sample of examples that a replay looks at."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from robustbench_dyn.attacks.catalogue import SUITES
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.verdicts import Status, Verdict


def varies(evidence: Evidence) -> bool:
    """Say whether nothing is known of how much the attacks of a row vary from run to run.

    Suites vary little; an attack that was named by itself may be one random step.
    """
    return evidence.record.suite not in SUITES


class Sample(NamedTuple):
    """Verdicts to check anew: certified ones, undecided ones, and broken ones.

    Of broken ones those without an image, or any where the attacks vary.

    The populations are how many of each there are in the row; of `kept`, all are looked at.
    """

    certified: list[Verdict]
    undecided: list[Verdict]
    broken: list[Verdict]
    kept: list[Verdict]
    n_certified: int
    n_undecided: int
    n_broken: int


def draw(evidence: Evidence, *, size: int | None, seed: int) -> Sample:
    """Draw a sample of `size` examples without replacement, or take all of them for None.

    Half are certified ones, and half undecided and broken ones; where one half has too few, the
    other gets more. Misclassified examples are no part: all predictions are checked.
    """
    of = {status: [v for v in evidence.verdicts if v.status is status] for status in Status}
    certified, undecided = of[Status.CERTIFIED], of[Status.UNDECIDED]
    kept = [v for v in of[Status.BROKEN] if v.x_adv is not None]
    broken = [v for v in of[Status.BROKEN] if v.x_adv is None or varies(evidence)]
    # Nothing is claimed of attacks where none ran.
    attacked = bool(evidence.record.spec.attacks)
    others = [*undecided, *broken] if attacked else []
    if size is None:
        half, rest = len(certified), len(others)
    else:
        half = min(len(certified), max(size - len(others), (size + 1) // 2))
        rest = min(len(others), size - half)
    generator = random.Random(f"verify {seed} {evidence.sha256}")
    drawn = {v.example_id for v in _drawn(generator, certified, half)}
    drawn |= {v.example_id for v in _drawn(generator, others, rest)}
    return Sample(
        certified=[v for v in certified if v.example_id in drawn],
        undecided=[v for v in undecided if v.example_id in drawn],
        broken=[v for v in broken if v.example_id in drawn],
        kept=kept,
        n_certified=len(certified),
        n_undecided=len(undecided),
        n_broken=len(broken),
    )


def _drawn(generator: random.Random, verdicts: Sequence[Verdict], n: int) -> list[Verdict]:
    return generator.sample(list(verdicts), n)
