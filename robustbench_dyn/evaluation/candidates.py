"""The harness's own eyes: every candidate of an attack is projected, re-predicted and measured."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.attacks.native.eot import N_PASSES, count_votes, outvoted
from robustbench_dyn.threat_models import ThreatModel, distance, project


class CandidateCheck(NamedTuple):
    """x_adv: candidates inside the threat model; fooled: (batch,) bool; distance: (batch,)."""

    x_adv: Tensor
    fooled: Tensor
    distance: Tensor


@torch.no_grad()
def check_candidates(
    model: nn.Module, candidates: Tensor, x: Tensor, y: Tensor, threat_model: ThreatModel
) -> CandidateCheck:
    """Decide which candidates are adversarial examples of the threat model.

    A candidate with an entry that is not finite is discarded; every other one is projected into
    the threat model, measured in float64 and predicted again. Logits that are not finite do not
    name the right class. candidates and x: (batch, *input_shape); y: (batch,).
    """
    inside, allowed, reached = _inside(candidates, x, threat_model)
    return CandidateCheck(inside, (predict(model(inside)) != y) & allowed, reached)


def check_candidates_in_expectation(
    model: nn.Module, candidates: Tensor, x: Tensor, y: Tensor, threat_model: ThreatModel, *,
    seed: int, n_passes: int = N_PASSES,
) -> CandidateCheck:  # fmt: skip
    """Decide which candidates are adversarial examples of a randomised model.

    Those where another class is predicted more often than y, in n_passes fresh passes: a single
    wrong draw does not count, nor does a tie. Otherwise as judge; seed: of torch's generators,
    which are put back.
    """
    inside, allowed, reached = _inside(candidates, x, threat_model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fooled = outvoted(count_votes(model, inside, n_passes), y)
    return CandidateCheck(inside, fooled & allowed, reached)


def _inside(
    candidates: Tensor, x: Tensor, threat_model: ThreatModel
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the candidates in the threat model, which of them may count, and their distances."""
    candidates = candidates.detach().to(x)
    finite = candidates.flatten(1).isfinite().all(dim=1)
    inside = project(candidates.where(_over_inputs(finite, x), x), x, threat_model)
    reached = distance(inside, x, threat_model.norm)
    return inside, finite & (reached <= threat_model.eps), reached


def predict(logits: Tensor) -> Tensor:
    """Return the class of the largest logit, (batch,); -1 where a logit is not finite."""
    return logits.argmax(dim=1).where(logits.isfinite().all(dim=1), -1)


def predict_in_expectation(
    model: nn.Module, x: Tensor, *, seed: int, n_passes: int = N_PASSES
) -> Tensor:
    """Return the class that a randomised model predicts most often, (batch,); -1 for none.

    seed: of torch's generators, which are put back.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        votes = count_votes(model, x, n_passes)
    predicted = votes.argmax(dim=1)
    return predicted.where(predicted < votes.shape[1] - 1, -1)


def _over_inputs(mask: Tensor, x: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (x.dim() - 1))
