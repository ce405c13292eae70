"""Contradictions between rows of one folder: two claims about one model that cannot both hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.flags import NOT_A_FUNCTION
from robustbench_dyn.results.verdicts import Status
from robustbench_dyn.threat_models import Norm
from robustbench_dyn.verification.findings import Finding, shown_ids

# Two machines may disagree on an example whose largest logits tie; that is one in many thousands.
_TIES_AT_MOST = 1
# Each norm is at most the one after it: a point at distance d in L2 is at most so far in Linf.
_RISING: tuple[Norm, ...] = ("Linf", "L2", "L1")


class Claim(NamedTuple):
    """A row's evidence, and what the reports call it."""

    name: str
    evidence: Evidence


def contradictions_between(claims: Sequence[Claim]) -> Iterator[tuple[int, Finding]]:
    """Yield findings of pairs of rows, each with the place in `claims` of the row that it is about.

    Rows are of the same model where name, weights, code and data are equal. Both rows of a pair get
    the finding: which of the two is wrong, a recount cannot say.
    """
    groups = defaultdict[tuple[object, ...], list[int]](list)
    for place, (_, evidence) in enumerate(claims):
        spec = evidence.record.spec
        if not NOT_A_FUNCTION.intersection(evidence.flags):
            model = (spec.model, spec.weights_sha256, spec.state_sha256, spec.data_sha256)
            groups[model].append(place)
    for places in groups.values():
        for a, b in combinations(places, 2):
            for finding in _of_pair(claims[a], claims[b]):
                yield a, finding
                yield b, finding


def _of_pair(one: Claim, other: Claim) -> Iterator[Finding]:
    """Yield what the first row claims and the second one contradicts."""
    if one.evidence.record.spec.smoothing is None:
        yield from _refuted(one, other)
        yield from _refuted(other, one)
        yield from _predictions(one, other)


def _refuted(certifying: Claim, attacking: Claim) -> Iterator[Finding]:
    norms = certifying.evidence.record.spec.norm, attacking.evidence.record.spec.norm
    if _RISING.index(norms[0]) > _RISING.index(norms[1]):
        return
    near = {
        v.example_id: v.adversarial_distance
        for v in attacking.evidence.verdicts
        if v.status is Status.BROKEN
    }
    examples = tuple(
        v.example_id
        for v in certifying.evidence.verdicts
        if v.certifier and near.get(v.example_id, float("inf")) <= v.certified_radius
    )
    if examples:
        yield Finding(
            "contradiction",
            f"{shown_ids(examples)}: certified within a radius in {certifying.name}, and broken "
            f"nearer than that in {attacking.name}",
            examples,
        )


def _predictions(one: Claim, other: Claim) -> Iterator[Finding]:
    theirs = {v.example_id: v for v in other.evidence.verdicts}
    labels, predictions = list[int](), list[int]()
    for verdict in one.evidence.verdicts:
        beside = theirs.get(verdict.example_id)
        if beside is not None and beside.label != verdict.label:
            labels.append(verdict.example_id)
        if beside is not None and beside.prediction != verdict.prediction:
            predictions.append(verdict.example_id)
    if labels:
        yield Finding(
            "contradiction",
            f"{shown_ids(labels)}: {one.name} and {other.name} have other labels",
            tuple(labels),
        )
    allowed = 0 if _same_machine([one.evidence, other.evidence]) else _TIES_AT_MOST
    if len(predictions) > allowed:
        yield Finding(
            "contradiction",
            f"{shown_ids(predictions)}: {one.name} and {other.name} have other predictions of one "
            "model",
            tuple(predictions),
        )


def _same_machine(both: Iterable[Evidence]) -> bool:
    """Say whether logits of two rows were computed in the same way, as far as records tell."""
    specs = [evidence.record.spec for evidence in both]
    return len({(s.device, s.torch_version, s.precision, s.batch_size) for s in specs}) == 1
