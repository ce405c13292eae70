"""The attacks that run on a sample of the examples: what calls spared examples back."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from robustbench_dyn.evaluation.transitions import waiting_for
from robustbench_dyn.results.sampling import draw_sample, is_spared
from robustbench_dyn.results.verdicts import Verdict


def called_back(
    verdicts: Collection[Verdict], sampled: Sequence[str], seed: int, *, everyone: bool
) -> list[Verdict]:
    """Return the examples that wait for attacks again that they are spared no more.

    verdicts: of all examples at one eps. sampled: the attacks that run on a sample, in their order.
    everyone: whether these have to run on all examples. Those of a sample that was drawn from other
    examples may be in that of these.
    """
    called = dict[int, Verdict]()
    # From the last to the first: the example waits for the first.
    for name in reversed(sampled):
        sample = draw_sample(verdicts, name, seed)
        called |= {
            v.example_id: waiting_for(v, name)
            for v in verdicts
            if is_spared(v, name) and (everyone or v.example_id in sample)
        }
    return list(called.values())
