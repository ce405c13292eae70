"""Attacks that a suite runs on a sample of the survivors: who is in it, and when it is not enough.

An attack that almost never breaks what the attacks before it left may cost as much as all of these.
It runs on a part of the examples that it reaches; the others are spared, and their trail says so.
Each example has a rank of its own, so that runs that go on, and other eps, draw the same examples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence

from robustbench_dyn.results.flags import (
    NO_GRADIENTS,
    PIECEWISE_CONSTANT,
    SOFTMAX_OUTPUTS,
    TINY_LOGITS,
)
from robustbench_dyn.results.spec import StageSpec
from robustbench_dyn.results.verdicts import Outcome, Sign, Status, Step, Verdict

# Of the undecided examples that it reaches, an attack runs on this share, and on so many at least.
# Certified ones can be broken by no attack unless a certificate is wrong: of those that are audited
# it runs on fewer.
SHARE = 0.1
FEWEST, FEWEST_AUDITED = 5, 1
# With one of these flags, gradients say little: nothing is spared.
_MASKING = frozenset({SOFTMAX_OUTPUTS, TINY_LOGITS, PIECEWISE_CONSTANT, NO_GRADIENTS})


def draw_sample(verdicts: Iterable[Verdict], attack: str, seed: int) -> set[int]:
    """Return the example_ids that an attack runs on, of those that it reaches or has reached.

    verdicts: of all examples at one eps. An example that survived the attack at a larger eps counts
    as one that it ran on.
    """
    undecided, audited = list[Verdict](), list[Verdict]()
    for verdict in verdicts:
        if _is_audited(verdict, attack):
            audited.append(verdict)
        elif _is_undecided(verdict, attack):
            undecided.append(verdict)
    return {
        verdict.example_id
        for group, fewest in ((undecided, FEWEST), (audited, FEWEST_AUDITED))
        for verdict in sorted(group, key=lambda v: _rank(v, attack, seed))[
            : sample_size(len(group), fewest)
        ]
    }


def sample_size(n: int, fewest: int = FEWEST) -> int:
    """Return on how many of n examples an attack runs."""
    return min(n, max(fewest, math.ceil(SHARE * n)))


def is_spared(verdict: Verdict, attack: str) -> bool:
    """Say whether an attack was not run on an example that stands, as it was not in the sample."""
    step = _step_of(verdict, attack)
    stands = verdict.status is Status.UNDECIDED or _is_audited(verdict, attack)
    return stands and step is not None and step.outcome is Outcome.SPARED


def ran_and_spared(groups: Iterable[Sequence[Verdict]], attack: str) -> tuple[int, int]:
    """Count the examples on which an attack ran, and those that it spared; the audit apart.

    groups: the verdicts, as `alike` groups them.
    """
    ran = spared = 0
    for group in groups:
        step = None if _is_audited(group[0], attack) else _step_of(group[0], attack)
        if step is not None and step.outcome is Outcome.SPARED:
            spared += len(group)
        elif step is not None:
            ran += len(group)
    return ran, spared


def spares_none(
    verdicts: Iterable[Verdict],
    attacks: Sequence[StageSpec],
    *,
    signs: Collection[Sign],
    flags: Collection[str],
) -> bool:
    """Say whether sampled attacks have to run on every example that they reach, at one eps.

    They do as soon as one of them broke an example, another attack raised an error, or there is a
    sign or a flag of masked gradients.
    """
    sampled = {attack.name for attack in attacks if attack.sampled}
    return (
        bool(signs)
        or not _MASKING.isdisjoint(flags)
        or any(
            (verdict.status is Status.BROKEN and verdict.attack in sampled)
            or any(step.outcome is Outcome.FAILED for step in verdict.trail)
            for verdict in verdicts
        )
    )


def _is_audited(verdict: Verdict, attack: str) -> bool:
    """Say whether an attack reaches, or has reached, an example that was certified before."""
    if verdict.status is not Status.CERTIFIED:
        return False
    if verdict.next_stage == attack:
        return True
    stages = [(step.stage, step.outcome) for step in verdict.trail if step.eps == verdict.eps]
    certified = (verdict.certifier, Outcome.CERTIFIED)
    return certified in stages and attack in {
        stage for stage, _ in stages[stages.index(certified) :]
    }


def _is_undecided(verdict: Verdict, attack: str) -> bool:
    if verdict.next_stage == attack:
        return True
    # Of what was proved, it is not told any more whether the attack was needed at this eps.
    return verdict.status is not Status.CERTIFIED and _step_of(verdict, attack) is not None


def _step_of(verdict: Verdict, attack: str) -> Step | None:
    """Return how an attack ended on an example, at its eps or, survived, at a larger one."""
    for step in reversed(verdict.trail):
        survived = step.outcome is Outcome.SURVIVED and step.eps >= verdict.eps
        if step.stage == attack and (survived or step.eps == verdict.eps):
            return step
    return None


def _rank(verdict: Verdict, attack: str, seed: int) -> bytes:
    return hashlib.sha256(f"sample {attack} {seed} {verdict.example_id}".encode()).digest()
