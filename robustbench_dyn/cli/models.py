"""The command show: the card of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from robustbench_dyn.cli import completion
from robustbench_dyn.cli.options import (
    AsJson,
    Plugins,
    Trust,
)
from robustbench_dyn.cli.output import print_json
from robustbench_dyn.errors import InputError


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
