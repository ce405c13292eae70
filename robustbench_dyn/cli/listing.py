"""The command list: everything that has a name, with where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from robustbench_dyn.cli.options import AsJson, Plugins, Trust
from robustbench_dyn.cli.output import announce, print_json, results

if TYPE_CHECKING:
    from robustbench_dyn.cli.consoles import Column
    from robustbench_dyn.plugins import Plugin, Registry

# What is known of one name, by column: texts, numbers and lists.
Record = dict[str, Any]


class Listing(NamedTuple):
    """Names of one kind with what is known of each; explained: the column that says more.

    A record has a `name`, an `origin` and a `problem`, which is empty unless it is broken.
    """

    columns: Mapping[str, Column]
    records: list[Record]
    explained: str


def list_(
    what: Annotated[
        Literal["models", "sources", "datasets", "attacks", "certifiers", "operations"],
        typer.Argument(
            metavar="models|sources|datasets|attacks|certifiers|operations", help="What to list."
        ),
    ],
    as_json: AsJson = False,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """List models, their sources, data sets, attacks, certifiers, or operations to be bounded."""
    from robustbench_dyn.cli.consoles import table

    del plugins, trust  # heeded while the options were read
    listing = {
        "models": _models,
        "sources": _sources,
        "datasets": _datasets,
        "attacks": _attacks,
        "certifiers": _certifiers,
        "operations": _operations,
    }[what]()
    if as_json:
        print_json({what: listing.records})
        return
    rows = [[_cell(listing, record, column) for column in listing.columns] for record in listing[1]]
    table(list(listing.columns.values()), rows, instead="--json")
    if what == "models" and results().isatty():
        announce("models of other libraries and of your own files: dynbench list sources")


def _cell(listing: Listing, record: Record, column: str) -> str:
    if record["problem"] and column == listing.explained:
        return f"broken: {record['problem']}"
    value = record.get(column, "")
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _models() -> Listing:
    from robustbench_dyn.cli.consoles import Column
    from robustbench_dyn.models.loading import plugins_of_models

    columns = {
        "name": Column("model"),
        "datasets": Column("weights for", wraps=True),
        "family": Column("family", importance=2, wraps=True),
        "origin": Column("origin", importance=1),
    }
    plugins = sorted(plugins_of_models(), key=lambda plugin: plugin.name)
    return Listing(columns, [r for plugin in plugins for r in _of_model(plugin)], "datasets")


def _of_model(plugin: Plugin) -> list[Record]:
    """Return one record for each name that stands for weights; one for a model without any."""
    from robustbench_dyn.datasets.catalogue import served_by
    from robustbench_dyn.models.architectures import full_name

    if plugin.problem or plugin.card is None:
        return [_record(plugin.name, plugin.origin, problem=plugin.problem)]
    card = plugin.card
    datasets = {full_name(card.name, weights.variant): list[str]() for weights in card.weights}
    for weights in card.weights:
        datasets[full_name(card.name, weights.variant)].extend(served_by(weights.dataset))
    return [
        _record(name, plugin.origin, datasets=list(dict.fromkeys(of_name)), family=card.family)
        for name, of_name in sorted((datasets or {plugin.name: []}).items())
    ]


def _sources() -> Listing:
    from robustbench_dyn.cli.consoles import Column
    from robustbench_dyn.models.sources import SOURCES
    from robustbench_dyn.plugins import BUILT_IN

    columns = {
        "name": Column("model"),
        "install": Column("pip install", importance=1),
        "description": Column("description", wraps=True),
    }
    sources = [SOURCES.get(name)() for name in SOURCES]
    records = [
        _record(one.form, BUILT_IN, install=one.install, description=one.description)
        for one in sources
    ]
    return Listing(columns, records, "description")


def _datasets() -> Listing:
    from robustbench_dyn.cli.consoles import Column
    from robustbench_dyn.datasets import DATASETS, FORMS, DatasetInfo
    from robustbench_dyn.plugins import BUILT_IN

    def facts(info: DatasetInfo) -> Record:
        splits = [
            f"{split}: {size} {info.availability[split]}" for split, size in info.sizes.items()
        ]
        shape = "x".join(map(str, info.input_shape))
        return {"input": shape, "classes": info.n_classes, "splits": splits}

    columns = {
        "name": Column("data set"),
        "input": Column("input", importance=2),
        "classes": Column("classes", importance=2, right=True),
        "splits": Column("splits", wraps=True),
        "origin": Column("origin", importance=1),
    }
    forms = [
        _record(form.usage, BUILT_IN, splits=[form.description])
        for form in (FORMS.get(prefix) for prefix in FORMS)
    ]
    return Listing(columns, _records(DATASETS, facts) + forms, "splits")


def _attacks() -> Listing:
    from robustbench_dyn.attacks import ATTACKS, SUITES, Attack
    from robustbench_dyn.cli.consoles import Column

    def facts(kind: type[Attack]) -> Record:
        norms = sorted(kind.norms)
        return {"library": kind.library, "norms": norms, "description": kind.description}

    columns = {
        "name": Column("attack"),
        "library": Column("library", importance=2),
        "norms": Column("norms", importance=3),
        "description": Column("description", wraps=True),
        "origin": Column("origin", importance=1),
    }
    suites = _records(SUITES, lambda suite: {"library": "suite", "description": suite.description})
    return Listing(columns, _records(ATTACKS, facts) + suites, "description")


def _certifiers() -> Listing:
    from robustbench_dyn.certification.base import Certifier
    from robustbench_dyn.certification.catalogue import CERTIFIERS
    from robustbench_dyn.cli.consoles import Column
    from robustbench_dyn.plugins import BUILT_IN

    def facts(kind: type[Certifier[Any]]) -> Record:
        return {"norms": sorted(kind.norms), "description": kind.description}

    votes = "votes on noisy copies; of the smoothed classifier: dynbench smooth"
    smoothing = _record("smoothing", BUILT_IN, norms=["L2"], description=votes)
    columns = {
        "name": Column("certifier"),
        "norms": Column("norms", importance=2),
        "description": Column("proves by", wraps=True),
        "origin": Column("origin", importance=1),
    }
    return Listing(columns, [*_records(CERTIFIERS, facts), smoothing], "description")


def _operations() -> Listing:
    from robustbench_dyn.certification.network.operations import OPERATIONS
    from robustbench_dyn.cli.consoles import Column

    columns = {"name": Column("operation"), "origin": Column("origin", wraps=True)}
    return Listing(columns, _records(OPERATIONS, lambda _handler: {}), "origin")


def _record(name: str, origin: str, *, problem: str = "", **facts: Any) -> Record:
    return {"name": name, **facts, "origin": origin, "problem": problem}


def _records(registry: Registry[Any], facts: Callable[[Any], Record]) -> list[Record]:
    """Return what is known of each entry of a registry; of a broken one, why it is."""
    records = list[Record]()
    for name, entry in registry.entries().items():
        problem = entry.problem
        if not problem:
            try:
                records.append(_record(name, entry.origin, **facts(registry.get(name))))
            # The attributes of a plugin's things may be of any type, and may raise anything.
            except (Exception, SystemExit) as error:
                problem = f"it cannot be described: {type(error).__name__}: {error}"
        if problem:
            records.append(_record(name, entry.origin, problem=problem))
    return records
