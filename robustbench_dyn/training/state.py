"""The state of a training between epochs, and the checkpoint that keeps it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from robustbench_dyn.errors import InputError, IntegrityError, TrainingError
from robustbench_dyn.files import check_writable, write_bytes
from robustbench_dyn.training.averaging import AveragedWeights
from robustbench_dyn.training.certified import trace_for_training
from robustbench_dyn.training.optimizers import make_optimizer, make_schedule
from robustbench_dyn.training.recipes import Recipe

SUFFIX = ".safetensors"


def check_place(out: Path) -> Path:
    """Return the path of the checkpoint of the weights in `out`, once both can be written.

    Raises InputError or OutputError, before anything is computed, where one of them cannot.
    """
    if out.suffix != SUFFIX:
        raise InputError(f"the file of weights {out} must end in {SUFFIX}")
    checkpoint = out.with_suffix(".checkpoint")
    for path in (out, checkpoint):
        check_writable(path)
    return checkpoint


class State:
    """The network, its optimizer and schedule after `epoch` epochs of `seconds` in all.

    average: of the weights, where the recipe asks for one. bfloat16: whether steps compute in
    bfloat16, which depends on the machine.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, x: Tensor, checkpoint: Path) -> None:
        self.recipe, self.model, self.checkpoint = recipe, model, checkpoint
        n_examples, input_shape = len(x), tuple(x.shape[1:])
        self.steps_per_epoch = n_examples // recipe.batch_size
        self.optimizer = make_optimizer(
            recipe.optimizer,
            model.parameters(),
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
        )
        self.schedule = make_schedule(
            self.optimizer,
            recipe.decay,
            learning_rate=recipe.learning_rate,
            warmup=recipe.warmup,
            epochs=recipe.epochs,
            steps_per_epoch=self.steps_per_epoch,
        )
        self.network = None
        if recipe.certified_training is not None:
            self.network = trace_for_training(model, input_shape)
        self.average: AveragedWeights | None = None
        self.begin_average()
        self.epoch, self.seconds, self.bfloat16 = 0, 0.0, False
        self.fingerprint = f"{recipe.model_dump_json()} {n_examples}"

    def begin_average(self) -> None:
        """Begin the average, where the recipe asks for one, at the weights as they are."""
        averaging = self.recipe.averaging
        self.average = AveragedWeights(self.model, averaging) if averaging else None

    def result(self) -> nn.Module:
        """Return the network as it stands: with the average of its weights, where there is one."""
        return self.model if self.average is None else self.average.result()

    def save(self) -> None:
        """Write the checkpoint; raises OutputError where the old one stays."""
        # In memory first: torch raises no OSError where the disk is full.
        content = io.BytesIO()
        torch.save(
            {
                "fingerprint": self.fingerprint,
                "epoch": self.epoch,
                "seconds": self.seconds,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
            },
            content,
        )
        write_bytes(self.checkpoint, content.getvalue())

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises InputError for one of another recipe, IntegrityError for a damaged one.
        """
        if not self.checkpoint.exists():
            return
        damaged = f"the checkpoint {self.checkpoint} cannot be read; delete it to restart"
        try:
            checkpoint = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
            fingerprint, epoch = checkpoint["fingerprint"], checkpoint["epoch"]
            seconds = checkpoint["seconds"]
        except Exception as error:
            raise IntegrityError(damaged) from error
        if not isinstance(fingerprint, str) or not self._matches(fingerprint):
            raise InputError(
                f"the checkpoint {self.checkpoint} belongs to another recipe; "
                "delete it or give another --out"
            )
        # Types alone, for bool is an int.
        if type(epoch) is not int or not 0 <= epoch <= self.recipe.epochs:
            raise IntegrityError(damaged)
        if type(seconds) is not float or not 0 <= seconds < math.inf:
            raise IntegrityError(damaged)
        try:
            self.model.load_state_dict(checkpoint["model"])
            self._load_optimizer(checkpoint["optimizer"], checkpoint["schedule"])
            if self.average is not None:
                self.average.load_state_dict(checkpoint["average"])
        except Exception as error:
            raise IntegrityError(damaged) from error
        if not are_finite(
            [*self.model.state_dict().values(), *self.result().state_dict().values()]
        ):
            raise IntegrityError(
                f"the checkpoint {self.checkpoint} holds weights that are not finite; delete it to "
                "restart"
            )
        self.epoch, self.seconds = epoch, seconds

    def _load_optimizer(self, optimizer: dict[str, Any], schedule: dict[str, Any]) -> None:
        """Load both; raises where a value has not the type or shape of this training's own."""
        _check_like(schedule, self.schedule.state_dict())
        groups, own = optimizer["param_groups"], self.optimizer.state_dict()["param_groups"]
        for group, expected in zip(groups, own, strict=True):
            _check_like(group, expected)
        self.optimizer.load_state_dict(optimizer)
        self.schedule.load_state_dict(schedule)
        for parameter, kept in self.optimizer.state.items():
            for name, value in kept.items():
                if isinstance(value, Tensor) and value.shape not in ((), parameter.shape):
                    raise ValueError(f"{name} has shape {tuple(value.shape)}")

    def check_finite(self, *, epoch: int, step: int, loss: float | None = None) -> None:
        """Raise TrainingError where the loss of a step, or else a weight, is not finite."""
        if loss is not None and not math.isfinite(loss):
            raise self.diverged(epoch=epoch, step=step, what=f"the loss is {loss:g}")
        if loss is None and not are_finite(self.model.state_dict().values()):
            raise self.diverged(epoch=epoch, step=step, what="a weight is not finite")

    def diverged(self, *, epoch: int, step: int, what: str) -> TrainingError:
        """Return the error of a training that cannot go on, which says what is kept of it."""
        kept = (
            f"{self.checkpoint} holds the weights after epoch {self.epoch}"
            if self.checkpoint.exists()
            else "no epoch came to its end, so nothing is kept"
        )
        return TrainingError(
            f"training diverged in epoch {epoch + 1} of {self.recipe.epochs}, step {step}: {what}; "
            f"{kept}. Lower learning_rate or weight_decay in the recipe and train to another --out"
        )

    def _matches(self, fingerprint: str) -> bool:
        # Also where the data set is none that a recipe may name, such as npz:FILE.
        if fingerprint == self.fingerprint:
            return True
        # An older checkpoint may lack keys of the recipe; they then have their defaults.
        content, _, n_examples = fingerprint.rpartition(" ")
        try:
            recipe = Recipe.model_validate_json(content)
        except ValidationError:
            return False
        return f"{recipe.model_dump_json()} {n_examples}" == self.fingerprint


def are_finite(tensors: Iterable[object]) -> bool:
    """Say whether all entries of all tensors are finite."""
    return all(bool(t.isfinite().all()) for t in tensors if isinstance(t, Tensor))


def _check_like(content: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise ValueError unless the keys are those expected, with values of the same types."""
    if set(content) != set(expected):
        raise ValueError(f"it has the keys {sorted(content)}")
    for name, value in expected.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        kinds = (int, float) if number else type(value)
        if not isinstance(content[name], kinds):
            raise ValueError(f"{name} is {content[name]!r}")
