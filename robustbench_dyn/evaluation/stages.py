"""Stages: each says of a batch of examples what it found, and does nothing else.

A stage can be run and tested alone. It touches neither the store, nor the clock, nor the progress
display; the pipeline batches, meters, stores and reports.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.certification.base import Phase, PreparedCertifier, Proof, radii
from robustbench_dyn.certification.patience import OutOfTime, Patience
from robustbench_dyn.evaluation.candidates import Hit, find_hits, predictions
from robustbench_dyn.evaluation.outcomes import (
    Batch,
    Broken,
    Certified,
    Classified,
    Failed,
    Open,
    Result,
)
from robustbench_dyn.models.determinism import stage_seed
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.models.validation import ModelUnderTest
from robustbench_dyn.results.verdicts import Outcome, Step
from robustbench_dyn.threat_models import Norm

log = logging.getLogger(__name__)

# Where certifiers have a budget, what is known before it ends is kept after so many examples.
_WITHIN_A_BUDGET = 4
# As long as about how many passes a proof takes, before any was measured.
_PASSES_OF_A_PROOF = {Phase.BEFORE_ATTACKS: 30.0, Phase.AFTER_FIRST_ATTACK: 1500.0}
_PASSES_OF_A_SEARCH = 5000.0
# For the plan of an attack's passes, where the number of classes is not known.
_MANY_CLASSES = 10


class ClassRadii:
    """The radii inside which a class cannot overtake the label, by certifiers that cost little.

    They tell attacks which classes they need not target.
    """

    def __init__(
        self,
        model: ModelUnderTest,
        certifiers: Sequence[PreparedCertifier],
        patience: Patience | None = None,
    ) -> None:
        early = (Phase.CLEAN, Phase.BEFORE_ATTACKS)
        self._model, self._patience = model, patience or Patience()
        self._certifiers = [c for c in certifiers if c.certifier.phase in early]
        # By certifier and example, where they hold at any eps.
        self._known = defaultdict[str, dict[int, Tensor]](dict)

    def remember(self, certifier: str, ids: Sequence[int], radii: Tensor) -> None:
        """Keep radii (n, classes) of the clean pass, which hold at any eps."""
        self._known[certifier].update(zip(ids, radii, strict=True))

    def of(self, batch: Batch) -> Tensor | None:
        """Return the radii of a batch, (n, classes) float64, or None where none can be had.

        What is not known is proved again. An audit asks whether the certificates are right: there
        they rule nothing out.
        """
        if not self._certifiers:
            return None
        logits = self._model.logits(batch.x)
        each = list[Tensor]()
        for prepared in self._certifiers:
            known = self._known[prepared.certifier.name]
            if all(i in known for i in batch.ids):
                each.append(torch.stack([known[i] for i in batch.ids]))
            else:
                found = _prove(self._model, prepared, batch, logits, self._patience)
                each.append(found.proof.class_radii)
        audited = torch.tensor(batch.audited)
        return torch.stack(each).amax(dim=0).masked_fill(audited[:, None], 0.0)


class CleanStage:
    """The clean pass, and the certifiers whose radii follow from it at any eps."""

    name = "certify"
    phase = Phase.CLEAN
    copies, at_most, only_on_signs, sampled = 1, None, False, False
    passes, makes_passes = 1.0, False

    def __init__(
        self,
        model: ModelUnderTest,
        certifiers: Sequence[PreparedCertifier],
        known: ClassRadii,
        norm: Norm,
        patience: Patience | None = None,
    ) -> None:
        self._model, self._known, self._patience = model, known, patience or Patience()
        self._certifiers = [c for c in certifiers if c.certifier.radius_based]
        self.labels = tuple(c.label(norm) for c in self._certifiers)
        self.probabilistic = frozenset(
            c.label(norm) for c in self._certifiers if not c.certifier.deterministic
        )

    def run(self, batch: Batch) -> Sequence[Classified]:
        """Classify the examples, and certify those that are classified correctly."""
        eps = batch.threat_model.eps
        logits = self._model.logits(batch.x)
        seed = stage_seed(batch.seed, "clean")
        predicted = predictions(self._model, batch.x, logits, seed=seed).tolist()
        best, labels = [math.nan] * len(batch.ids), [""] * len(batch.ids)
        attempts = [list[Step]() for _ in batch.ids]
        for prepared, label in zip(self._certifiers, self.labels, strict=True):
            name = prepared.certifier.name
            found = _prove(self._model, prepared, batch, logits, self._patience)
            proof = found.proof
            if found.finished:
                self._known.remember(name, batch.ids, proof.class_radii)
            rounded = _within_rounding(proof)
            for k, radius in enumerate(radii(proof).tolist()):
                if found.failure or k in rounded:
                    attempts[k].append(_not_proved(prepared, eps, found.failure))
                elif not radius >= eps:
                    attempts[k].append(Step(name, Outcome.OPEN, eps, found.gave_up))
                if radius > 0 and not best[k] >= radius:
                    best[k], labels[k] = radius, label
        return [
            Classified(
                prediction=predicted[k],
                radius=best[k],
                certifier=labels[k],
                attempts=tuple(attempts[k]),
                message="" if predicted[k] != -1 else "the logits are not finite",
            )
            for k in range(len(batch.ids))
        ]


class CertifierStage:
    """A certifier that looks at one ball."""

    copies, only_on_signs, sampled, makes_passes = 1, False, False, False

    def __init__(
        self,
        model: ModelUnderTest,
        prepared: PreparedCertifier,
        norm: Norm,
        patience: Patience | None = None,
    ) -> None:
        self._model, self._prepared = model, prepared
        self._patience = patience or Patience()
        self.name = prepared.certifier.name
        self.phase = prepared.certifier.phase
        self.labels = (prepared.label(norm),)
        certain = prepared.certifier.deterministic
        self.probabilistic = frozenset(() if certain else self.labels)
        self.passes = _PASSES_OF_A_PROOF.get(self.phase, _PASSES_OF_A_SEARCH)
        exhaustive = self.phase is Phase.LAST
        self.at_most = prepared.at_once if exhaustive else None
        if self._patience.seconds is not None and self._patience.searches:
            # Where a budget ends in the middle of a batch, all of it stays open.
            self.at_most = _WITHIN_A_BUDGET
        elif exhaustive:
            self._patience = Patience()
        if exhaustive and self._patience.seconds is not None:
            # What was decided before the budget ends is kept.
            self.at_most = 1
        self._exhaustive = exhaustive

    def run(self, batch: Batch) -> Sequence[Result]:
        """Prove the ball around each example, or check the counterexample that is offered."""
        if self._patience.over:
            return [self._gave_up() for _ in batch.ids]
        eps = batch.threat_model.eps
        logits = self._model.logits(batch.x)
        found = _prove(self._model, self._prepared, batch, logits, self._patience)
        if found.gave_up:
            return [self._gave_up() for _ in batch.ids]
        proof, failure = found.proof, found.failure
        proved, rounded = radii(proof).tolist(), _within_rounding(proof)
        hits: Sequence[Hit | None] = [None] * len(batch.ids)
        if proof.candidates is not None:
            hits = _hits(self._model, self.name, proof.candidates, batch)
        results = list[Result]()
        for k, hit in enumerate(hits):
            if hit is not None:
                results.append(Broken(hit=hit))
            elif proved[k] >= eps:
                results.append(Certified(certifier=self.labels[0], radius=proved[k]))
            elif failure:
                results.append(Failed(outcome=Outcome.NOT_APPLICABLE, message=failure))
            elif k in rounded:
                step = _not_proved(self._prepared, eps)
                results.append(Open(outcome=step.outcome, message=step.message))
            else:
                margin = None if proof.margins is None else _told(float(proof.margins[k]))
                message = self._why_open(proof, k)
                results.append(Open(outcome=Outcome.OPEN, message=message, margin=margin))
        return results

    def _why_open(self, proof: Proof, k: int) -> str:
        """Say why an exhaustive search ended with neither a proof nor a counterexample."""
        if not self._exhaustive:
            return ""
        if proof.gave_up is not None and bool(proof.gave_up[k]):
            return "gave up: no bound neared a proof"
        return "timed out"

    def _gave_up(self) -> Open:
        return Open(outcome=Outcome.OPEN, message=self._patience.said)


class AttackStage:
    """An attack, and the check of its candidates."""

    labels: tuple[str, ...] = ()
    probabilistic: frozenset[str] = frozenset()
    copies, at_most, makes_passes = 1, None, True

    def __init__(
        self, model: ModelUnderTest, attack: Attack, known: ClassRadii, *, first: bool
    ) -> None:
        self._model, self._attack, self._known = model, attack, known
        self.name = attack.name
        self.phase = Phase.FIRST_ATTACK if first else Phase.ATTACKS
        self.only_on_signs, self.sampled = attack.only_on_signs, attack.sampled
        self.passes = attack.expected_passes(model.n_classes or _MANY_CLASSES)

    def run(self, batch: Batch) -> Sequence[Result]:
        """Search for adversarial examples; what the model or the library raises is a failure.

        An error of the machine is none, and passed on."""
        try:
            candidates = self._attack.search(
                self._model.network,
                batch.x,
                batch.y,
                batch.threat_model,
                seed=stage_seed(batch.seed, self.name),
                batch_size=batch.size,
                n_classes=self._model.n_classes,
                class_radii=self._known.of(batch) if self._attack.per_class else None,
                tell=batch.tell,
            )
            hits = _hits(self._model, self.name, candidates, batch)
        # Attacks run an unknown model inside a library: a failure is recorded.
        except Exception as error:
            if is_machine_error(error):
                raise
            failure = f"{type(error).__name__}: {error}"
            log.warning("%s failed: %s", self.name, failure)
            return [Failed(outcome=Outcome.FAILED, message=failure) for _ in batch.ids]
        return [Open(outcome=Outcome.SURVIVED) if hit is None else Broken(hit=hit) for hit in hits]


def _hits(
    model: ModelUnderTest, name: str, candidates: Tensor, batch: Batch
) -> Sequence[Hit | None]:
    seed = stage_seed(batch.seed, name)
    return find_hits(model, name, candidates, batch.x, batch.y, batch.threat_model, seed=seed)


class _Found(NamedTuple):
    """What a certifier proved; failure: why it failed; gave_up: what is said where time was over.

    In both cases, the proof is one of nothing.
    """

    proof: Proof
    failure: str = ""
    gave_up: str = ""

    @property
    def finished(self) -> bool:
        return not self.failure and not self.gave_up


def _prove(
    model: ModelUnderTest,
    prepared: PreparedCertifier,
    batch: Batch,
    logits: Tensor,
    patience: Patience,
) -> _Found:
    """Run a certifier; an error of the machine is passed on."""
    nothing = Proof(torch.zeros(logits.shape, dtype=torch.float64))
    try:
        with patience.spending(watched=not prepared.certifier.looks_at_time):
            proof = prepared.prove(batch.x, logits, batch.y, batch.threat_model)
    except OutOfTime:
        return _Found(nothing, gave_up=patience.said)
    # A certifier reads an unknown model, and may fail at anything: a failure is recorded.
    except Exception as error:
        if is_machine_error(error):
            raise
        failure = f"{type(error).__name__}: {error}"
        log.warning("certifier %s failed: %s", prepared.certifier.name, failure)
        return _Found(nothing, failure)
    model.network.forward_passes += proof.forward_passes
    return _Found(proof)


def _told(margin: float) -> float | None:
    """Round a lower bound down to four digits, which is all that is told; None for no number."""
    if not math.isfinite(margin):
        return None
    return float(f"{margin - 5e-4 * abs(margin):.4g}")


def _within_rounding(proof: Proof) -> set[int]:
    """Return the rows where the model's own rounding forbids a proof."""
    rows = proof.within_rounding
    return set() if rows is None else set(rows.nonzero().flatten().tolist())


def _not_proved(prepared: PreparedCertifier, eps: float, failure: str = "") -> Step:
    """Say that a certifier failed, or that rounding forbids what it would prove."""
    name = prepared.certifier.name
    if failure:
        return Step(name, Outcome.NOT_APPLICABLE, eps, failure)
    message = "the network's own rounding may exceed a margin"
    return Step(name, Outcome.WITHIN_ROUNDING, eps, message)
