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
from robustbench_dyn.models.determinism import (
    MOST_EXAMPLES,
    find_defects,
    has_changed,
    perturbed,
    seeded,
)
from robustbench_dyn.models.fingerprint import UnknownContentError, fingerprint
from robustbench_dyn.models.forward import call, writes_into_input
from robustbench_dyn.models.freezing import frozen_eval, trainable_forward
from robustbench_dyn.models.identity import (
    check_unregistered,
    identify,
    measured_identity,
    registered_identity,
)
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.plugins import find_plugins
from robustbench_dyn.results.flags import (
    KEEPS_STATE,
    NO_GRADIENTS,
    PIECEWISE_CONSTANT,
    SOFTMAX_OUTPUTS,
    TINY_LOGITS,
    WRITES_INTO_INPUT,
)

log = logging.getLogger(__name__)

# As few inputs as any memory holds.
SMALLEST_SAMPLE = 4
# Kept and recomputed weights may differ by rounding, relative to the largest logit.
_STALE = 1e-4
# A grey level of 255, and the spread of logits below which float32 loses them in a softmax.
ONE_LEVEL = 1 / 255
TINY = 1e-4


class ModelUnderTest:
    """A model that is counted, identified and validated once for all of an evaluation.

    network: the model, whose passes are counted. identity: see models.identity. registered: whether
    it is a registered model, untouched since it was loaded. n_classes: 0 until it is known.
    in_expectation: whether the outputs are random, so that predictions are by the majority of
    passes. A registered model is validated by `examine` only before its first pass: a repeated run
    needs none at all; any other is validated here. largest_batch: 1 where the machine failed at
    the batches that show whether the outputs depend on them.
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
        self._content = ""
        known = registered_identity(model)
        name = name or type(model).__name__
        if known is None and measured_identity(model) is None:
            check_unregistered(name, {p.name for p in find_plugins() if p.provides("architecture")})
        self.registered = known is not None
        # Without a number of classes, a pass is needed to find it out.
        self.flags = [] if known and self.n_classes else self.examine()
        if known is None:
            with seeded(seed, "preparation"):
                known = identify(model, probe_logits(self.network, self._x, device), name=name)
        self.identity = known

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
                    beside = self.logits(perturbed(x, ONE_LEVEL))
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
        if lacks_gradients(self.network.model, x, seed=self._seed):
            found.append(NO_GRADIENTS)
            log.warning("the logits have no gradients at the inputs; gradient attacks find nothing")
        return found + flat_outputs(logits, beside)

    def watch_content(self) -> None:
        """Take a fingerprint of the model, before the passes of a run."""
        self._content = _content(self.network.model)

    def keeps_state(self) -> list[str]:
        """Return the flag of a model whose attributes changed since `watch_content`."""
        changed = self._content and self._content != _content(self.network.model)
        return [KEEPS_STATE] if changed else []

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
        check_precision(model)
        raise InputError(
            f"the model cannot classify inputs of shape {tuple(x.shape[1:])}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if isinstance(getattr(logits, "logits", None), Tensor):
        raise InputError(
            f"the model returned {type(logits).__name__}, which holds the logits; load it by its "
            "name, load_model('hf:OWNER/NAME'), with the normalisation inside, or wrap it in a "
            "module whose forward returns model(x).logits"
        )
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the model must return logits (batch, classes); it returned {shape}")
    if not logits.is_floating_point():
        raise InputError(f"the model must return logits of a float type, not {logits.dtype}")
    n_classes = logits.shape[1]
    if n_classes < 2 or highest_label >= n_classes:
        raise InputError(
            f"the model has {n_classes} outputs, but the labels go up to {highest_label}; "
            "it needs at least two, and one for each class"
        )
    check_frozen(model, x, logits)
    return logits


def check_precision(model: nn.Module) -> None:
    """Raise InputError where a network has weights of another float type than float32."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise InputError(
                f"the model has weights of {parameter.dtype}, and inputs are float32; call "
                "model.float()"
            )


def check_frozen(model: nn.Module, x: Tensor, logits: Tensor) -> None:
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


def flat_outputs(logits: Tensor, beside: Tensor) -> list[str]:
    """Return flags for outputs with which gradients say little.

    logits, beside: (n, classes), at inputs and at ones that differ by less than a grey level.
    """
    spread = logits.amax(dim=1) - logits.amin(dim=1)
    found = []
    # Written so that NaN and infinity are no sign; they are errors of their own.
    if 0 < float(spread.max()) < TINY:
        found.append(TINY_LOGITS)
        log.warning("the logits differ by less than %g; losses of attacks may underflow", TINY)
    if float((logits == beside).double().mean()) > 0.5:
        found.append(PIECEWISE_CONSTANT)
        log.warning("most logits do not change with small changes of the input")
    return found


def lacks_gradients(model: nn.Module, x: Tensor, *, seed: int) -> bool:
    """Return whether no logit of a frozen model has a usable gradient at any x, (n, ...).

    A gradient is usable where it is finite and not zero. A model that fails where gradients are
    asked for is told of by the attacks.
    """
    try:
        with seeded(seed, "validation"), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            logits = call(model, leaf)
            # The logits of one class may cancel in a sum over all: a weight of its own for each.
            weights = torch.linspace(1, 2, logits.shape[1]).to(logits)
            (gradient,) = torch.autograd.grad((logits * weights).sum(), leaf)
    except Exception as error:
        if is_machine_error(error):
            raise
        return False
    usable = gradient.flatten(1).isfinite().all(dim=1) & (gradient != 0).flatten(1).any(dim=1)
    return not bool(usable.any())


def _content(model: nn.Module) -> str:
    """Return the model's fingerprint, or nothing where none can be taken."""
    try:
        return fingerprint(model)
    except UnknownContentError:
        return ""


def are_probabilities(logits: Tensor) -> bool:
    """Say whether each row looks like the outputs of a softmax, whose gradients vanish."""
    sums_to_one = (logits.sum(dim=1) - 1).abs().max() < 1e-5
    return bool(logits.min() >= 0 and sums_to_one)


@torch.no_grad()
def probe_logits(model: CountingModel, like: Tensor, device: torch.device) -> Tensor:
    """Return the logits of the probes, which depend on the shape and type of `like` alone.

    Those of the model's surrogates follow: what an attack on them finds depends on them. Raises
    InputError where these have other outputs.
    """
    probe = probes(tuple(like.shape[1:]), like.dtype).to(device)
    parts = torch.split(probe, SMALLEST_SAMPLE)
    logits = [torch.cat([model(part) for part in parts])]
    for name, surrogate in model.surrogates().items():
        with frozen_eval(surrogate.to(device)):
            logits.append(torch.cat([surrogate(part) for part in parts]))
        if logits[-1].shape != logits[0].shape:
            raise InputError(
                f"surrogate {name!r} returns {tuple(logits[-1].shape)} where the model returns "
                f"{tuple(logits[0].shape)}; it must have the same inputs and classes"
            )
    return torch.cat(logits)


def probes(input_shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return fixed inputs in [0, 1] that tell functions apart, (n, *input_shape), on the CPU.

    Noise alone is far from all data, where a module may compute as another one does. So there are
    images, too: even ones, smooth ones, strokes on an even ground, and small changes of them.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(4, *input_shape, generator=generator, dtype=torch.float64).to(dtype)
    flat = noise.flatten(1)
    even = torch.tensor([0.0, 0.5, 1.0], dtype=dtype)[:, None].expand(3, flat.shape[1])
    # Waves of a few periods: neighbours are alike, as in images.
    place = torch.linspace(0, 1, flat.shape[1], dtype=torch.float64)
    periods = torch.tensor([1.0, 2.5, 7.3], dtype=torch.float64)
    smooth = (0.5 + 0.5 * torch.sin(2 * torch.pi * periods[:, None] * place)).to(dtype)
    strokes = (flat[:2] > 0.8).to(dtype)
    images = torch.cat([even, smooth, strokes, 1 - strokes])
    changed = (images + (flat[2] - 0.5) / 16).clamp(0, 1)
    return torch.cat([flat, images, changed]).reshape(-1, *input_shape)
