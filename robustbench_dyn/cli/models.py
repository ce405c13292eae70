"""Commands about models: show, train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_dyn.cli.options import (
    DataDir,
    Device,
    Limited,
    Plugins,
    Trust,
    WeightsFile,
    check_device,
)
from robustbench_dyn.cli.output import print_result
from robustbench_dyn.cli.supervised import run_supervised
from robustbench_dyn.errors import InputError
from robustbench_dyn.names import file_name


def show(
    model: Annotated[str, typer.Argument(help="Name of the model; see dynbench list models.")],
    weights: WeightsFile = None,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Show a model's card: what it claims, and its sets of weights."""
    from robustbench_dyn.models.architectures import full_name, split_name
    from robustbench_dyn.models.loading import find_architecture, refuse_weights
    from robustbench_dyn.models.sources import is_from_source

    del plugins, trust  # heeded while the options were read
    if is_from_source(model):
        from robustbench_dyn.models.sources.assembly import facts

        for name, value in facts(model, weights=weights).items():
            print_result(f"{name}: {value}")
        return
    refuse_weights(model, weights)
    plugin, card = find_architecture(split_name(model)[0])
    print_result(f"{card.name} {card.version} ({card.family}), from {plugin.origin}")
    print_result(card.summary)
    for line in card.equation:
        print_result(f"    {line}")
    for title, values in (("properties", card.properties), ("sources", card.sources)):
        if values:
            print_result(f"{title}: {', '.join(values)}")
    for one in card.weights:
        options = ", ".join(f"{key}={value}" for key, value in one.options.items())
        trained_for = f"{one.dataset}" + (f", {one.norm}" if one.norm else "")
        name = full_name(card.name, one.variant)
        seconds = one.training_seconds
        trained_in = "" if seconds is None else f"; {seconds:g} s of training"
        print_result(f"{name} for {trained_for}: {one.file}; {options}; {one.recipe}{trained_in}")


def train(
    model: Annotated[str, typer.Option(help="NAME or NAME/VARIANT to train.")],
    dataset: Annotated[
        str, typer.Option(help="Data set; its training split is used.")
    ] = "fashion_mnist",
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe (.yaml); by default the plugin's own.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write the weights to (.safetensors).")
    ] = None,
    device: Device = "cpu",
    n_examples: Annotated[
        int | None, typer.Option(help="Train on the first N examples only.")
    ] = None,
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
) -> None:
    """Train a model by its recipe; an interrupted training resumes."""
    from robustbench_dyn.cli.terminal import training_display
    from robustbench_dyn.models.architectures import split_name
    from robustbench_dyn.models.loading import discover, find_architecture
    from robustbench_dyn.plugins import is_trusted, limits_in_use

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
