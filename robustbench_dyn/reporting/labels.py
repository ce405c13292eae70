"""Rows in sentences: how a model is named, and what a row says in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustbench_dyn.results.headings import counted, format_eps


def is_named(row: Mapping[str, Any], name: str) -> bool:
    """Say whether a row is of the model NAME, or NAME@HASH with the first digits of its weights."""
    model, _, digits = name.partition("@")
    return bool(row["model"] == model and str(row["weights_sha256"] or "").startswith(digits))


def label(row: Mapping[str, Any]) -> str:
    """Name a row in a sentence: its model, data set, threat model and number of examples."""
    return (
        f"{row['model']} on {counted(row['n_examples'], 'example')} of {row['dataset']}, "
        f"{row['norm']} {format_eps(row['eps'])}"
    )


def bracket(row: Mapping[str, Any]) -> str:
    """Return a row's bounds for a sentence: certified, empirical, both in percent."""
    empirical = row["empirical_accuracy"]
    attacked = "not attacked" if empirical is None else f"empirical {100 * empirical:.1f} %"
    return f"certified {100 * row['certified_accuracy']:.1f} %, {attacked}"
