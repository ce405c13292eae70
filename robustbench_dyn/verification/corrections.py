"""Submitted adversarial examples judged like every candidate, and what they change in tables."""

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
from robustbench_dyn.isolation.process import reported
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.machine_errors import machine_errors_explained
from robustbench_dyn.models.precision import full_precision
from robustbench_dyn.models.validation import ModelUnderTest
from robustbench_dyn.reporting.published import Entry
from robustbench_dyn.reporting.publishing import Published, correct, label, withdraw_entries
from robustbench_dyn.results.evidence import Correction, Evidence
from robustbench_dyn.results.flags import RANDOM
from robustbench_dyn.results.verdicts import Outcome, Status, Step, Verdict
from robustbench_dyn.smoothing.stages import N_DRAWS, find_hit
from robustbench_dyn.smoothing.votes import VoteCounter
from robustbench_dyn.threat_models import ThreatModel, widest_eps
from robustbench_dyn.verification.consistency import SUBMITTED
from robustbench_dyn.verification.rebuilding import rebuild_subject, smoothing_of
from robustbench_dyn.verification.replay import ReplayOptions
from robustbench_dyn.verification.submissions import Submission

_BATCH_SIZE = 250


class Judgement(NamedTuple):
    """What one image of a submission comes to for one row.

    effect: it breaks an example that no attack broke, refutes a certificate, is nearer than the
    adversarial example that is known, or changes nothing. hit: the checked image, if it counts.
    """

    example_id: int
    effect: Literal["breaks", "refutes", "nearer", "nothing"]
    message: str
    hit: Hit | None = None


class RowJudged(NamedTuple):
    """The judgements of a submission's images for one row."""

    entry: Entry
    judgements: list[Judgement]

    def with_effect(self, *effects: str) -> list[Judgement]:
        """Return the judgements that have one of these effects."""
        return [judged for judged in self.judgements if judged.effect in effects]


def judge(
    submission: Submission, entries: Sequence[Entry], options: ReplayOptions
) -> list[RowJudged]:
    """Judge a submission against each row that it is about.

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
        RowJudged(entry, _judge_row(submission, entry.evidence, options))
        for entry in about
        if entry.evidence is not None
    ]


def _judge_row(
    submission: Submission, evidence: Evidence, options: ReplayOptions
) -> list[Judgement]:
    subject = rebuild_subject(evidence, plugins=options.plugins, data_dir=options.data_dir)
    shape, spec = tuple(subject.dataset.x.shape[1:]), evidence.record.spec
    if submission.x_adv.shape[1:] != shape:
        raise InputError(
            f"x_adv has images of shape {submission.x_adv.shape[1:]}, and those of {spec.dataset} "
            f"have {shape}"
        )
    device = device_of(subject.model, options.device)
    with (
        reported(),
        machine_errors_explained(),
        full_precision(),
        frozen_eval(subject.model.to(device)),
    ):
        model = ModelUnderTest(
            subject.model,
            subject.dataset,
            device=device,
            seed=options.seed,
            batch_size=_BATCH_SIZE,
            name=None,
        )
        model.in_expectation = RANDOM in evidence.flags
        judging = _Judging(evidence, model, subject.dataset.x, options.seed, device)
        images = torch.from_numpy(submission.x_adv)
        return [
            judging.judge(example_id, images[k : k + 1])
            for k, example_id in enumerate(submission.example_ids)
        ]


class _Judging:
    """The images of one row, judged one by one."""

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

    def judge(self, example_id: int, image: Tensor) -> Judgement:
        """Judge one image, (1, *input_shape)."""
        place = example_id - self._first
        if not 0 <= place < len(self._evidence.verdicts):
            last = self._evidence.verdicts[-1].example_id
            said = f"the row is about the examples {self._first} to {last}"
            return Judgement(example_id, "nothing", said)
        verdict = self._evidence.verdicts[place]
        if verdict.prediction != verdict.label:
            return Judgement(example_id, "nothing", "the example is misclassified as it is")
        flat = image.flatten()
        if not bool(flat.isfinite().all()):
            return Judgement(example_id, "nothing", "the image has entries that are not finite")
        if float(flat.min()) < 0 or float(flat.max()) > 1:
            return Judgement(example_id, "nothing", "the image leaves the input range [0, 1]")
        hit = self._hit(verdict, image.to(self._device), self._reach(verdict))
        if hit is None:
            said = "inside the threat model, the model still names the right class"
            return Judgement(example_id, "nothing", said)
        return self._effect(verdict, hit)

    def _reach(self, verdict: Verdict) -> float:
        """Return how far an image may be away: a certificate speaks of all its radius."""
        eps = self._evidence.eps
        if self._spec.smoothing is not None or not verdict.certified_radius > eps:
            return eps
        return min(verdict.certified_radius, widest_eps(self._spec.norm, tuple(self._x.shape[1:])))

    def _hit(self, verdict: Verdict, image: Tensor, reach: float) -> Hit | None:
        place = verdict.example_id - self._first
        x = self._x[place : place + 1].to(self._device)
        y = torch.tensor([verdict.label], device=self._device)
        # Within eps first: what is broken there is broken at eps.
        for radius in dict.fromkeys((self._evidence.eps, reach)):
            threat_model = ThreatModel(self._spec.norm, radius)
            if self._spec.smoothing is not None:
                smoothing = smoothing_of(self._spec)
                counter = VoteCounter(self._model, smoothing, {}, seed=self._seed, n_draws=N_DRAWS)
                hit = find_hit(counter, x, y, image, threat_model, size=_BATCH_SIZE)
            else:
                (hit,) = find_hits(
                    self._model, SUBMITTED, image, x, y, threat_model, seed=self._seed
                )
            if hit is not None:
                return hit._replace(attack=SUBMITTED)
        return None

    def _effect(self, verdict: Verdict, hit: Hit) -> Judgement:
        example, told = verdict.example_id, f"it fools the model at distance {hit.distance:.6g}"
        if self._spec.smoothing is None and hit.distance <= verdict.certified_radius:
            said = f"{told}, inside the certified radius {verdict.certified_radius:.6g}"
            return Judgement(example, "refutes", said, hit)
        if verdict.status is not Status.BROKEN:
            return Judgement(example, "breaks", f"{told}; the row has {verdict.status.value}", hit)
        known = verdict.adversarial_distance
        if hit.distance < known and not math.isclose(hit.distance, known, rel_tol=1e-9):
            return Judgement(example, "nearer", f"{told}; already broken at {known:.6g}", hit)
        return Judgement(example, "nothing", f"{told}; already broken at {known:.6g}", hit)


def apply(judged: Sequence[RowJudged], folder: Path, *, source: str) -> list[Published]:
    """Correct the rows that a submission changes, and withdraw those whose certificate it refutes.

    source: who found the adversarial examples, for the row. Raises what publishing raises.
    """
    done = list[Published]()
    for row in judged:
        if refuted := row.with_effect("refutes"):
            why = f"example {refuted[0].example_id}: {refuted[0].message} (by {source})"
            done.append(withdraw_entries(folder, [row.entry], why))
            continue
        changes, evidence = row.with_effect("breaks", "nearer"), row.entry.evidence
        if changes and evidence is not None:
            after = corrected(evidence, changes, source=source)
            done.append(correct(folder, row.entry, after))
    return done


def corrected(evidence: Evidence, changes: Sequence[Judgement], *, source: str) -> Evidence:
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


def summary(judged: RowJudged) -> str:
    """Say in one line what a submission comes to for a row."""
    counts = {
        effect: len(judged.with_effect(effect))
        for effect in ("breaks", "refutes", "nearer", "nothing")
    }
    told = ", ".join(f"{n} {effect}" for effect, n in counts.items() if n)
    return f"{label(judged.entry.row)}: {told}"
