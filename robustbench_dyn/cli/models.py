"""Commands about models: show, train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_dyn.cli import completion
from robustbench_dyn.cli.options import (
    MODEL,
    OUTPUT,
    AsJson,
    DataDir,
    Device,
    Limited,
    Plugins,
    Trust,
    check_device,
)
from robustbench_dyn.cli.output import print_json, print_result
from robustbench_dyn.cli.supervised import run_supervised
from robustbench_dyn.errors import InputError
from robustbench_dyn.names import file_name


def show(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model; see: dynbench list models.",
            autocompletion=completion.models,
        ),
    ],
    as_json: AsJson = False,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Show a model's card: what it claims, its sets of weights, and its published rows."""
    from robustbench_dyn.cli.model_cards import card_document, print_card, weights_shown
    from robustbench_dyn.models.architectures import split_name
    from robustbench_dyn.models.loading import find_architecture
    from robustbench_dyn.plugins import unknown

    del plugins, trust  # heeded while the options were read
    name, variant = split_name(model)
    plugin, card = find_architecture(name)
    if variant and not weights_shown(card, variant):
        known = sorted({weights.variant for weights in card.weights if weights.variant})
        raise InputError(unknown(f"variant of {name}", variant, known or ["none"]))
    if as_json:
        print_json(card_document(plugin, card, variant))
    else:
        print_card(plugin, card, variant)


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
        str,
        typer.Option(
            metavar="NAME",
            help="Data set; its training split is used.",
            rich_help_panel=MODEL,
            autocompletion=completion.datasets,
        ),
    ] = "fashion_mnist",
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Recipe (.yaml).",
            show_default="the plugin's own",
            rich_help_panel=MODEL,
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
    device: Device = "cpu",
    n_examples: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Train on the first N examples only.", rich_help_panel=MODEL
        ),
    ] = None,
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
) -> None:
    """Train a model by its recipe; an interrupted training resumes."""
    from robustbench_dyn.models.architectures import split_name
    from robustbench_dyn.models.loading import discover, find_architecture
    from robustbench_dyn.plugins import is_trusted, limits_in_use
    from robustbench_dyn.progress.display import training_display

    del plugins, trust, limits  # heeded while the options were read
    name, variant = split_name(model)
    plugin, _ = find_architecture(name)
    if not is_trusted(plugin):
        run_supervised(plugin.origin, limits_in_use())
    from robustbench_dyn.training import loop, recipes

    architecture = discover().get(name)
    path = recipe or recipes.find_recipe(architecture, dataset, variant)
    config = recipes.read_recipe(path)
    if config.dataset != dataset:
        raise InputError(f"the recipe {path} is for dataset {config.dataset!r}, not {dataset!r}")
    target = out or Path("trained") / file_name(*model.split("/"), dataset, suffix=".safetensors")
    with training_display() as progress:
        trained = loop.train(
            config,
            architecture,
            target,
            data_dir=data_dir,
            device=str(check_device(device)),
            n_examples=n_examples,
            progress=progress,
        )
    import yaml

    print_result(
        f"trained in {trained.seconds:.0f} s of processor time: {trained.path}; "
        "its entry for card.yaml:"
    )
    entry = loop.card_entry(config, trained, f"recipes/{path.name}")
    print_result(yaml.safe_dump({"weights": [entry]}, sort_keys=False).rstrip())
