"""Replay a row: the model predicts again, certifiers prove again, attacks search with new seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.evaluation.api import evaluate
from robustbench_dyn.evaluation.candidates import predict_in_expectation
from robustbench_dyn.evaluation.options import device_of
from robustbench_dyn.evaluation.under_test import under_test
from robustbench_dyn.models.validation import ModelUnderTest
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.flags import NOT_A_FUNCTION, RANDOM
from robustbench_dyn.results.verdicts import Status, Verdict
from robustbench_dyn.threat_models import ThreatModel, distance
from robustbench_dyn.verification.certificates import prepare_again, recompute
from robustbench_dyn.verification.counterexamples import save_counterexample
from robustbench_dyn.verification.facts import check_facts
from robustbench_dyn.verification.findings import Finding, shown_ids
from robustbench_dyn.verification.options import ReplayOptions
from robustbench_dyn.verification.rebuilding import (
    RefusedError,
    rebuild_attacks,
    rebuild_certifiers,
    rebuild_subject,
    versions_that_differ,
)
from robustbench_dyn.verification.rules import (
    DISTANCE,
    ROUNDING,
    UNREPEATED,
    VARIATION,
    differs_one_sidedly,
    how_many_hold,
    is_chance,
    p_value,
)
from robustbench_dyn.verification.sampling import Sample, draw, varies

_BATCH_SIZE = 250


@dataclass
class Replayed:
    """What a replay found: see findings.Report."""

    findings: list[Finding] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fails(self, check: str, message: str, examples: Sequence[int] = ()) -> None:
        """Add a finding."""
        self.findings.append(Finding(check, message, tuple(examples)))


def replay(evidence: Evidence, options: ReplayOptions) -> Replayed:
    """Run the model of a row on a sample of its examples, and hold the row to what comes out.

    A stage that is not here, or is another one here, is a finding beside those before it. Raises
    RefusedError where the model or the images are not here, or are others.
    """
    subject = rebuild_subject(evidence, options)
    spec, found = evidence.record.spec, Replayed(notes=[subject.note] if subject.note else [])
    sample = draw(evidence, size=options.sample, seed=options.seed)
    if spec.smoothing is not None:
        # Imported here, for smoothing is a package above evaluation that few rows need.
        from robustbench_dyn.verification.smoothed import replay_smoothed  # noqa: PLC0415

        replay_smoothed(found, evidence, subject, sample, options)
        return found
    device = device_of(subject.model, options.device)
    # A row may say "auto", which measures, and stops where memory runs out.
    batch_size = spec.batch_size if isinstance(spec.batch_size, int) else _BATCH_SIZE
    try:
        with under_test(
            subject.model, subject.dataset, device=device, seed=options.seed, batch_size=batch_size
        ) as tested:
            work = _Replay(evidence, subject.dataset, tested, device, options, found)
            check_facts(found, evidence, tested, subject.dataset, options)
            work.predict_again()
            work.attack_images_again(sample.kept)
            work.prove_again(sample)
        work.attack_again(sample)
    except RefusedError as error:
        found.fails("replay", str(error))
    return found


class _Replay:
    """One replay at work."""

    def __init__(
        self,
        evidence: Evidence,
        dataset: Dataset,
        model: ModelUnderTest,
        device: torch.device,
        options: ReplayOptions,
        found: Replayed,
    ) -> None:
        self.evidence, self.spec = evidence, evidence.record.spec
        self.dataset, self.model, self.device = dataset, model, device
        self.options, self.found = options, found
        self._first = evidence.verdicts[0].example_id
        # What is no function of its input answers otherwise the next time.
        self._varies = bool(NOT_A_FUNCTION.intersection(evidence.flags))
        model.in_expectation = RANDOM in evidence.flags

    def predict_again(self) -> None:
        """Hold all predictions of the row to those of the model now."""
        verdicts, wrong = self.evidence.verdicts, list[int]()
        for part in _parts(verdicts, self._size()):
            x, _ = self._tensors(part)
            logits = self._logits(x)
            labels = self._predicted(x, logits)
            for verdict, row, now in zip(part, logits, labels, strict=True):
                if now != verdict.prediction and not _ties(row, verdict.prediction):
                    wrong.append(verdict.example_id)
        if wrong and not (self._varies and is_chance(len(wrong), len(verdicts))):
            self.found.fails(
                "predictions",
                f"{shown_ids(wrong)}: the model predicts another class than the row says",
                wrong,
            )
        if not wrong:
            self.found.statements.append(f"all {len(verdicts)} clean predictions hold")

    def attack_images_again(self, kept: Sequence[Verdict]) -> None:
        """Hold the kept adversarial examples to what the model predicts at them."""
        standing, outside = list[int](), list[int]()
        for part in _parts(kept, self._size()):
            x, y = self._tensors(part)
            images = _images_of(part, x)
            if images is None:
                outside += [verdict.example_id for verdict in part]
                continue
            reached = distance(images, x, self.spec.norm)
            inside = (reached <= self.evidence.eps * (1 + DISTANCE)) & _in_range(images)
            logits = self._logits(images)
            names_label = _names_label(logits, y)
            if self.model.in_expectation:
                names_label = self._predicted_tensor(images) == y
            for k, verdict in enumerate(part):
                if not inside[k]:
                    outside.append(verdict.example_id)
                elif names_label[k]:
                    standing.append(verdict.example_id)
        if outside:
            self.found.fails(
                "adversarial example",
                f"{shown_ids(outside)}: the kept adversarial example lies outside of the threat "
                "model",
                outside,
            )
        if standing and not (self._varies and is_chance(len(standing), len(kept))):
            self.found.fails(
                "adversarial example",
                f"{shown_ids(standing)}: the model names the right class at the kept adversarial "
                "example",
                standing,
            )
        if kept and not standing and not outside:
            self.found.statements.append(f"all {len(kept)} kept adversarial examples hold")

    def prove_again(self, sample: Sample) -> None:
        """Hold the certificates and radii of the sample to what certifiers prove now."""
        verdicts = [
            v for v in (*sample.certified, *sample.undecided, *sample.broken) if v.certifier
        ]
        if not verdicts or self.spec.voids_certificates(self.evidence.flags):
            return
        certifiers, foreign = rebuild_certifiers(self.evidence)
        self.found.notes += versions_that_differ(self.evidence, certifiers)
        if foreign:
            self.found.notes.append(
                f"{', '.join(foreign)} is no certifier of this package: what it proved counts only "
                "where another certifier of the row proves it"
            )
        x, y = self._tensors(verdicts)
        ready = prepare_again(self.model, certifiers, self.spec, tuple(x.shape[1:]))
        again = recompute(self.model, ready, x, y, verdicts, self.spec.norm, self.evidence.eps)
        if again.unproved:
            self.found.fails(
                "certificate",
                f"{shown_ids(again.unproved)}: certified in the row, and not proved at eps "
                f"{self.evidence.eps:g} again",
                again.unproved,
            )
        tried = len(again.unrepeated) + len(again.proved)
        if again.unrepeated and not is_chance(len(again.unrepeated), tried, rate=UNREPEATED):
            self.found.fails(
                "certificate",
                f"{shown_ids(again.unrepeated)}: a search that ends by the clock does not end in "
                "its proof again",
                again.unrepeated,
            )
        for example, (stated, proved) in sorted(again.shorter.items())[:1]:
            self.found.fails(
                "radius",
                f"{shown_ids(sorted(again.shorter))}: the certified radius is too long; of example "
                f"{example} it is {stated:g}, and {proved:g} is proved",
                sorted(again.shorter),
            )
        if sample.certified:
            self.found.statements.append(
                how_many_hold(
                    "certificates",
                    sample=len(sample.certified),
                    held=len(again.proved),
                    population=sample.n_certified,
                )
            )

    def attack_again(self, sample: Sample) -> None:
        """Attack the sample with the suite of the row and new seeds; images are checked as ever."""
        verdicts = sorted(
            (*sample.certified, *sample.undecided, *sample.broken), key=lambda v: v.example_id
        )
        if not verdicts:
            return
        attacks = rebuild_attacks(self.evidence)
        self.found.notes += versions_that_differ(self.evidence, attacks)
        after = self._attacked(verdicts, attacks)
        fell = {i for i, verdict in after.items() if verdict.status is Status.BROKEN}
        self._assess_certified(sample, after, fell)
        fallen = [v.example_id for v in sample.undecided if v.example_id in fell]
        standing = [v.example_id for v in sample.broken if v.example_id not in fell]
        compare_attacks(self.found, self.evidence, sample, fell)
        for what, failed, tried, population in (
            ("undecided examples", fallen, len(sample.undecided), sample.n_undecided),
            ("broken examples without an image", standing, len(sample.broken), sample.n_broken),
        ):
            if tried:
                self.found.statements.append(
                    how_many_hold(
                        what, sample=tried, held=tried - len(failed), population=population
                    )
                )

    def _assess_certified(self, sample: Sample, after: dict[int, Verdict], fell: set[int]) -> None:
        refuted = [v for v in sample.certified if v.example_id in fell]
        for verdict in refuted:
            path = save_counterexample(
                self.options.keep,
                self.evidence,
                after[verdict.example_id],
                input_shape=tuple(self.dataset.x.shape[1:]),
            )
            self.found.fails(
                "certificate",
                f"example {verdict.example_id}: certified within {verdict.certified_radius:g}, and "
                f"{after[verdict.example_id].attack} fools the model at "
                f"{after[verdict.example_id].adversarial_distance:g}"
                + (f" (saved: {path})" if path else ""),
                [verdict.example_id],
            )

    def _attacked(
        self, verdicts: Sequence[Verdict], attacks: Sequence[Attack]
    ) -> dict[int, Verdict]:
        rows = torch.tensor([v.example_id - self._first for v in verdicts])
        part = replace(
            self.dataset,
            x=self.dataset.x[rows],
            y=self.dataset.y[rows],
            ids=self.dataset.ids[rows],
            # Of the whole split; of a part, it is computed.
            sha256="",
        )
        evaluation = evaluate(
            self.model.network.model,
            part,
            ThreatModel(self.spec.norm, self.evidence.eps),
            seed=self.options.seed,
            batch_size=self._size(),
            # Where the row ran none, its certificates are audited all the same.
            attacks=attacks or "standard-full",
            certifiers="none",
            device=self.device,
            progress=False,
        )
        return {verdict.example_id: verdict for verdict in evaluation.verdicts}

    def _predicted(self, x: Tensor, logits: Tensor) -> list[int]:
        if self.model.in_expectation:
            return self._predicted_tensor(x).tolist()
        return logits.argmax(dim=1).where(logits.isfinite().all(dim=1), -1).tolist()

    def _predicted_tensor(self, x: Tensor) -> Tensor:
        return predict_in_expectation(self.model.network, x, seed=self.options.seed)

    def _logits(self, x: Tensor) -> Tensor:
        return self.model.logits(x)

    def _tensors(self, verdicts: Sequence[Verdict]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor([v.example_id - self._first for v in verdicts])
        return self.dataset.x[rows].to(self.device), self.dataset.y[rows].to(self.device)

    def _size(self) -> int:
        size = self.spec.batch_size
        return size if isinstance(size, int) else _BATCH_SIZE


def compare_attacks(
    found: Replayed, evidence: Evidence, sample: Sample, fell: Collection[int]
) -> None:
    """Assess which undecided examples fell and which broken ones stood when attacks ran again."""
    fallen = [v.example_id for v in sample.undecided if v.example_id in fell]
    standing = [v.example_id for v in sample.broken if v.example_id not in fell]
    # Of attacks that may vary by any amount, only a difference to one side tells something.
    if varies(evidence) and not differs_one_sidedly(len(fallen), len(standing)):
        return
    for what, failed, tried in (
        ("undecided examples fall", fallen, len(sample.undecided)),
        ("broken examples stand", standing, len(sample.broken)),
    ):
        if failed and not is_chance(len(failed), tried):
            chance = p_value(len(failed), tried, rate=VARIATION)
            found.fails(
                "attacks",
                f"{len(failed)} of {tried} {what} when the attacks are run again with another "
                f"seed; of variation by {100 * VARIATION:g} %, that has probability {chance:.1g} "
                f"({shown_ids(failed)})",
                failed,
            )


def _parts(verdicts: Sequence[Verdict], size: int) -> Iterator[Sequence[Verdict]]:
    for start in range(0, len(verdicts), size):
        yield verdicts[start : start + size]


def _ties(logits: Tensor, predicted: int) -> bool:
    """Say whether a class is at most rounding behind the first one; logits: (classes,)."""
    if not (0 <= predicted < len(logits) and bool(logits.isfinite().all())):
        return False
    behind = float(logits.max() - logits[predicted])
    return behind <= ROUNDING * float(logits.abs().max())


def _names_label(logits: Tensor, y: Tensor) -> Tensor:
    """Say where the right class is ahead by more than rounding, (n,) bool."""
    others = logits.scatter(1, y[:, None], -math.inf)
    ahead = logits.gather(1, y[:, None])[:, 0] - others.amax(dim=1)
    # Written so that logits that are not finite name no class.
    return (ahead > ROUNDING * logits.abs().amax(dim=1)) & logits.isfinite().all(dim=1)


def _images_of(verdicts: Sequence[Verdict], x: Tensor) -> Tensor | None:
    """Return the kept adversarial examples in x's shape, or None for other bytes."""
    size = x[0].numel() * 4
    if any(len(verdict.x_adv or b"") != size for verdict in verdicts):
        return None
    content = b"".join(verdict.x_adv or b"" for verdict in verdicts)
    return torch.frombuffer(bytearray(content), dtype=torch.float32).reshape(x.shape).to(x)


def _in_range(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    return (flat >= 0).all(dim=1) & (flat <= 1).all(dim=1)
