"""Check the candidates of an attack: project them, measure the distance, predict again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.attacks.native.eot import N_PASSES, count_votes, outvoted
from robustbench_dyn.models.validation import ModelUnderTest
from robustbench_dyn.threat_models import ThreatModel, distance, project


class Hit(NamedTuple):
    """An adversarial example that was checked: what found it, its distance, and its bytes."""

    attack: str
    distance: float
    x_adv: bytes


class CandidateCheck(NamedTuple):
    """x_adv: candidates inside the threat model; fooled: (batch,) bool; distance: (batch,)."""

    x_adv: Tensor
    fooled: Tensor
    distance: Tensor


def find_hits(
    model: ModelUnderTest,
    attack: str,
    candidates: Tensor,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    seed: int,
) -> Sequence[Hit | None]:
    """Return the hit of each example, or None where its candidate is no adversarial example.

    candidates and x: (n, *input_shape); y: (n,). seed: for a randomised model.
    """
    network = model.network
    if model.in_expectation:
        check = check_candidates_in_expectation(network, candidates, x, y, threat_model, seed=seed)
    else:
        check = check_candidates(network, candidates, x, y, threat_model)
    hits: list[Hit | None] = [None] * len(x)
    for k in check.fooled.nonzero().flatten().tolist():
        x_adv = check.x_adv[k].cpu().contiguous().numpy().tobytes()
        hits[k] = Hit(attack, float(check.distance[k]), x_adv)
    return hits


def predictions(model: ModelUnderTest, x: Tensor, logits: Tensor, *, seed: int) -> Tensor:
    """Return the classes that a model predicts at x, (n,): by majority where it is random.

    logits: those of one pass at x, (n, classes).
    """
    if model.in_expectation:
        return predict_in_expectation(model.network, x, seed=seed)
    return predict(logits)


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
    model: nn.Module,
    candidates: Tensor,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    seed: int,
    n_passes: int = N_PASSES,
) -> CandidateCheck:
    """Decide which candidates are adversarial examples of a randomised model.

    Those where another class is predicted more often than y, in n_passes fresh passes: a single
    wrong draw does not count, nor does a tie. Otherwise as check_candidates; seed: of torch's
    generators, which are put back.
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
