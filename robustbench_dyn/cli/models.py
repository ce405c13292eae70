"""The command show: the card of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from robustbench_dyn.cli.options import (
    Plugins,
    Trust,
)
from robustbench_dyn.cli.output import print_result


def show(
    model: Annotated[str, typer.Argument(help="Name of the model; see dynbench list models.")],
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Show a model's card: what it claims, and its sets of weights."""
    from robustbench_dyn.models.architectures import full_name, split_name
    from robustbench_dyn.models.loading import find_architecture

    del plugins, trust  # heeded while the options were read
    plugin, card = find_architecture(split_name(model)[0])
    print_result(f"{card.name} {card.version} ({card.family}), from {plugin.origin}")
    print_result(card.summary)
    for line in card.equation:
        print_result(f"    {line}")
    for title, values in (("properties", card.properties), ("sources", card.sources)):
        if values:
            print_result(f"{title}: {', '.join(values)}")
    for weights in card.weights:
        options = ", ".join(f"{key}={value}" for key, value in weights.options.items())
        trained_for = f"{weights.dataset}" + (f", {weights.norm}" if weights.norm else "")
        name = full_name(card.name, weights.variant)
        seconds = weights.training_seconds
        trained_in = "" if seconds is None else f"; {seconds:g} s of training"
        print_result(
            f"{name} for {trained_for}: {weights.file}; {options}; {weights.recipe}{trained_in}"
        )
