"""Signs of masked gradients, with which gradient attacks say little of a model's robustness.

The signs are those of Athalye, Carlini & Wagner (arXiv 1802.00420, Section 3.1), of Carlini et al.
(arXiv 1902.06705), and AutoAttack's own checks. On a model without masks each is absent;
on one with a sign, the empirical accuracy may be far too high.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from robustbench_dyn.attacks.native.apgd import apgd
from robustbench_dyn.attacks.native.batched_search import gradient_of, logits_of, margins_of
from robustbench_dyn.attacks.wrapping import posed
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.results.spec import StageSpec
from robustbench_dyn.results.verdicts import Sign
from robustbench_dyn.threat_models import ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.attacks.problem import AttackProblem

# Correctly classified examples that are looked at.
N_EXAMPLES = 32
# The share of examples without a gradient of the margin. AutoAttack warns at the first one, of
# cross-entropy, which saturates on networks with large logits; the margin does not.
ZERO_GRADIENTS = 0.1
# The share of examples on whose way along the gradient the loss does not rise as the gradient says,
# by less than a tenth or more than ten times, at any of the lengths (a quarter and one grey level
# of 255). Of the 42 networks of this package, with 29 to 40 examples each, it is none.
WRONG_GRADIENTS = 0.25
_RISE = (0.1, 10.0)
_LENGTHS = (0.25 / 255, 1 / 255)
# Every ball of this radius in Linf holds the grey image, which has one class: no model is robust
# there by more than chance (arXiv 1802.00420, Section 3.1: unbounded attacks reach 100 %).
LARGE_EPS = 0.5
_LARGE_EPS_STEPS = 10
# A single example that stands may be the grey image's class.
_LEAST_STANDING = 2
# A share of all examples that a black-box attack broke and the white-box ones before it did not;
# AutoAttack's threshold (its check of Square).
GRADIENT_FREE_GAIN = 0.002
_RELIABLE = 64 * torch.finfo(torch.float32).eps


def find_signs(
    model: nn.Module, x: Tensor, y: Tensor, *, n_classes: int, batch_size: int, seed: int
) -> list[Sign]:
    """Look for masked gradients at correctly classified examples; the first N_EXAMPLES count.

    x: (n, *input_shape) in [0, 1]; y: (n,). The model is given back as it was. What it raises
    where gradients are asked for is a sign; errors of the machine are passed on.
    """
    if len(x) == 0:
        return []
    large = ThreatModel("Linf", LARGE_EPS)
    with posed(
        model,
        x[:N_EXAMPLES],
        y[:N_EXAMPLES],
        large,
        seed=seed,
        n_classes=n_classes,
        batch_size=batch_size,
    ) as problem:
        gradient = margin_gradient(problem)
        if gradient is None:
            return [Sign("zero_gradients", 1.0)]
        signs = [
            zero_gradients(gradient),
            wrong_gradients(problem, gradient),
            large_eps_accuracy(problem),
        ]
    return [sign for sign in signs if sign is not None]


def margin_gradient(problem: AttackProblem) -> Tensor | None:
    """Return the gradient of max z_j - z_y, (n, C, H, W), or None where the model gives none."""
    try:
        gradient, _, _ = gradient_of(
            problem, problem.x, lambda logits, rows: -margins_of(logits, problem.y[rows])
        )
    # A model may fail in any way where a graph is recorded.
    except Exception as error:
        if is_machine_error(error):
            raise
        return None
    return gradient


def zero_gradients(gradient: Tensor) -> Sign | None:
    """Tell the share of examples whose gradient (n, ...) is zero or not finite, if it is large."""
    usable = gradient.flatten(1).isfinite().all(dim=1) & (gradient != 0).flatten(1).any(dim=1)
    return _above("zero_gradients", 1 - _share(usable), ZERO_GRADIENTS)


def wrong_gradients(problem: AttackProblem, gradient: Tensor) -> Sign | None:
    """Tell the share of examples whose gradient misleads, if it is large.

    The margin's differences over finite steps along the signs of its gradient are compared with
    what the gradient predicts for them; zero gradients predict nothing, and do not count here.
    """
    gradient = gradient.nan_to_num()
    wrong = torch.ones_like(problem.y, dtype=torch.bool)
    for length in _LENGTHS:
        up = (problem.x + length * gradient.sign()).clamp(0, 1)
        down = (problem.x - length * gradient.sign()).clamp(0, 1)
        logits = [logits_of(problem, points).double() for points in (up, down)]
        rise = margins_of(logits[1], problem.y) - margins_of(logits[0], problem.y)
        predicted = (gradient.double() * (up - down).double()).flatten(1).sum(dim=1)
        rounding = _RELIABLE * torch.stack(logits).abs().amax(dim=(0, 2))
        as_predicted = (rise >= _RISE[0] * predicted) & (rise <= _RISE[1] * predicted)
        wrong &= ~as_predicted & (predicted > rounding)
    return _above("wrong_gradients", _share(wrong), WRONG_GRADIENTS)


def large_eps_accuracy(problem: AttackProblem) -> Sign | None:
    """Tell the accuracy under a short attack in problem's ball, LARGE_EPS, if above chance."""
    x_adv = apgd(problem, loss="margin", n_iterations=_LARGE_EPS_STEPS)
    standing = (x_adv == problem.x).flatten(1).all(dim=1)
    if int(standing.sum()) < _LEAST_STANDING:
        return None
    return _above("accuracy_at_large_eps", _share(standing), 1 / problem.n_classes)


def beyond_chance(gains: Iterable[Sign], n_examples: int) -> list[Sign]:
    """Return the gains that are more than chance may leave to a gradient-free attack."""
    return [gain for gain in gains if gain.value > GRADIENT_FREE_GAIN * n_examples]


def failed_white_box(attacks: Sequence[StageSpec], failed: Collection[str]) -> list[Sign]:
    """Tell that all white-box attacks have failed, if so, and how many there are.

    failed: the names of attacks that raised an error on every example.
    """
    white_box = {attack.name for attack in attacks if not attack.gradient_free}
    all_failed = bool(white_box) and white_box <= set(failed)
    return [Sign("white_box_failed", len(white_box))] if all_failed else []


def _above(name: str, value: float, threshold: float) -> Sign | None:
    return Sign(name, value) if value > threshold else None


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())
