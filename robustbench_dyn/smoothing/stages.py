"""The stages of a smoothed classifier: votes that certify it, and an attack in expectation."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from robustbench_dyn.certification.base import Phase
from robustbench_dyn.evaluation.candidates import Hit
from robustbench_dyn.evaluation.outcomes import (
    Batch,
    Broken,
    Classified,
    Failed,
    Open,
    Result,
    Spent,
)
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.results.verdicts import ABSTAINED, Outcome
from robustbench_dyn.smoothing.eot import eot_pgd
from robustbench_dyn.smoothing.statistics import certify, predict, radius_in
from robustbench_dyn.smoothing.votes import VoteCounter
from robustbench_dyn.threat_models import Norm, ThreatModel, distance, project

log = logging.getLogger(__name__)

ATTACK = "eot-pgd"
N_STEPS, N_DRAWS = 20, 16


class CertifiedExample(NamedTuple):
    """The result of CERTIFY on one example; radius is in L2, and 0 where it abstained."""

    example_id: int
    label: int
    prediction: int
    radius: float
    seconds: float


class VoteStage:
    """PREDICT and CERTIFY, from votes of the network on noisy copies."""

    name = "certify"
    phase = Phase.CLEAN
    copies, at_most, only_on_signs, sampled, makes_passes = 1, 1, False, False, True

    def __init__(self, counter: VoteCounter, norm: Norm) -> None:
        self._counter, self._norm = counter, norm
        self.labels = (counter.smoothing.label(norm),)
        self.probabilistic = frozenset(self.labels)
        self.passes = float(counter.smoothing.n0 + counter.smoothing.n)

    def run(self, batch: Batch) -> Sequence[Classified]:
        """Classify and certify each example by its own votes."""
        return [
            self._classify(i, batch.x[k : k + 1], batch.y[k : k + 1], batch.size)
            for k, i in enumerate(batch.ids)
        ]

    def certificate(self, example_id: int, x: Tensor, y: Tensor, *, size: int) -> CertifiedExample:
        """Return what CERTIFY says of one example, x (1, *input_shape)."""
        selection = self._counter.count(example_id, x, y, "select", size=size)
        estimate = self._counter.count(example_id, x, y, "estimate", size=size)
        found = certify(selection.counts, estimate.counts, self._counter.smoothing)
        return CertifiedExample(
            example_id=example_id,
            label=int(y),
            prediction=found.prediction,
            radius=found.radius,
            seconds=selection.seconds + estimate.seconds,
        )

    def _classify(self, example_id: int, x: Tensor, y: Tensor, size: int) -> Classified:
        smoothing = self._counter.smoothing
        certificate = self.certificate(example_id, x, y, size=size)
        votes = self._counter.count(example_id, x, y, "estimate", size=size)
        prediction = predict(votes.counts, smoothing.alpha)
        radius = math.nan
        if certificate.prediction == certificate.label and certificate.radius > 0:
            radius = radius_in(self._norm, certificate.radius, math.prod(x.shape[1:]))
        undefined = "most noisy copies have no class: their logits tie or are not finite"
        return Classified(
            prediction=prediction,
            radius=radius,
            certifier=self.labels[0] if radius > 0 else "",
            message=undefined if prediction == -1 else "",
            spent=Spent(smoothing.n0 + smoothing.n, seconds=certificate.seconds),
        )


class EotAttackStage:
    """Projected gradient ascent in expectation over noise; its candidates are checked by votes."""

    name = ATTACK
    phase = Phase.FIRST_ATTACK
    labels: tuple[str, ...] = ()
    probabilistic: frozenset[str] = frozenset()
    copies, at_most, only_on_signs, sampled = N_DRAWS, None, False, False
    passes, makes_passes = 2.0 * N_STEPS * N_DRAWS, True

    def __init__(self, counter: VoteCounter) -> None:
        self._counter = counter

    def run(self, batch: Batch) -> Sequence[Result]:
        """Attack the examples; what the model raises is a failure of the attack."""
        counter, network, n = self._counter, self._counter.model.network, len(batch.ids)
        forwards, backwards = network.forward_passes, network.backward_passes
        streams, failure = counter.streams(batch.x, batch.y, "attack"), ""
        candidates = batch.x
        try:
            candidates = eot_pgd(
                lambda x_adv, step: counter.classifier.log_probabilities(
                    x_adv, streams, step * N_DRAWS
                ),
                batch.x,
                batch.y,
                batch.threat_model,
                n_steps=N_STEPS,
            )
        # It runs an unknown model: a failure is recorded.
        except Exception as error:
            if is_machine_error(error):
                raise
            failure = f"{type(error).__name__}: {error}"
            log.warning("%s failed: %s", ATTACK, failure)
        # All examples of a batch go through the same passes of the search.
        forward = (network.forward_passes - forwards) // n
        backward = (network.backward_passes - backwards) // n
        results = list[Result]()
        for k in range(n):
            before = network.forward_passes
            hit = None if failure else self._check(batch, k, candidates[k : k + 1])
            spent = Spent(forward + network.forward_passes - before, backward)
            if hit is not None:
                results.append(Broken(hit=hit, spent=spent))
            elif failure:
                results.append(Failed(outcome=Outcome.FAILED, message=failure, spent=spent))
            else:
                results.append(Open(outcome=Outcome.SURVIVED, spent=spent))
        return results

    def _check(self, batch: Batch, k: int, candidate: Tensor) -> Hit | None:
        x, y = batch.x[k : k + 1], batch.y[k : k + 1]
        return find_hit(self._counter, x, y, candidate, batch.threat_model, size=batch.size)


def find_hit(
    counter: VoteCounter,
    x: Tensor,
    y: Tensor,
    candidate: Tensor,
    threat_model: ThreatModel,
    *,
    size: int,
) -> Hit | None:
    """Return a hit where the smoothed classifier errs at a candidate (1, *input_shape), or None.

    It errs where PREDICT answers anything but the label, from votes of noise that neither the
    attack nor the certificate has seen; where PREDICT abstains, nothing is shown.
    """
    smoothing, label = counter.smoothing, int(y)
    inside = project(candidate if candidate.isfinite().all() else x, x, threat_model)
    reached, answer = float(distance(inside, x, threat_model.norm)), label
    first = counter.votes_at(inside, x, y, "screen", smoothing.n0, size=size)
    # Where the label leads, n further votes would hardly put another class ahead for sure.
    if first[label] < max(first):
        votes = counter.votes_at(inside, x, y, "check", smoothing.n, size=size)
        answer = predict(votes, smoothing.alpha)
    if answer in (label, ABSTAINED) or not reached <= threat_model.eps:
        return None
    return Hit(ATTACK, reached, inside[0].cpu().contiguous().numpy().tobytes())
