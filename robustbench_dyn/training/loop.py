"""From a recipe to weights: seeded, resumable after a kill, with progress."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from robustbench_dyn.datasets import load_dataset
from robustbench_dyn.errors import InputError, IntegrityError
from robustbench_dyn.models.architectures import Architecture
from robustbench_dyn.models.loading import build_model
from robustbench_dyn.training.adversarial import perturb
from robustbench_dyn.training.augmentation import augment
from robustbench_dyn.training.certified import certified_loss, follow
from robustbench_dyn.training.losses import Loss, margin_loss, orthogonality_penalty
from robustbench_dyn.training.optimizers import make_optimizer, make_schedule
from robustbench_dyn.training.recipes import Recipe


class EpochReport(NamedTuple):
    """Where training stands after `step` of `steps` in all; loss is the epoch's mean so far.

    seconds: of the processor, all threads together; of the wall clock where a GPU trains.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    seconds: float


class Trained(NamedTuple):
    """The network in eval mode, where its weights lie, their SHA-256, and what training took.

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
) -> Trained:
    """Train as the recipe says and write the weights to `out` (.safetensors).

    After each epoch a checkpoint is written beside `out`; the same call finds it and goes on, and
    removes it at the end. n_examples trains on the first ones only. Raises InputError where the
    recipe is for another model, DataUnavailableError where the training split is not to be had.
    """
    from safetensors.torch import save  # noqa: PLC0415

    if recipe.model != architecture.name:
        raise InputError(f"the recipe is for model {recipe.model!r}, not {architecture.name!r}")
    data = load_dataset(recipe.dataset, split="train", n_examples=n_examples, data_dir=data_dir)
    if len(data.x) < recipe.batch_size:
        raise InputError(f"{len(data.x)} examples are fewer than one batch of {recipe.batch_size}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build_model(
            architecture,
            input_shape=tuple(data.x.shape[1:]),
            n_classes=data.n_classes,
            options=recipe.options,
        )
    state = _State(recipe, model.to(device), data.x, out.with_suffix(".checkpoint"))
    state.resume()
    for epoch in range(state.epoch, recipe.epochs):
        _train_epoch(state, epoch, data.x, data.y, device, progress)
    model = model.cpu().eval()
    content = save({k: v.contiguous() for k, v in model.state_dict().items()})
    out.write_bytes(content)
    state.checkpoint.unlink(missing_ok=True)
    return Trained(model, out, hashlib.sha256(content).hexdigest(), state.seconds)


class _State:
    """All that must survive a kill."""

    def __init__(self, recipe: Recipe, model: nn.Module, x: Tensor, checkpoint: Path) -> None:
        self.recipe, self.model, self.checkpoint = recipe, model, checkpoint
        n_examples, input_shape = len(x), tuple(x.shape[1:])
        self.steps_per_epoch = n_examples // recipe.batch_size
        self.optimizer = make_optimizer(
            recipe.optimizer, model.parameters(), learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay, momentum=recipe.momentum,
        )  # fmt: skip
        self.schedule = make_schedule(
            self.optimizer, recipe.decay, learning_rate=recipe.learning_rate, warmup=recipe.warmup,
            epochs=recipe.epochs, steps_per_epoch=self.steps_per_epoch,
        )  # fmt: skip
        self.network = None
        if recipe.certified_training is not None:
            self.network = follow(model, input_shape)
        self.epoch, self.seconds = 0, 0.0
        self.fingerprint = f"{recipe.model_dump_json()} {n_examples}"

    def save(self) -> None:
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "fingerprint": self.fingerprint,
                "epoch": self.epoch,
                "seconds": self.seconds,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            },
            partial,
        )
        # A rename is atomic: a kill leaves the old checkpoint or the new one, never half of one.
        partial.replace(self.checkpoint)

    def resume(self) -> None:
        if not self.checkpoint.is_file():
            return
        try:
            kept = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        except Exception as error:
            raise IntegrityError(
                f"the checkpoint {self.checkpoint} cannot be read; delete it to start anew"
            ) from error
        if not self._made(kept["fingerprint"]):
            raise InputError(
                f"the checkpoint {self.checkpoint} belongs to another recipe; "
                "delete it or give another --out"
            )
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.schedule.load_state_dict(kept["schedule"])
        self.epoch, self.seconds = kept["epoch"], kept["seconds"]

    def _made(self, fingerprint: str) -> bool:
        # A checkpoint that was written before recipes had a key means that key's default.
        content, _, n_examples = fingerprint.rpartition(" ")
        try:
            recipe = Recipe.model_validate_json(content)
        except ValidationError:
            return False
        return f"{recipe.model_dump_json()} {n_examples}" == self.fingerprint


def _train_epoch(
    state: _State, epoch: int, x: Tensor, y: Tensor, device: str,
    progress: Callable[[EpochReport], None] | None,
) -> None:  # fmt: skip
    recipe, started, total = state.recipe, _clock(device), 0.0
    # A generator of its own for each epoch: a resumed run sees what the first would have seen.
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    state.model.train()
    for step, rows in enumerate(_batches(len(x), recipe.batch_size, generator), start=1):
        inputs = augment(x[rows], recipe.augmentation, generator).to(device)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        labels = y[rows].to(device)
        epochs = epoch + (step - 1) / state.steps_per_epoch
        loss = _batch_loss(state, inputs, labels, generator, epochs=epochs)
        if recipe.orthogonality:
            loss = loss + recipe.orthogonality * orthogonality_penalty(state.model)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        _retract(state.model)
        state.schedule.step()
        total += float(loss.detach())
        if progress is not None:
            steps_done = epoch * state.steps_per_epoch + step
            steps = recipe.epochs * state.steps_per_epoch
            seconds = state.seconds + _clock(device) - started
            progress(EpochReport(epoch, recipe.epochs, steps_done, steps, total / step, seconds))
    state.epoch = epoch + 1
    state.seconds += _clock(device) - started
    state.save()


def _batch_loss(
    state: _State, x: Tensor, y: Tensor, generator: torch.Generator, *, epochs: float
) -> Tensor:
    recipe, model = state.recipe, state.model
    objective = partial(_loss, labels=y, loss=recipe.loss)
    if recipe.certified_training is not None and state.network is not None:
        settings = recipe.certified_training
        return certified_loss(model, state.network, x, y, objective, settings, epochs=epochs)
    low = recipe.precision == "bfloat16"
    with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
        if recipe.adversary is not None:
            x = perturb(model, x, objective, recipe.adversary, generator)
        logits = model(x)
    return objective(logits)


def _clock(device: str) -> float:
    # What else a CPU is busy with is not a training's cost; a GPU is no one else's meanwhile.
    on_cpu = torch.device(device).type == "cpu"
    return time.process_time() if on_cpu else time.perf_counter()


def _retract(model: nn.Module) -> None:
    """Put weights that live on a manifold back onto it; a module that has such has `retract`."""
    for module in model.modules():
        if callable(retract := getattr(module, "retract", None)):
            retract()


def _loss(logits: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    return margin_loss(logits.float(), labels, loss)


def _batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(n, generator=generator)
    return (order[start : start + size] for start in range(0, n - size + 1, size))


def card_entry(recipe: Recipe, trained: Trained, recipe_file: str) -> dict[str, Any]:
    """Return the entry that a card's `weights` list needs for these weights."""
    entry: dict[str, Any] = {
        "file": f"weights/{trained.path.name}",
        "sha256": trained.sha256,
        "dataset": recipe.dataset,
        "recipe": recipe_file,
        "options": dict(recipe.options),
        "training_seconds": round(trained.seconds, 1),
    }
    optional = {"norm": recipe.norm, "variant": recipe.variant}
    return entry | {key: value for key, value in optional.items() if value}
