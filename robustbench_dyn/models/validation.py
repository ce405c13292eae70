"""What a model must be before it is evaluated, and what tells it from others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_dyn.errors import InputError
from robustbench_dyn.models.counting import CountingModel
from robustbench_dyn.models.freezing import frozen_eval, trainable_forward

# Kept and recomputed weights may differ by rounding, relative to the largest logit.
_STALE = 1e-4


@torch.no_grad()
def validated_logits(model: nn.Module, x: Tensor, highest_label: int) -> Tensor:
    """Return the logits of a frozen model at x, (batch, *input_shape), once they pass for logits.

    Raises InputError where the model does not take x, returns anything but (batch, classes), has no
    output for a label, or computes while frozen what it does not compute in training.
    """
    try:
        logits = model(x)
    except Exception as error:
        raise InputError(
            f"the model cannot classify inputs of shape {tuple(x.shape[1:])}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the model must return logits (batch, classes); it returned {shape}")
    n_classes = logits.shape[1]
    if n_classes < 2 or highest_label >= n_classes:
        raise InputError(
            f"the model has {n_classes} outputs, but the labels go up to {highest_label}; "
            "it needs at least two, and one for each class"
        )
    _check_frozen(model, x, logits)
    return logits


def _check_frozen(model: nn.Module, x: Tensor, logits: Tensor) -> None:
    """Raise InputError where something that the network keeps while frozen is stale."""
    slack = _STALE * float(logits.abs().max())
    difference = float((trainable_forward(model, x) - logits).abs().max())
    if not difference > slack:  # NaN is for the verdicts to tell
        return
    # A network that draws at random differs from itself.
    if float((model(x) - logits).abs().max()) > slack:
        return
    raise InputError(
        f"the frozen network's logits differ by {difference:.3g} from those of its forward in "
        "training; what it derives from parameters must come from CachedParametrization.compute()"
    )


def are_probabilities(logits: Tensor) -> bool:
    """Say whether each row looks like the outputs of a softmax, whose gradients vanish."""
    sums_to_one = (logits.sum(dim=1) - 1).abs().max() < 1e-5
    return bool(logits.min() >= 0 and sums_to_one)


@torch.no_grad()
def probe_logits(model: CountingModel, like: Tensor, device: torch.device) -> Tensor:
    """Return the logits of four inputs that depend on nothing but the shape and type of `like`.

    Those of the model's surrogates follow: what an attack on them finds depends on them. Raises
    InputError where these have other outputs.
    """
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand(4, *like.shape[1:], generator=generator, dtype=like.dtype).to(device)
    logits = [model(probe)]
    for name, surrogate in model.surrogates().items():
        with frozen_eval(surrogate.to(device)):
            logits.append(surrogate(probe))
        if logits[-1].shape != logits[0].shape:
            raise InputError(
                f"surrogate {name!r} returns {tuple(logits[-1].shape)} where the model returns "
                f"{tuple(logits[0].shape)}; it must have the same inputs and classes"
            )
    return torch.cat(logits)
