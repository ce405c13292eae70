"""Validate a model before an evaluation, and identify it."""

from __future__ import annotations

import logging
import math
from typing import Literal

import torch
from torch import Tensor, nn

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.counting import CountingModel
from robustbench_dyn.models.determinism import MOST_EXAMPLES, find_defects, has_changed, seeded
from robustbench_dyn.models.forward import writes_into_input
from robustbench_dyn.models.freezing import frozen_eval, trainable_forward
from robustbench_dyn.models.identity import identify, registered_identity
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.results.flags import SOFTMAX_OUTPUTS, WRITES_INTO_INPUT

log = logging.getLogger(__name__)

# As few inputs as any memory holds.
SMALLEST_SAMPLE = 4
# Kept and recomputed weights may differ by rounding, relative to the largest logit.
_STALE = 1e-4


class ModelUnderTest:
    """A model that is counted, identified and validated once for all of an evaluation.

    network: the model, whose passes are counted. identity: see models.identity. n_classes: 0 until
    it is known. in_expectation: whether the outputs are random, so that predictions are by the
    majority of passes. A registered model is validated by `examine` only before its first pass: a
    repeated run needs none at all; any other is validated here. largest_batch: 1 where
    the machine failed at the batches that show whether the outputs depend on them.
    dataset: of the evaluation; its number of classes is 0 where it is unknown. batch_size: inputs
    that the model is given at once, at most. name: of an unregistered model.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        *,
        device: torch.device,
        seed: int,
        batch_size: int | Literal["auto"],
        name: str | None,
    ) -> None:
        self.network = CountingModel(model)
        self.n_classes, self.in_expectation = dataset.n_classes, False
        self._x, self._highest_label = dataset.x, int(dataset.y.max())
        self._device, self._seed, self._batch_size = device, seed, batch_size
        # Logits from before all stages, once a pass was made, and how many passes were watched.
        self._at_start: Tensor | None = None
        self.largest_batch = math.inf
        self._watched = 0
        known = registered_identity(model) if self.n_classes else None
        self.flags = [] if known else self.examine()
        with seeded(seed, "preparation"):
            self.identity = known or identify(
                model, probe_logits(self.network, self._x, device), name=name
            )

    @property
    def examined(self) -> bool:
        """Whether the model has been validated in this run."""
        return self._at_start is not None

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of one pass, (n, classes), without a graph."""
        logits: Tensor = self.network(x)
        return logits

    def sample(self, most: int) -> Tensor:
        """Return the first inputs of the evaluation, on its device."""
        return self._x[:most].to(self._device)

    def examine(self) -> list[str]:
        """Validate the model on a handful of examples; return flags for what is wrong with it.

        Raises InputError where it gives no logits for the labels.
        """
        most = 2 * SMALLEST_SAMPLE if self._batch_size == "auto" else self._batch_size
        while True:
            x = self.sample(min(MOST_EXAMPLES, max(1, most // 2)))
            try:
                with seeded(self._seed, "validation"):
                    logits = validated_logits(self.network, x, self._highest_label)
                self._at_start, found = find_defects(self.network, x, seed=self._seed, most=most)
                with seeded(self._seed, "validation"):
                    writes = writes_into_input(self.network.model, x)
                break
            except Exception as error:
                if is_machine_error(error):
                    if most == 1:
                        raise
                    most //= 2
                    if most == 1:
                        # Where none are tested, no larger batch may be given.
                        self.largest_batch = 1
                    continue
                if isinstance(error, InputError):
                    raise
                raise InputError(
                    "the model takes some inputs and fails on the same ones in other batches: "
                    f"{type(error).__name__}: {error}"
                ) from error
        self.n_classes = logits.shape[1]
        self._watched = self.network.forward_passes
        if writes:
            found.append(WRITES_INTO_INPUT)
            log.warning("the model's forward writes into its input; it was given copies here")
        if are_probabilities(logits):
            found.append(SOFTMAX_OUTPUTS)
            log.warning("the outputs are probabilities; gradients vanish: return logits instead")
        return found

    def has_changed(self) -> bool:
        """Say whether the model is another one than it was before the passes of this run."""
        if self._at_start is None or self.network.forward_passes == self._watched:
            return False
        changed = self._differs_from(self._at_start)
        self._watched = self.network.forward_passes
        return changed

    def _differs_from(self, before: Tensor) -> bool:
        """Compare with earlier logits; where the machine fails, of half as many inputs."""
        while True:
            x = self.sample(len(before))
            try:
                return has_changed(self.network, x, before, seed=self._seed)
            except Exception as error:
                if not is_machine_error(error) or len(before) == 1:
                    raise
                before = before[: len(before) // 2]


@torch.no_grad()
def validated_logits(model: nn.Module, x: Tensor, highest_label: int) -> Tensor:
    """Return the logits of a frozen model at x, (batch, *input_shape), once they pass for logits.

    Raises InputError where the model does not take x, returns anything but (batch, classes), has no
    output for a label, or computes while frozen what it does not compute in training.
    """
    try:
        logits = model(x)
    except Exception as error:
        if is_machine_error(error):
            raise
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
