"""Submitted adversarial examples assessed like every candidate, and what they change in tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.candidates import Hit, find_hits
from robustbench_dyn.evaluation.options import device_of
from robustbench_dyn.evaluation.under_test import under_test
from robustbench_dyn.models.validation import ModelUnderTest
from robustbench_dyn.reporting.labels import label
from robustbench_dyn.reporting.published import Entry
from robustbench_dyn.reporting.publishing import Published, correct, withdraw_entries
from robustbench_dyn.results.evidence import Correction, Evidence
from robustbench_dyn.results.flags import RANDOM
from robustbench_dyn.results.verdicts import Outcome, Status, Step, Verdict
from robustbench_dyn.smoothing.stages import N_DRAWS, find_hit
from robustbench_dyn.smoothing.votes import VoteCounter
from robustbench_dyn.threat_models import ThreatModel, widest_eps
from robustbench_dyn.verification.consistency import SUBMITTED
from robustbench_dyn.verification.options import ReplayOptions
from robustbench_dyn.verification.rebuilding import rebuild_subject, smoothing_of
from robustbench_dyn.verification.submissions import Submission

_BATCH_SIZE = 250


class Assessment(NamedTuple):
    """What one image of a submission comes to for one row.

    effect: it breaks an example that no attack broke, refutes a certificate, is nearer than the
    adversarial example that is known, or changes nothing. hit: the checked image, if it counts.
    """

    example_id: int
    effect: Literal["breaks", "refutes", "nearer", "nothing"]
    message: str
    hit: Hit | None = None


class RowAssessed(NamedTuple):
    """The assessments of a submission's images for one row."""

    entry: Entry
    assessments: list[Assessment]

    def with_effect(self, *effects: str) -> list[Assessment]:
        """Return the assessments that have one of these effects."""
        return [assessed for assessed in self.assessments if assessed.effect in effects]


def assess(
    submission: Submission, entries: Sequence[Entry], options: ReplayOptions
) -> list[RowAssessed]:
    """Assess a submission against each row that it is about.

    Raises InputError where it is about no row with evidence, or its images have another shape, and
    RefusedError where the model of a row is not here as it was.
    """
    about = [e for e in entries if e.evidence is not None and submission.is_about(e.row)]
    if not about:
        raise InputError(
            f"no row with evidence is about {submission.model} as the submission names it, by "
            "model, seed and weights_sha256"
        )
    return [
        RowAssessed(entry, _assess_row(submission, entry.evidence, options))
        for entry in about
        if entry.evidence is not None
    ]


def _assess_row(
    submission: Submission, evidence: Evidence, options: ReplayOptions
) -> list[Assessment]:
    subject = rebuild_subject(evidence, options)
    shape, spec = tuple(subject.dataset.x.shape[1:]), evidence.record.spec
    if submission.x_adv.shape[1:] != shape:
        raise InputError(
            f"x_adv has images of shape {submission.x_adv.shape[1:]}, and those of {spec.dataset} "
            f"have {shape}"
        )
    device = device_of(subject.model, options.device)
    with under_test(
        subject.model, subject.dataset, device=device, seed=options.seed, batch_size=_BATCH_SIZE
    ) as model:
        model.in_expectation = RANDOM in evidence.flags
        assessing = _Assessing(evidence, model, subject.dataset.x, options.seed, device)
        return assessing.assess(submission.example_ids, torch.from_numpy(submission.x_adv))


class _Assessing:
    """The images of one row, assessed one by one."""

    def __init__(
        self,
        evidence: Evidence,
        model: ModelUnderTest,
        x: Tensor,
        seed: int,
        device: torch.device,
    ) -> None:
        self._evidence, self._model, self._x = evidence, model, x
        self._spec, self._seed, self._device = evidence.record.spec, seed, device
        self._first = evidence.verdicts[0].example_id

    def assess(self, example_ids: Sequence[int], images: Tensor) -> list[Assessment]:
        """Assess images, (k, *input_shape), in the order given."""
        assessed: dict[int, Assessment] = {}
        places = list[int]()
        for place, example_id in enumerate(example_ids):
            wrong = self._no_candidate(example_id, images[place])
            if wrong:
                assessed[place] = Assessment(example_id, "nothing", wrong)
            else:
                places.append(place)
        verdicts = [self._evidence.verdicts[example_ids[k] - self._first] for k in places]
        hits = self._hits(verdicts, images[places].to(self._device))
        for place, verdict, hit in zip(places, verdicts, hits, strict=True):
            assessed[place] = self._effect(verdict, hit)
        return [assessed[place] for place in range(len(example_ids))]

    def _no_candidate(self, example_id: int, image: Tensor) -> str:
        """Say why an image cannot be an adversarial example, whatever the model says."""
        place = example_id - self._first
        if not 0 <= place < len(self._evidence.verdicts):
            last = self._evidence.verdicts[-1].example_id
            return f"the row is about the examples {self._first} to {last}"
        verdict = self._evidence.verdicts[place]
        if verdict.prediction != verdict.label:
            return "the example is misclassified as it is"
        if not bool(image.isfinite().all()):
            return "the image has entries that are not finite"
        if float(image.min()) < 0 or float(image.max()) > 1:
            return "the image leaves the input range [0, 1]"
        return ""

    def _hits(self, verdicts: Sequence[Verdict], images: Tensor) -> list[Hit | None]:
        """Return the checked image of each verdict, or None where the model names the class."""
        eps, hits = self._evidence.eps, list[Hit | None]()
        for start in range(0, len(verdicts), _BATCH_SIZE):
            part = slice(start, start + _BATCH_SIZE)
            hits += self._at(verdicts[part], images[part], eps)
        # A certificate speaks of all its radius, which may be more than eps.
        for k, verdict in enumerate(verdicts):
            reach = self._reach(verdict)
            if hits[k] is None and reach > eps:
                (hits[k],) = self._at([verdict], images[k : k + 1], reach)
        return hits

    def _reach(self, verdict: Verdict) -> float:
        eps = self._evidence.eps
        if self._spec.smoothing is not None or not verdict.certified_radius > eps:
            return eps
        return min(verdict.certified_radius, widest_eps(self._spec.norm, tuple(self._x.shape[1:])))

    def _at(self, verdicts: Sequence[Verdict], images: Tensor, eps: float) -> list[Hit | None]:
        x = self._x[[v.example_id - self._first for v in verdicts]].to(self._device)
        y = torch.tensor([verdict.label for verdict in verdicts], device=self._device)
        threat_model = ThreatModel(self._spec.norm, eps)
        if self._spec.smoothing is None:
            return list(
                find_hits(self._model, SUBMITTED, images, x, y, threat_model, seed=self._seed)
            )
        smoothing = smoothing_of(self._spec)
        counter = VoteCounter(self._model, smoothing, {}, seed=self._seed, n_draws=N_DRAWS)
        hits = [
            find_hit(
                counter,
                x[k : k + 1],
                y[k : k + 1],
                images[k : k + 1],
                threat_model,
                size=_BATCH_SIZE,
            )
            for k in range(len(verdicts))
        ]
        return [hit if hit is None else hit._replace(attack=SUBMITTED) for hit in hits]

    def _effect(self, verdict: Verdict, hit: Hit | None) -> Assessment:
        if hit is None:
            said = "inside the threat model, the model still names the right class"
            return Assessment(verdict.example_id, "nothing", said)
        example, told = verdict.example_id, f"it fools the model at distance {hit.distance:.6g}"
        if self._spec.smoothing is None and hit.distance <= verdict.certified_radius:
            said = f"{told}, inside the certified radius {verdict.certified_radius:.6g}"
            return Assessment(example, "refutes", said, hit)
        if verdict.status is not Status.BROKEN:
            return Assessment(example, "breaks", f"{told}; the row has {verdict.status.value}", hit)
        known = verdict.adversarial_distance
        if hit.distance < known and not math.isclose(hit.distance, known, rel_tol=1e-9):
            return Assessment(example, "nearer", f"{told}; already broken at {known:.6g}", hit)
        return Assessment(example, "nothing", f"{told}; already broken at {known:.6g}", hit)


def apply(assessed: Sequence[RowAssessed], folder: Path, *, source: str) -> list[Published]:
    """Correct the rows that a submission changes, and withdraw those whose certificate it refutes.

    source: who found the adversarial examples, for the row. Raises what publishing raises.
    """
    done = list[Published]()
    for row in assessed:
        if refuted := row.with_effect("refutes"):
            why = f"example {refuted[0].example_id}: {refuted[0].message} (by {source})"
            done.append(withdraw_entries(folder, [row.entry], why))
            continue
        changes, evidence = row.with_effect("breaks", "nearer"), row.entry.evidence
        if changes and evidence is not None:
            after = corrected(evidence, changes, source=source)
            done.append(correct(folder, row.entry, after))
    return done


def corrected(evidence: Evidence, changes: Sequence[Assessment], *, source: str) -> Evidence:
    """Return evidence with the verdicts that adversarial examples change, and their source."""
    nearest: dict[int, Hit] = {}
    for change in changes:
        hit, known = change.hit, nearest.get(change.example_id)
        if hit is not None and (known is None or hit.distance < known.distance):
            nearest[change.example_id] = hit
    now = datetime.now(UTC).isoformat(timespec="seconds")
    before = [c for c in evidence.corrections if c.example_id not in nearest]
    return replace(
        evidence,
        verdicts=tuple(
            _broken(verdict, nearest[verdict.example_id])
            if verdict.example_id in nearest
            else verdict
            for verdict in evidence.verdicts
        ),
        corrections=(*before, *(Correction(i, source, now) for i in sorted(nearest))),
    ).with_sample()


def _broken(verdict: Verdict, hit: Hit) -> Verdict:
    return replace(
        verdict,
        status=Status.BROKEN,
        attack=SUBMITTED,
        adversarial_distance=hit.distance,
        x_adv=hit.x_adv,
        reason="",
        trail=(*verdict.trail, Step(SUBMITTED, Outcome.BROKEN, verdict.eps)),
    )


def summary(assessed: RowAssessed) -> str:
    """Say in one line what a submission comes to for a row."""
    counts = {
        effect: len(assessed.with_effect(effect))
        for effect in ("breaks", "refutes", "nearer", "nothing")
    }
    told = ", ".join(f"{n} {effect}" for effect, n in counts.items() if n)
    return f"{label(assessed.entry.row)}: {told}"
