"""The audit sample: certified examples that are attacked all the same."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

from robustbench_dyn.results.verdicts import Verdict

_FEWEST = 5


def sample_for_audit(certified: Iterable[Verdict], share: float, seed: int) -> list[Verdict]:
    """Return a share of the certified verdicts, at least five of them; none where share is 0.

    Each example has a rank of its own, by seed and example_id: the choice does not depend on the
    order of the others.
    """
    ranked = sorted(
        certified,
        key=lambda v: hashlib.sha256(f"audit {seed} {v.example_id}".encode()).digest(),
    )
    return ranked[: max(_FEWEST, math.ceil(share * len(ranked)))] if share else []
