"""The state of a training between epochs, and the checkpoint that keeps it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from robustbench_dyn.errors import InputError, IntegrityError, TrainingError
from robustbench_dyn.files import check_writable, write_bytes
from robustbench_dyn.lipschitz.bounds import Classifier
from robustbench_dyn.training.averaging import AveragedWeights
from robustbench_dyn.training.certified import trace_for_training
from robustbench_dyn.training.optimizers import (
    Descent,
    OptimizerSettings,
    make_optimizer,
    make_schedule,
)
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
    """The network, its optimizers and schedules after `epoch` epochs of `seconds` in all.

    descents: of the whole network, or of what is before the head and of the head. average: of the
    weights, where the recipe asks for one. bfloat16: whether steps compute in bfloat16, which
    depends on the machine.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, x: Tensor, checkpoint: Path) -> None:
        self.recipe, self.model, self.checkpoint = recipe, model, checkpoint
        n_examples, input_shape = len(x), tuple(x.shape[1:])
        self.steps_per_epoch = n_examples // recipe.batch_size
        self.descents = [self._descent(*part) for part in _parts(model, recipe)]
        self.network = None
        if recipe.certified_training is not None:
            self.network = trace_for_training(model, input_shape)
        self.average: AveragedWeights | None = None
        self.begin_average()
        self.epoch, self.seconds, self.bfloat16 = 0, 0.0, False
        self.fingerprint = f"{recipe.model_dump_json()} {n_examples}"

    def _descent(self, settings: OptimizerSettings, parameters: list[nn.Parameter]) -> Descent:
        recipe, optimizer = self.recipe, make_optimizer(settings, parameters)
        schedule = make_schedule(
            optimizer,
            recipe.decay,
            learning_rate=settings.learning_rate,
            warmup=recipe.warmup,
            epochs=recipe.epochs,
            steps_per_epoch=self.steps_per_epoch,
        )
        return Descent(optimizer, schedule)

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
                "descents": [descent.state_dict() for descent in self.descents],
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
            for descent, kept in zip(self.descents, checkpoint["descents"], strict=True):
                descent.load_state_dict(kept)
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


def _parts(model: nn.Module, recipe: Recipe) -> list[tuple[OptimizerSettings, list[nn.Parameter]]]:
    """Return each optimizer's settings, and its parameters; raise InputError where it has none."""
    if recipe.head_optimizer is None:
        return [(recipe, list(model.parameters()))]
    if not isinstance(model, Classifier):
        raise InputError(
            f"head_optimizer needs a Classifier of features and a head, not {type(model).__name__};"
            " drop head_optimizer"
        )
    parts = [
        (recipe, list(model.features.parameters())),
        (recipe.head_optimizer, list(model.head.parameters())),
    ]
    for (_, parameters), name in zip(parts, ("features", "head"), strict=True):
        if not parameters:
            raise InputError(
                f"the {name} of the model have no parameters, so that one optimizer is enough; "
                "drop head_optimizer"
            )
    return parts
