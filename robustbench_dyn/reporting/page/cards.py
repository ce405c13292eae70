"""The card of a model's plugin, as the page of the model shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from robustbench_dyn.models.architectures import split_name
from robustbench_dyn.plugins import Card, Weights, find_plugins

_ARXIV = re.compile(r"arXiv[: ]\s*(\d{4}\.\d{4,5})(v\d+)?", re.IGNORECASE)
_WEB = re.compile(r"https?://[^\s<>\"']+")


def card_of(model: str) -> Card | None:
    """Return the card of a model's architecture; None where no plugin in use has one."""
    name = split_name(model)[0].partition("~")[0]
    for plugin in find_plugins():
        if plugin.name == name and not plugin.problem:
            return plugin.card
    return None


def described(card: Card | None, weights: Iterable[str]) -> dict[str, Any] | None:
    """Return what a page shows of a card, with the sets of weights that rows name by SHA-256."""
    if card is None:
        return None
    by_hash = {one.sha256: one for one in card.weights}
    return {
        "summary": card.summary,
        "family": card.family,
        "version": card.version,
        "equation": card.equation,
        "properties": card.properties,
        "sources": [(source, address(source)) for source in card.sources],
        "authors": card.authors,
        "license": card.license,
        "training": {sha: _training(by_hash[sha]) for sha in weights if sha in by_hash},
    }


def address(source: str) -> str:
    """Return the web address of a source: of an arXiv number, or as it stands; "" for none."""
    if match := _ARXIV.fullmatch(source.strip()):
        return f"https://arxiv.org/abs/{match[1]}{match[2] or ''}"
    return source.strip() if _WEB.fullmatch(source.strip()) else ""


def _training(weights: Weights) -> dict[str, Any]:
    return {
        "file": weights.file,
        "recipe": weights.recipe,
        "trained_for": weights.dataset + (f", {weights.norm}" if weights.norm else ""),
        "options": ", ".join(f"{key}={value}" for key, value in weights.options.items()),
        "seconds": weights.training_seconds,
    }
