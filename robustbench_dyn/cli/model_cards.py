"""A model's card with its sets of weights and its published rows, as text and as a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from robustbench_dyn.cli.consoles import Column, note, space, table
from robustbench_dyn.errors import DynbenchError
from robustbench_dyn.models.architectures import full_name
from robustbench_dyn.plugins import Plugin
from robustbench_dyn.plugins.card import Card, Weights
from robustbench_dyn.reporting.rows import Row
from robustbench_dyn.results.headings import (
    format_eps,
    format_interval,
    format_percent,
    heading,
)

_INDENT = "    "


def card_document(plugin: Plugin, card: Card, variant: str) -> dict[str, Any]:
    """Return what is known of a model; variant: of the weights to be shown, or empty for all."""
    return {
        "name": full_name(card.name, variant),
        "origin": plugin.origin,
        "card": card.model_dump(mode="json", exclude={"weights"}),
        "weights": [
            {"name": full_name(card.name, weights.variant)} | weights.model_dump(mode="json")
            for weights in weights_shown(card, variant)
        ],
        "rows": published_rows(card, variant),
    }


def print_card(plugin: Plugin, card: Card, variant: str) -> None:
    """Print what is known of a model; variant: of the weights to be shown, or empty for all."""
    note(f"{card.name} {card.version} ({card.family}), from {plugin.origin}")
    note(card.summary)
    for each in card.equation:
        note(each, indent=_INDENT)
    for title, values in (("properties", card.properties), ("sources", card.sources)):
        if values:
            note(f"{title}: {', '.join(values)}")
    shown = weights_shown(card, variant)
    if not shown:
        note(f"no weights yet; train them with: dynbench train --model {card.name}")
        return
    space()
    _print_weights(card, shown)
    _print_rows(published_rows(card, variant))
    space()
    note(f"run it: {_command(card, shown[0])}")


def weights_shown(card: Card, variant: str) -> list[Weights]:
    """Return the weights of a variant, or all of them."""
    return [weights for weights in card.weights if not variant or weights.variant == variant]


def published_rows(card: Card, variant: str) -> list[Row]:
    """Return the rows that ship with the package of the weights that are shown."""
    from robustbench_dyn.reporting.published import no_row, shipped_entries

    hashes = {weights.sha256 for weights in weights_shown(card, variant)}
    try:
        entries = shipped_entries(with_evidence=no_row)
    # A card can be read without the tables.
    except DynbenchError:
        return []
    return [entry.row for entry in entries if entry.row["weights_sha256"] in hashes]


def _print_weights(card: Card, shown: Sequence[Weights]) -> None:
    columns = (
        Column("weights"),
        Column("data set"),
        Column("norm", importance=5),
        Column("options", importance=4, wraps=True),
        Column("training", importance=3, right=True),
        Column("file", importance=2),
        Column("recipe", importance=1),
    )
    rows = [
        (
            full_name(card.name, weights.variant),
            weights.dataset,
            weights.norm or "any",
            ", ".join(f"{key}={value}" for key, value in weights.options.items()),
            "" if weights.training_seconds is None else f"{weights.training_seconds:g} s",
            weights.file,
            weights.recipe,
        )
        for weights in shown
    ]
    table(columns, rows, instead="--json")


def _print_rows(rows: Sequence[Row]) -> None:
    """Print a table for each name and data set that rows were published of."""
    names = ("certified_accuracy", "empirical_accuracy", "clean_accuracy")
    columns: list[Column | str] = [
        heading("norm"),
        Column(heading("eps"), right=True),
        *(Column(heading(name), right=True) for name in names[:2]),
        Column(heading(names[2]), importance=3, right=True),
        Column(heading("interval"), importance=2, right=True),
        Column(heading("n_examples"), importance=1, right=True),
    ]
    groups: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for row in rows:
        cells = (
            str(row["norm"]),
            format_eps(row["eps"]),
            *(format_percent(row[name]) for name in names),
            format_interval(row["ci_low"], row["ci_high"]),
            str(row["n_examples"]),
        )
        groups.setdefault((row["model"], row["dataset"]), []).append(cells)
    for (model, dataset), of_group in sorted(groups.items()):
        space()
        table(columns, of_group, title=f"published: {model} on {dataset}", instead="--json")


def _command(card: Card, weights: Weights) -> str:
    return " ".join(_words(card, weights))


def _words(card: Card, weights: Weights) -> Iterator[str]:
    yield f"dynbench run --model {full_name(card.name, weights.variant)}"
    yield f"--dataset {weights.dataset}"
    if weights.norm is not None:
        yield f"--norm {weights.norm}"
