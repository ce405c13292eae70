"""The command show: the card of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_dyn.cli import completion
from robustbench_dyn.cli.options import (
    AsJson,
    Plugins,
    Trust,
    WeightsFile,
)
from robustbench_dyn.cli.output import print_json
from robustbench_dyn.errors import InputError
from robustbench_dyn.progress.loading import say


def show(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model; see: dynbench list models.",
            autocompletion=completion.models,
        ),
    ],
    weights: WeightsFile = None,
    as_json: AsJson = False,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Show a model's card: what it claims, its sets of weights, and its published rows."""
    from robustbench_dyn.cli.model_cards import card_document, print_card, weights_shown
    from robustbench_dyn.models.architectures import split_name
    from robustbench_dyn.models.loading import find_architecture, refuse_weights
    from robustbench_dyn.models.sources import is_from_source
    from robustbench_dyn.plugins import unknown

    del plugins, trust  # heeded while the options were read
    if is_from_source(model):
        _show_facts(model, weights, as_json=as_json)
        return
    refuse_weights(model, weights)
    name, variant = split_name(model)
    plugin, card = find_architecture(name)
    if variant and not weights_shown(card, variant):
        known = sorted({weights.variant for weights in card.weights if weights.variant})
        raise InputError(unknown(f"variant of {name}", variant, known or ["none"]))
    if as_json:
        print_json(card_document(plugin, card, variant))
    else:
        print_card(plugin, card, variant)


def _show_facts(model: str, weights: Path | None, *, as_json: bool) -> None:
    """Print what the source of a model and its weights say of it."""
    from robustbench_dyn.cli.consoles import note
    from robustbench_dyn.models.sources.assembly import facts

    say(f"loading {model}")
    known = facts(model, weights=weights)
    if as_json:
        print_json(known)
        return
    for name, value in known.items():
        note(f"{name}: {value}")
