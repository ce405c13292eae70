"""What a search of many examples in one pass saves: small networks of the zoo, split by neurons.

    python benchmarks/joint_search.py [--n-examples 100] [--model sll]

`complete:split=neurons` decides the same examples of the moons twice: together, on the network that
they share, and apart, each on a network of its own. The network was prepared before; the two take
turns; seconds are processor time. `same` says whether all examples are decided alike.
Results: benchmarks/results/joint_search.csv; `python benchmarks/tables.py` puts them in the docs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import measuring
import torch
from small_brackets import NORMS, OF_THE_DOCS, asked_for
from torch import nn

from robustbench_dyn import ThreatModel
from robustbench_dyn.certification.base import PreparedCertifier, radii
from robustbench_dyn.certification.certifiers.complete import Complete
from robustbench_dyn.certification.proofs import complete
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.evaluation.candidates import check_candidates
from robustbench_dyn.models.freezing import frozen_eval

WAYS = ("apart", "together")
AT_ONCE = 64


class Answers(NamedTuple):
    """What was decided of each example, (examples,) bool each, and the seconds that it took."""

    proved: torch.Tensor
    refuted: torch.Tensor
    seconds: float


@contextmanager
def searched(way: str) -> Iterator[None]:
    """Search examples together where their network is small enough, or all of them apart."""
    if way == "together":
        yield
        return
    with mock.patch.object(complete, "_MOST_SHARED", 0):
        yield


@torch.no_grad()
def decide(
    prepared: PreparedCertifier, model: nn.Module, data: Dataset, threat_model: ThreatModel
) -> Answers:
    """Decide all examples, many at once, as an evaluation does."""
    logits, proved, refuted, seconds = model(data.x), [], [], 0.0
    for rows in torch.split(torch.arange(len(data)), AT_ONCE):
        x, y = data.x[rows], data.y[rows]
        started = time.process_time()
        proof = prepared.prove(x, logits[rows], y, threat_model)
        seconds += time.process_time() - started
        assert proof.candidates is not None
        proved.append(radii(proof) >= threat_model.eps)
        refuted.append(check_candidates(model, proof.candidates, x, y, threat_model).fooled)
    return Answers(torch.cat(proved), torch.cat(refuted).cpu(), seconds)


def main() -> None:
    rows = list[dict[str, Any]]()
    data, networks = asked_for(__doc__)
    for name, model, count in networks:
        for norm in NORMS:
            threat_model, found = ThreatModel(norm, OF_THE_DOCS), dict[str, Answers]()
            with frozen_eval(model):
                try:
                    certifier = Complete(split="neurons")
                    prepared = [certifier.prepared(model, tuple(data.x.shape[1:])) for _ in WAYS]
                except CertificateError:
                    break
                for way, one in zip(WAYS, prepared, strict=True):
                    with searched(way):
                        found[way] = decide(one, model, data, threat_model)
            apart, together = found.values()
            decided = torch.stack([torch.stack(answers[:2]) for answers in found.values()])
            rows.append(
                {
                    "model": name,
                    "neurons": count,
                    "entries": prepared[0].state.composition.n_entries,
                    "norm": norm,
                    "eps": OF_THE_DOCS,
                    "n_examples": len(data),
                    "decided_apart": int(decided[0].any(dim=0).sum()),
                    "decided_together": int(decided[1].any(dim=0).sum()),
                    "same": bool((decided[0] == decided[1]).all()),
                    "seconds_apart": round(apart.seconds, 2),
                    "seconds_together": round(together.seconds, 2),
                }
            )
            print(rows[-1], flush=True)
    measuring.write("joint_search", rows)


if __name__ == "__main__":
    main()
