"""Cheating models: what an evaluation reports of each, and what is true (docs/cheats.md).

    python benchmarks/cheats.py

Exits with 1 where a cheat ends otherwise than it is known to.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

from measuring import write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles.cheats import CHEATS, N_EXAMPLES, outcome, report, truth


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    true, rows, unexpected = truth(N_EXAMPLES), [], list[str]()
    for cheat in CHEATS:
        found = report(cheat)
        ended = outcome(found, true)
        if ended != cheat.expected:
            unexpected.append(cheat.name)
        rows.append(
            {
                "cheat": cheat.name,
                "trick": cheat.trick,
                "n_examples": N_EXAMPLES,
                "true_clean": true.clean,
                "true_robust": true.robust,
                "clean": found.clean,
                "certified": found.certified,
                "empirical": found.empirical,
                "outcome": ended,
                "flags": found.flags,
                "error": found.error,
                "why_not": cheat.why_not,
            }
        )
    write("cheats", rows)
    sys.exit(f"these end otherwise than expected: {unexpected}" if unexpected else 0)


if __name__ == "__main__":
    main()
