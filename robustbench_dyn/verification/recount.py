"""Recount a row from its evidence: files are read, and nothing is run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from robustbench_dyn.reporting.rows import Row
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.summary import SUMMARY_COLUMNS
from robustbench_dyn.results.verdicts import ABSTAINED, Verdict
from robustbench_dyn.verification.at_hand import Images, adversarial_example, distance
from robustbench_dyn.verification.consistency import contradictions_within
from robustbench_dyn.verification.findings import Finding, shown_ids
from robustbench_dyn.verification.rules import DISTANCE

# Limits of intervals come from scipy, whose versions may differ in the last digits.
_FROM_SCIPY = ("ci_low", "ci_high")
_LAST_DIGITS = 1e-9


def recount(row: Row, evidence: Evidence, images: Images | str) -> Iterator[Finding]:
    """Yield what is wrong with a row by its evidence and the images, where they are at hand."""
    yield from _columns(row, evidence.row())
    yield from contradictions_within(evidence)
    if isinstance(images, Images):
        yield from _data(evidence, images)


def _columns(row: Row, recounted: Mapping[str, Any]) -> Iterator[Finding]:
    for name in (*SUMMARY_COLUMNS, "corrections", "evidence_sha256"):
        stands, counted = _plain(row[name]), _plain(recounted[name])
        if stands != counted and not (name in _FROM_SCIPY and _close(stands, counted)):
            yield Finding("columns", f"{name} is {stands!r}, and its evidence comes to {counted!r}")


def _plain(value: Any) -> Any:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else value


def _close(a: Any, b: Any) -> bool:
    numbers = isinstance(a, float) and isinstance(b, float)
    return numbers and math.isclose(a, b, rel_tol=_LAST_DIGITS, abs_tol=_LAST_DIGITS)


def _data(evidence: Evidence, images: Images) -> Iterator[Finding]:
    spec = evidence.record.spec
    if spec.data_sha256 != images.sha256:
        yield Finding(
            "data",
            f"the row is about other images than {spec.dataset} has here: their SHA-256 are "
            f"{spec.data_sha256[:12]} and {images.sha256[:12]}",
        )
        return
    n, n_classes = images.n, images.n_classes
    if beyond := [v.example_id for v in evidence.verdicts if v.example_id >= n]:
        yield Finding(
            "data", f"{shown_ids(beyond)}: {spec.dataset} has {n} examples", tuple(beyond)
        )
        return
    labels = [v.example_id for v in evidence.verdicts if v.label != images.label(v.example_id)]
    if labels:
        yield Finding(
            "labels", f"{shown_ids(labels)}: the labels are not the data set's", tuple(labels)
        )
    classes = [v.example_id for v in evidence.verdicts if not ABSTAINED <= v.prediction < n_classes]
    if classes:
        yield Finding("labels", f"{shown_ids(classes)}: no such class is there", tuple(classes))
    yield from _adversarial_examples(evidence, images)


def _adversarial_examples(evidence: Evidence, images: Images) -> Iterator[Finding]:
    kept = [verdict for verdict in evidence.verdicts if verdict.x_adv is not None]
    wrong: dict[str, list[int]] = {}
    for verdict in kept:
        if said := _wrong_image(evidence, verdict, images):
            wrong.setdefault(said, []).append(verdict.example_id)
    for said, examples in wrong.items():
        yield Finding("adversarial example", f"{shown_ids(examples)}: {said}", tuple(examples))
    if len({verdict.x_adv for verdict in kept}) < len(kept):
        yield Finding("adversarial example", "one image is kept for two examples")


def _wrong_image(evidence: Evidence, verdict: Verdict, images: Images) -> str:
    x_adv = adversarial_example(verdict, images)
    if x_adv is None:
        return "the bytes of the adversarial example are no image of this data set"
    reached = distance(x_adv, images.x(verdict.example_id), evidence.record.spec.norm)
    # Written so that NaN fails it.
    if not (np.min(x_adv) >= 0 and np.max(x_adv) <= 1):
        return "the adversarial example leaves the input range [0, 1]"
    if not reached <= evidence.eps * (1 + DISTANCE):
        return "the adversarial example lies outside of the threat model"
    if not math.isclose(reached, verdict.adversarial_distance, rel_tol=DISTANCE, abs_tol=DISTANCE):
        return "the adversarial example has another distance than the verdict says"
    return ""
