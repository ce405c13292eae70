"""The training loop: from a recipe to weights; seeded, and resumable after a kill."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.datasets import dataset_info, load_dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.files import write_bytes
from robustbench_dyn.models.architectures import Architecture
from robustbench_dyn.models.loading import build_model
from robustbench_dyn.threat_models import ThreatModel
from robustbench_dyn.training.adversarial import perturb
from robustbench_dyn.training.augmentation import augment, mix
from robustbench_dyn.training.averaging import retract
from robustbench_dyn.training.certified import certified_loss
from robustbench_dyn.training.class_margins import class_margins
from robustbench_dyn.training.losses import (
    Loss,
    loss_of_margins,
    margin_loss,
    orthogonality_penalty,
)
from robustbench_dyn.training.precision import uses_bfloat16
from robustbench_dyn.training.recipes import Recipe
from robustbench_dyn.training.soft_labels import draw, label_probabilities, seconds_of_teacher
from robustbench_dyn.training.start import start_head, take_weights
from robustbench_dyn.training.state import State, check_place


class EpochReport(NamedTuple):
    """Progress after `step` of `steps` in all epochs; loss: mean over the epoch so far.

    seconds: processor time of all threads, or wall-clock time on a GPU.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    seconds: float


class Epoch(NamedTuple):
    """A whole epoch: how many there are so far, the mean loss in it, and the network after it."""

    number: int
    loss: float
    model: nn.Module


class Trained(NamedTuple):
    """A trained network in eval mode, the file of its weights, its SHA-256, and the seconds.

    seconds: as in EpochReport.
    """

    model: nn.Module
    path: Path
    sha256: str
    seconds: float


def train(
    recipe: Recipe,
    architecture: Architecture,
    out: Path,
    *,
    data_dir: Path | None = None,
    device: str = "cpu",
    n_examples: int | None = None,
    progress: Callable[[EpochReport], None] | None = None,
    at_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train an architecture by a recipe and write the weights to `out` (.safetensors).

    Each epoch writes a checkpoint beside `out`; the same call resumes from it, and deletes it at
    the end. n_examples: train on the first ones only. at_epoch: called after each epoch of this
    call; it may put the network into eval mode. Raises InputError for a recipe of another
    model and for a file that cannot be written, DataUnavailableError if the training split is not
    available, TrainingError once the loss or a weight is not finite; the checkpoint of the last
    epoch then stays.
    """
    from safetensors.torch import save  # noqa: PLC0415

    if recipe.model != architecture.name:
        raise InputError(f"the recipe is for model {recipe.model!r}, not {architecture.name!r}")
    checkpoint = check_place(out)
    n_learnt = _n_learnt(recipe, n_examples, data_dir)
    data = load_dataset(recipe.dataset, split="train", n_examples=n_learnt, data_dir=data_dir)
    if len(data.x) < recipe.batch_size:
        raise InputError(f"{len(data.x)} examples are fewer than one batch of {recipe.batch_size}")
    _check_eps(recipe, tuple(data.x.shape[1:]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build_model(
            architecture,
            input_shape=tuple(data.x.shape[1:]),
            n_classes=data.n_classes,
            options=recipe.options,
        )
    spent = take_weights(model, recipe, architecture)
    state = State(recipe, model.to(device), data.x, checkpoint)
    state.bfloat16 = uses_bfloat16(recipe.precision, torch.device(device))
    state.resume()
    started, soft, labels = _clock(device), recipe.soft_labels, data.y
    if soft is not None:
        spent += seconds_of_teacher(soft, recipe.dataset)
        labels = label_probabilities(
            soft, recipe.dataset, data.x, data.y, n_classes=data.n_classes, device=device
        )
    if state.epoch == 0:
        if recipe.weights_from is None:
            start_head(state.model, data.x, data.y, seed=recipe.seed)
        state.begin_average()
        state.seconds = spent + _clock(device) - started
    for epoch in range(state.epoch, recipe.epochs):
        loss = _train_epoch(state, epoch, data.x, labels, device, progress)
        if at_epoch is not None:
            at_epoch(Epoch(epoch + 1, loss, state.result()))
    model = state.result().cpu().eval()
    content = save({k: v.contiguous() for k, v in model.state_dict().items()})
    write_bytes(out, content)
    state.checkpoint.unlink(missing_ok=True)
    return Trained(model, out, hashlib.sha256(content).hexdigest(), state.seconds)


def _n_learnt(recipe: Recipe, asked: int | None, data_dir: Path | None) -> int | None:
    """Return how many of the first training examples are learnt; None for all.

    Held out are the last ones of the training split, however many are asked for.
    """
    if not recipe.held_out:
        return asked
    size = dataset_info(recipe.dataset, data_dir=data_dir).sizes.get("train", 0)
    left = size - recipe.held_out
    if left < max(1, asked or 1):
        raise InputError(
            f"held_out={recipe.held_out} leaves {max(0, left)} of the {size} training examples of "
            f"{recipe.dataset}, and {asked or 'at least 1'} must be left; hold out fewer"
        )
    return left if asked is None else asked


def _train_epoch(
    state: State,
    epoch: int,
    x: Tensor,
    y: Tensor,
    device: str,
    progress: Callable[[EpochReport], None] | None,
) -> float:
    """Train for one epoch and keep a checkpoint; return the mean loss.

    y: labels (n,), or their probabilities (n, classes), from which each epoch draws.
    """
    recipe, started, total = state.recipe, _clock(device), 0.0
    # One generator per epoch, so that a resumed training draws the same random numbers.
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    if y.dim() == 2:
        y = draw(y, generator)
    state.model.train()
    for step, rows in enumerate(_batches(len(x), recipe.batch_size, generator), start=1):
        inputs = augment(x[rows], recipe.augmentation, generator).to(device)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        labels = y[rows].to(device)
        epochs = epoch + (step - 1) / state.steps_per_epoch
        try:
            value = _step(state, inputs, labels, generator, epochs=epochs)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            # Weights that run away have no factorisation, by which some layers retract them.
            raise state.diverged(epoch=epoch, step=step, what=str(error).rstrip(".")) from error
        state.check_finite(epoch=epoch, step=step, loss=value)
        total += value
        if progress is not None:
            steps_done = epoch * state.steps_per_epoch + step
            steps = recipe.epochs * state.steps_per_epoch
            seconds = state.seconds + _clock(device) - started
            progress(EpochReport(epoch, recipe.epochs, steps_done, steps, total / step, seconds))
    state.check_finite(epoch=epoch, step=state.steps_per_epoch)
    state.epoch = epoch + 1
    state.seconds += _clock(device) - started
    state.save()
    return total / state.steps_per_epoch


def _step(
    state: State, x: Tensor, y: Tensor, generator: torch.Generator, *, epochs: float
) -> float:
    """Take one step of the optimizer and of the schedule; return the loss before it."""
    loss = _batch_loss(state, x, y, generator, epochs=epochs)
    if state.recipe.orthogonality:
        loss = loss + state.recipe.orthogonality * orthogonality_penalty(state.model)
    state.model.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    for descent in state.descents:
        descent.step()
    retract(state.model)
    if state.average is not None:
        state.average.update(state.model)
    return float(loss.detach())


def _check_eps(recipe: Recipe, input_shape: tuple[int, ...]) -> None:
    """Raise InputError where a ball of the training is as wide as the input space."""
    for ball in (recipe.adversary, recipe.certified_training):
        if ball is not None:
            ThreatModel(ball.norm, ball.eps).check_input_shape(input_shape)


def _batch_loss(
    state: State, x: Tensor, y: Tensor, generator: torch.Generator, *, epochs: float
) -> Tensor:
    recipe, model = state.recipe, state.model
    if recipe.loss.of_margins:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=state.bfloat16):
            found = class_margins(model, x, y)
        return loss_of_margins(found, recipe.loss, done=epochs / recipe.epochs)
    objective = partial(_loss, labels=y, loss=recipe.loss)
    if recipe.certified_training is not None and state.network is not None:
        settings = recipe.certified_training
        return certified_loss(
            model, state.network, x, y, objective, settings, generator, epochs=epochs
        )
    with torch.autocast(x.device.type, torch.bfloat16, enabled=state.bfloat16):
        if recipe.adversary is not None:
            x = perturb(model, x, objective, recipe.adversary, generator)
        if recipe.augmentation.mixes:
            x, others, share = mix(x, y, recipe.augmentation, generator)
            logits = model(x)
            other_loss = _loss(logits, others, recipe.loss)
            return share * objective(logits) + (1 - share) * other_loss
        logits = model(x)
    return objective(logits)


def _clock(device: str) -> float:
    # On a CPU, count the time of this process only; a GPU is not shared meanwhile.
    on_cpu = torch.device(device).type == "cpu"
    return time.process_time() if on_cpu else time.perf_counter()


def _loss(logits: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    return margin_loss(logits.float(), labels, loss)


def _batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(n, generator=generator)
    return (order[start : start + size] for start in range(0, n - size + 1, size))
