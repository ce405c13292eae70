"""The command train: from a recipe to weights, their accuracies, and their place in the plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_dyn.cli import completion
from robustbench_dyn.cli.options import (
    MODEL,
    OUTPUT,
    THREAT,
    DataDir,
    Device,
    Limited,
    Plugins,
    Quiet,
    Trust,
    check_device,
)
from robustbench_dyn.cli.output import print_result
from robustbench_dyn.cli.supervised import run_supervised
from robustbench_dyn.errors import InputError
from robustbench_dyn.files import check_writable, write_bytes, write_text
from robustbench_dyn.names import file_name
from robustbench_dyn.progress.loading import say
from robustbench_dyn.threat_models import (
    DEFAULT_EPS,
    Norm,
    ThreatModel,
    format_eps,
    parse_eps,
    widest_eps,
)

if TYPE_CHECKING:
    from torch import nn

    from robustbench_dyn.models.architectures import Architecture
    from robustbench_dyn.training.loop import Epoch, Trained
    from robustbench_dyn.training.recipes import Recipe

# Of the accuracies at the end.
_N_HELD_OUT = 500
# A radius for recipes that name none, as a share of the widest one that makes sense.
_SHARE_OF_WIDEST = 0.25


def train(
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="NAME or NAME/VARIANT to train.",
            rich_help_panel=MODEL,
            autocompletion=completion.architectures,
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Data set, whose training split is learnt.",
            show_default="that of the recipe",
            rich_help_panel=MODEL,
            autocompletion=completion.datasets,
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Recipe (.yaml).",
            show_default="the plugin's own",
            rich_help_panel=MODEL,
        ),
    ] = None,
    n_examples: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Train on the first N examples only.", rich_help_panel=MODEL
        ),
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option(
            metavar="EPS",
            help="Certify held-out examples at this radius.",
            show_default="that of the recipe",
            rich_help_panel=THREAT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to write the weights to (.safetensors).",
            show_default="trained/NAME-DATASET.safetensors",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    install: Annotated[
        bool,
        typer.Option(
            "--install",
            help="Put weights and their entry into the plugin's folder.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw loss and accuracy over the epochs (.png or .svg).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    device: Device = "cpu",
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Train a model by its recipe; an interrupted training resumes."""
    radius = None if eps is None else parse_eps(eps)
    from robustbench_dyn.models.architectures import split_name
    from robustbench_dyn.models.loading import discover, find_architecture
    from robustbench_dyn.plugins import is_trusted, limits_in_use

    del plugins, trust, limits  # heeded while the options were read
    name, variant = split_name(model)
    plugin, _ = find_architecture(name)
    if not is_trusted(plugin):
        run_supervised(plugin.origin, limits_in_use())
    say("loading torch")
    from robustbench_dyn.datasets import dataset_name
    from robustbench_dyn.datasets.forms import is_form
    from robustbench_dyn.drawing.figures import check_plot_path
    from robustbench_dyn.progress.display import training_display
    from robustbench_dyn.training import loop, recipes
    from robustbench_dyn.training.state import check_place

    architecture = discover().get(name)
    # No recipe is called as files of the user's own.
    of = None if dataset is not None and is_form(dataset) else dataset
    path = recipe or recipes.find_recipe(architecture, of, variant)
    config = recipes.read_recipe(path)
    if dataset is not None:
        config = config.model_copy(update={"dataset": dataset})
    place = Place(architecture, config, path, data_dir) if install else None
    target = out or Path("trained") / file_name(
        *model.split("/"), dataset_name(config.dataset, data_dir=data_dir), suffix=".safetensors"
    )
    # All places first: to read the data may take long.
    check_place(target)
    if plot is not None:
        check_plot_path(plot)
    held_out = _HeldOut(config, data_dir, radius)
    with (
        training_display(enabled=not quiet) as progress,
        _curve(plot, model, held_out) as at_epoch,
    ):
        trained = loop.train(
            config,
            architecture,
            target,
            data_dir=data_dir,
            device=str(check_device(device)),
            n_examples=n_examples,
            progress=progress,
            at_epoch=at_epoch,
        )
    moves = install and out is None
    where = "" if moves else f": {trained.path}"
    print_result(f"trained in {trained.seconds:.0f} s of processor time{where}")
    if plot is not None:
        print_result(f"loss and accuracy by epoch: {plot}")
    print_result(held_out.accuracies(trained.model))
    if place is not None:
        print_result(place.take(trained))
        if moves:
            trained.path.unlink()
            with suppress(OSError):  # it holds other files
                trained.path.parent.rmdir()
    else:
        print_result("its entry for the weights in card.yaml (--install puts both there):")
        print_result(_entry_text(architecture, config, trained, path))


class Place:
    """Where --install puts weights and their entry; checked before the training begins.

    Raises InputError for an unknown data set and for a recipe that would replace another one,
    OutputError where a file cannot be written.
    """

    def __init__(
        self, architecture: Architecture, config: Recipe, recipe: Path, data_dir: Path | None
    ) -> None:
        from robustbench_dyn.datasets import dataset_info
        from robustbench_dyn.training.cards import place_of_weights

        # A card names files of the user's own by their content, as results do.
        name = dataset_info(config.dataset, data_dir=data_dir).name
        config = config.model_copy(update={"dataset": name})
        self.folder, self.config = architecture.folder, config
        self.card = self.folder / "card.yaml"
        self.file = place_of_weights(architecture.card, config)
        self.text = recipe.read_text(encoding="utf-8")
        self.recipe = _inside(recipe, self.folder) or f"recipes/{recipe.name}"
        there = self.folder / self.recipe
        if there.exists() and there.read_text(encoding="utf-8") != self.text:
            raise InputError(
                f"{there} is another recipe than {recipe}; rename yours, which --install copies "
                "there"
            )
        for path in (self.card, self.folder / self.file, there):
            check_writable(path)

    def take(self, trained: Trained) -> str:
        """Write weights, recipe and entry; return what was done, for a message."""
        from robustbench_dyn.training.cards import card_entry, install_entry

        if not (self.folder / self.recipe).exists():
            write_text(self.folder / self.recipe, self.text)
        write_bytes(self.folder / self.file, trained.path.read_bytes())
        entry = card_entry(self.config, trained, file=self.file, recipe_file=self.recipe)
        replaced = install_entry(self.card, entry)
        what = "replaced" if replaced else "added"
        return f"installed: {self.folder / self.file}; {what} its entry in {self.card}"


class _HeldOut:
    """Examples that the training does not see, and a ball around each.

    They are those that the recipe holds out of the training split, or else the first ones of the
    test split.
    """

    def __init__(self, config: Recipe, data_dir: Path | None, eps: float | None) -> None:
        from robustbench_dyn.datasets import dataset_info, load_dataset

        sizes = dataset_info(config.dataset, data_dir=data_dir).sizes
        if config.held_out:
            first = max(0, sizes.get("train", 0) - config.held_out)
            self.data = load_dataset(config.dataset, split="train", first=first, data_dir=data_dir)
            self.what = f"the {len(self.data)} held-out training examples of {self.data.name}"
        else:
            n = min(_N_HELD_OUT, sizes["test"])
            self.data = load_dataset(config.dataset, n_examples=n, data_dir=data_dir)
            self.what = f"the first {len(self.data)} test examples of {self.data.name}"
        self.threat_model = _ball(config, tuple(self.data.x.shape[1:]), eps)

    def clean(self, model: nn.Module) -> float:
        """Return the clean accuracy, without a change of the network."""
        import torch

        from robustbench_dyn.models.freezing import frozen_eval

        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        with frozen_eval(model), torch.no_grad():
            predicted = [
                model(x.to(device)).argmax(dim=1).cpu() for x in torch.split(self.data.x, 250)
            ]
        return float((torch.cat(predicted) == self.data.y).double().mean())

    def accuracies(self, model: nn.Module) -> str:
        """Return the clean and the certified accuracy, in a sentence."""
        from robustbench_dyn.evaluation.api import evaluate
        from robustbench_dyn.evaluation.cheap import cheap_certifiers

        threat_model = self.threat_model
        shape = tuple(self.data.x.shape[1:])
        certifiers = cheap_certifiers(model, shape, threat_model.norm)
        evaluation = evaluate(
            model, self.data, threat_model, attacks="none", certifiers=certifiers or "none"
        )
        row = evaluation.summary
        text = f"on {self.what}: clean {row['clean_accuracy']:.1%}"
        ball = f"{threat_model.norm} {format_eps(threat_model.eps)}"
        if not certifiers:
            return f"{text}; no cheap certifier is applicable, so ask `dynbench run` for {ball}"
        by = ", ".join(certifiers)
        return f"{text}, certified {row['certified_accuracy']:.1%} at {ball} by {by}"


def _ball(config: Recipe, input_shape: tuple[int, ...], eps: float | None) -> ThreatModel:
    """Return the ball of the recipe, or a narrow one in the norm of its weights."""
    ball = config.certified_training or config.adversary
    norm: Norm = ball.norm if ball is not None else config.norm or "L2"
    narrow = float(f"{_SHARE_OF_WIDEST * widest_eps(norm, input_shape):.1g}")
    default = ball.eps if ball is not None else min(DEFAULT_EPS[norm], narrow)
    threat_model = ThreatModel(norm, default if eps is None else eps)
    threat_model.check_input_shape(input_shape)
    return threat_model


@contextmanager
def _curve(
    plot: Path | None, title: str, held_out: _HeldOut
) -> Iterator[Callable[[Epoch], None] | None]:
    """Yield what keeps the loss and the accuracy of each epoch; draw them at the end."""
    if plot is None:
        yield None
        return
    from robustbench_dyn.drawing.figures import save
    from robustbench_dyn.drawing.training import plot_training
    from robustbench_dyn.results.cells import to_plot_text

    epochs, losses, accuracies = list[int](), list[float](), list[float]()

    def keep(epoch: Epoch) -> None:
        epochs.append(epoch.number)
        losses.append(epoch.loss)
        accuracies.append(held_out.clean(epoch.model))

    try:
        yield keep
    finally:
        # Also of a training that diverged: it shows where.
        if epochs:
            of = f"{title} on {held_out.data.name}"
            save(plot_training(epochs, losses, accuracies, title=to_plot_text(of)), plot)


def _inside(path: Path, folder: Path) -> str:
    """Return the path from the folder to a file in it; empty for a file elsewhere."""
    resolved, root = path.resolve(), folder.resolve()
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else ""


def _entry_text(architecture: Architecture, config: Recipe, trained: Trained, recipe: Path) -> str:
    from robustbench_dyn.training.cards import card_entry, place_of_weights, yaml_of

    file = place_of_weights(architecture.card, config)
    where = _inside(recipe, architecture.folder) or f"recipes/{recipe.name}"
    return yaml_of(card_entry(config, trained, file=file, recipe_file=where))
