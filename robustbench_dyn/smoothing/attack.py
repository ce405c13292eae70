"""The attack on a smoothed classifier: a search in expectation over noise, judged by new votes."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from torch import Tensor

from robustbench_dyn.attacks.native.eot import eot_pgd
from robustbench_dyn.evaluation.transitions import advance, broken
from robustbench_dyn.models.batch_size import is_out_of_memory
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.verdicts import ABSTAINED, Outcome, Status, Step, Verdict
from robustbench_dyn.smoothing.statistics import predict
from robustbench_dyn.smoothing.votes import NoisyExamples
from robustbench_dyn.threat_models import ThreatModel, distance, project

log = logging.getLogger(__name__)

ATTACK = "eot-pgd"
N_STEPS, N_DRAWS = 20, 16


def attack(
    noisy: NoisyExamples, chunk: list[Verdict], threat_model: ThreatModel
) -> tuple[list[Verdict], StageCost]:
    """Attack some examples; return their final verdicts, and what that took.

    What the model raises is recorded as a failure of the attack; running out of memory is passed
    on.
    """
    network, started = noisy.network, time.perf_counter()
    forwards, backwards = network.forward_passes, network.backward_passes
    x, y, streams = noisy.inputs([verdict.example_id for verdict in chunk], "attack")
    failure, candidates = "", x
    try:
        candidates = eot_pgd(
            lambda x_adv, step: noisy.classifier.log_probabilities(x_adv, streams, step * N_DRAWS),
            x, y, threat_model, n_steps=N_STEPS,
        )  # fmt: skip
    # It runs somebody's model: a failure is recorded.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        failure = f"{type(error).__name__}: {error}"
        log.warning("%s failed: %s", ATTACK, failure)
    # All examples of a chunk go through the same passes.
    forward = (network.forward_passes - forwards) // len(chunk)
    backward = (network.backward_passes - backwards) // len(chunk)
    share, judged = (time.perf_counter() - started) / len(chunk), []
    for k, verdict in enumerate(chunk):
        before, began = network.forward_passes, time.perf_counter()
        if failure:
            after = advance(verdict, (), Step(ATTACK, Outcome.FAILED, verdict.eps, failure))
        else:
            after = check_candidates(noisy, verdict, candidates[k : k + 1], threat_model)
        judged.append(
            replace(
                after,
                forward_passes=verdict.forward_passes + forward + network.forward_passes - before,
                backward_passes=verdict.backward_passes + backward,
                seconds=verdict.seconds + share + time.perf_counter() - began,
            )
        )
    cost = StageCost(
        threat_model.eps, ATTACK, len(chunk), sum(v.status is Status.BROKEN for v in judged),
        network.forward_passes - forwards, network.backward_passes - backwards,
        time.perf_counter() - started,
    )  # fmt: skip
    return judged, cost


def check_candidates(
    noisy: NoisyExamples, verdict: Verdict, candidate: Tensor, threat_model: ThreatModel
) -> Verdict:
    """Say whether the smoothed classifier errs at a candidate (1, *input_shape).

    It does where PREDICT answers anything but the label, from votes of noise that neither the
    attack nor the certificate has seen; where it abstains, nothing is shown. A find inside the
    certified radius refutes the certificate, one of those that may be wrong, and is told.
    """
    example_id, label, smoothing = verdict.example_id, verdict.label, noisy.smoothing
    x, _, _ = noisy.inputs([example_id], "judge")
    inside = project(candidate if candidate.isfinite().all() else x, x, threat_model)
    reached, answer = float(distance(inside, x, threat_model.norm)), label
    first = noisy.votes_at(inside, example_id, "screen", smoothing.n0)
    # Where the label leads, n further votes would hardly put another class ahead for sure.
    if first[label] < max(first):
        votes = noisy.votes_at(inside, example_id, "judge", smoothing.n)
        answer = predict(votes, smoothing.alpha)
    if answer in (label, ABSTAINED) or not reached <= threat_model.eps:
        return advance(verdict, (), Step(ATTACK, Outcome.SURVIVED, verdict.eps))
    reason = ""
    if reached <= verdict.certified_radius:
        reason = f"inside the radius, which holds with probability {1 - smoothing.alpha:g}"
        log.warning(
            "example %d is certified within %.6g, and %s fools the smoothed classifier at %.6g",
            example_id, verdict.certified_radius, ATTACK, reached,
        )  # fmt: skip
    x_adv = inside[0].cpu().contiguous().numpy().tobytes()
    return broken(verdict, ATTACK, reached, x_adv, reason=reason)
