"""The audit: certified examples that are attacked all the same, and what to make of the attacks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable

from robustbench_dyn.results.verdicts import Outcome, Status, Verdict

_FEWEST = 6
# A bound that is too small by any factor certifies examples that are not robust, and those have the
# smallest of its radii: these are looked at first. Where it is wrong for confident examples, the
# largest radii are wrong. The others are drawn at random, for what is wrong elsewhere.
_SMALLEST, _LARGEST = 4, 1


def sample_for_audit(certified: Iterable[Verdict], share: float, seed: int) -> list[Verdict]:
    """Return a share of the certified verdicts, at least six of them; none where share is 0.

    Four have the smallest radii, which are the likeliest to be wrong, and one the largest. Each
    example has a rank of its own, by seed and example_id: the choice does not depend on the order
    of the others.
    """
    ranked = sorted(
        certified,
        key=lambda v: hashlib.sha256(f"audit {seed} {v.example_id}".encode()).digest(),
    )
    if not share:
        return []
    # Sorting is stable: among equal radii, the rank decides.
    by_radius = sorted(ranked, key=lambda v: v.certified_radius)
    order = [*by_radius[:_SMALLEST], *by_radius[::-1][:_LARGEST], *ranked]
    sample = {verdict.example_id: verdict for verdict in order}
    return list(sample.values())[: max(_FEWEST, math.ceil(share * len(ranked)))]


def audit_failed(verdicts: Iterable[Verdict], labels: Collection[str]) -> bool:
    """Say whether every attack on certified examples ended in an error, so that none was audited.

    labels: the certifiers that count.
    """
    outcomes = {
        step.outcome
        for verdict in verdicts
        if verdict.status is Status.CERTIFIED and verdict.certifier in labels
        for step in verdict.trail
    }
    return Outcome.FAILED in outcomes and Outcome.SURVIVED not in outcomes
