"""The command list: everything that has a name, with where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robustbench_dyn.cli.options import Plugins, Trust

if TYPE_CHECKING:
    from robustbench_dyn.plugins import Plugin, Registry

Row = tuple[str, ...]


def list_(
    what: Annotated[
        Literal["models", "datasets", "attacks", "certifiers", "operations"],
        typer.Argument(help="What to list."),
    ],
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """List models, data sets, attacks, certifiers, or operations that can be bounded."""
    from robustbench_dyn.cli.consoles import plain_table

    del plugins, trust  # heeded while the options were read
    headings, rows = {
        "models": _models,
        "datasets": _datasets,
        "attacks": _attacks,
        "certifiers": _certifiers,
        "operations": _operations,
    }[what]()
    plain_table(headings, rows)


def _models() -> tuple[Row, list[Row]]:
    from robustbench_dyn.plugins import find_plugins

    found = (plugin for plugin in find_plugins() if plugin.provides("architecture"))
    rows = [_model(plugin) for plugin in sorted(found, key=lambda plugin: plugin.name)]
    return ("model", "family", "weights for", "origin"), rows


def _model(plugin: Plugin) -> Row:
    from robustbench_dyn.models.architectures import full_name

    if plugin.problem or plugin.card is None:
        return (plugin.name, "broken", plugin.problem, plugin.origin)
    trained = sorted({full_name(w.dataset, w.variant) for w in plugin.card.weights})
    return (plugin.name, plugin.card.family, ", ".join(trained) or "–", plugin.origin)


def _datasets() -> tuple[Row, list[Row]]:
    from robustbench_dyn.datasets import DATASETS, FORMS, DatasetInfo
    from robustbench_dyn.plugins import BUILT_IN

    def row(info: DatasetInfo) -> Row:
        splits = (
            f"{split}: {size} {info.availability[split]}" for split, size in info.sizes.items()
        )
        return "x".join(map(str, info.input_shape)), str(info.n_classes), ", ".join(splits)

    found = (FORMS.get(prefix) for prefix in FORMS)
    forms = [(form.usage, "", "", form.description, BUILT_IN) for form in found]
    return ("dataset", "input", "classes", "splits", "origin"), _rows(DATASETS, row, 3) + forms


def _attacks() -> tuple[Row, list[Row]]:
    from robustbench_dyn.attacks import ATTACKS, SUITES, Attack

    def row(kind: type[Attack]) -> Row:
        return kind.library, ", ".join(sorted(kind.norms)), kind.description

    rows = _rows(ATTACKS, row, 3)
    rows += _rows(SUITES, lambda suite: ("suite", "", suite.description), 3)
    return ("attack", "library", "norms", "description", "origin"), rows


def _certifiers() -> tuple[Row, list[Row]]:
    from robustbench_dyn.certification.base import Certifier
    from robustbench_dyn.certification.catalogue import CERTIFIERS
    from robustbench_dyn.plugins import BUILT_IN

    def row(kind: type[Certifier[Any]]) -> Row:
        return ", ".join(sorted(kind.norms)), kind.description

    votes = "votes on noisy copies; of the smoothed classifier: dynbench smooth"
    rows = [*_rows(CERTIFIERS, row, 2), ("smoothing", "L2", votes, BUILT_IN)]
    return ("certifier", "norms", "proves by", "origin"), rows


def _operations() -> tuple[Row, list[Row]]:
    from robustbench_dyn.certification.network.operations import OPERATIONS

    return ("operation", "", "origin"), _rows(OPERATIONS, lambda _handler: ("",), 1)


def _rows(registry: Registry[Any], facts: Callable[[Any], Row], n_facts: int) -> list[Row]:
    """Return name, facts and origin of each entry; the last fact of a broken one is its problem."""
    rows = list[Row]()
    for name, entry in registry.entries().items():
        problem = entry.problem
        if not problem:
            try:
                rows.append((name, *facts(registry.get(name)), entry.origin))
            # The attributes of a plugin's things may be of any type, and may raise anything.
            except (Exception, SystemExit) as error:
                problem = f"it cannot be described: {type(error).__name__}: {error}"
        if problem:
            rows.append((name, *["broken", ""][: n_facts - 1], problem, entry.origin))
    return rows
