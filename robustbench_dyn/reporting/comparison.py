"""Two models compared on the same examples: which differ, and how sure one can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from robustbench_dyn.errors import InputError
from robustbench_dyn.plugins import unknown
from robustbench_dyn.reporting.labels import is_named
from robustbench_dyn.reporting.published import Entry
from robustbench_dyn.reporting.ranking import LEVEL
from robustbench_dyn.reporting.statistics import holm, mcnemar
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.headings import format_threat_model
from robustbench_dyn.results.summary import binomial_limit
from robustbench_dyn.results.verdicts import Status

# From the worst to the best.
STATUSES = (
    Status.ERROR,
    Status.MISCLASSIFIED,
    Status.BROKEN,
    Status.UNDECIDED,
    Status.CERTIFIED,
)
_WORST_FIRST = {status: place for place, status in enumerate(STATUSES)}


class Share(NamedTuple):
    """How many of the shared examples a model has, as a fraction with its 95 % interval."""

    fraction: float
    low: float
    high: float

    @staticmethod
    def of(held: int, n: int) -> Share:
        """Return held of n with the Clopper-Pearson interval."""
        low, high = (binomial_limit(held, n, upper=upper) for upper in (False, True))
        return Share(held / n, low, high)


@dataclass(frozen=True)
class Difference:
    """One accuracy of both models. column: of the accuracy, in tables.

    only_first, only_second: the examples that one of them has and the other lacks, by id. p_value:
    of McNemar's exact test; adjusted: by Holm's method over all that are compared together.
    """

    column: str
    first: Share
    second: Share
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]
    p_value: float
    adjusted: float

    @property
    def separated(self) -> bool:
        """Whether one can be sure of the difference at the level of tied groups."""
        return self.adjusted <= LEVEL


@dataclass(frozen=True)
class Comparison:
    """Two models under one threat model. n_first, n_second: the examples of each; n: the shared.

    counts: of the shared examples, by the status of the first and of the second.
    """

    title: str
    dataset: str
    data_sha256: str
    norm: str
    eps: float
    n_first: int
    n_second: int
    n: int
    counts: Mapping[tuple[Status, Status], int]
    differences: tuple[Difference, ...]


class Standing(NamedTuple):
    """What all rows of a model under one threat model say of an example: the worst of them."""

    status: Status
    clean: bool


class _ThreatModel(NamedTuple):
    dataset: str
    norm: str
    eps: float
    data_sha256: str


class _OfModel(NamedTuple):
    standings: Mapping[int, Standing]
    attacked: bool


def compare(
    entries: Sequence[Entry],
    first: str,
    second: str,
    *,
    dataset: str | None = None,
    norm: str | None = None,
    eps: float | None = None,
) -> list[Comparison]:
    """Compare two models under all threat models that both have, on the examples that both have.

    first, second: as in tables, with @ and the first digits of the weights' hash where the table
    has several weights of one name. dataset, norm, eps: of the threat models, by default all. An
    example counts as certified (not broken, correct) where it is in all rows of the model: those of
    all its seeds and suites. Raises InputError for a model without rows or with several weights,
    for the same model twice, and where no threat model, no example or no evidence is left.
    """
    if not entries:
        raise InputError("there is no row to compare; evaluate models with: dynbench run")
    of_models = [_of_name(entries, name, dataset) for name in (first, second)]
    if first == second or {id(e) for e in of_models[0]} == {id(e) for e in of_models[1]}:
        raise InputError(f"{first} and {second} are one model; give two")
    chosen = [_by_threat_model(rows, dataset=dataset, norm=norm, eps=eps) for rows in of_models]
    common = sorted(set(chosen[0]) & set(chosen[1]))
    if not common:
        raise InputError(_without_common(first, second, of_models, chosen))
    found = [
        _comparison(threat_model, *(_standings(rows[threat_model]) for rows in chosen))
        for threat_model in common
        if all(_has_evidence(rows[threat_model]) for rows in chosen)
    ]
    if not found:
        lacking = [
            name
            for name, rows in zip((first, second), chosen, strict=True)
            if not all(_has_evidence(rows[threat_model]) for threat_model in common)
        ]
        raise InputError(
            f"there is no evidence of {' and '.join(lacking)}: the verdicts behind the rows are "
            "not published with the tables; give a store that holds them, with --store"
        )
    found = [comparison for comparison in found if comparison.n]
    if not found:
        raise InputError(
            f"{first} and {second} share no example under any common threat model; evaluate both "
            "on the same examples"
        )
    return _adjusted(found)


def _of_name(entries: Sequence[Entry], name: str, dataset: str | None) -> list[Entry]:
    """Return the rows of a model, which has other weights on other data sets."""
    rows = [entry for entry in entries if is_named(entry.row, name)]
    if not rows:
        raise InputError(unknown("model", name, sorted({entry.row["model"] for entry in entries})))
    weights = dict[str, set[str]]()
    for entry in rows:
        if dataset in (None, entry.row["dataset"]):
            of_dataset = weights.setdefault(entry.row["dataset"], set())
            of_dataset.add(str(entry.row["weights_sha256"] or ""))
    for data, digits in sorted(weights.items()):
        if len(digits) > 1:
            model = name.partition("@")[0]
            choice = " or ".join(f"{model}@{one[:8]}" for one in sorted(digits))
            raise InputError(
                f"{name} has rows of {len(digits)} weights on {data}; give one of them: {choice}"
            )
    return rows


def _by_threat_model(
    entries: Sequence[Entry], *, dataset: str | None, norm: str | None, eps: float | None
) -> dict[_ThreatModel, list[Entry]]:
    found = dict[_ThreatModel, list[Entry]]()
    for entry in entries:
        row = entry.row
        threat_model = _ThreatModel(
            row["dataset"], row["norm"], row["eps"], row["data_sha256"] or ""
        )
        asked = zip((dataset, norm, eps), threat_model, strict=False)
        if all(wanted in (None, value) for wanted, value in asked):
            found.setdefault(threat_model, []).append(entry)
    return found


def _without_common(
    first: str,
    second: str,
    of_models: Sequence[Sequence[Entry]],
    chosen: Sequence[Mapping[_ThreatModel, object]],
) -> str:
    """Say why two models have no threat model in common, among those that are chosen."""
    if {place[:3] for place in chosen[0]} & {place[:3] for place in chosen[1]}:
        return (
            f"{first} and {second} have rows of the same threat models, but of different data; "
            "evaluate both on the same data"
        )
    told = [
        "; ".join(sorted({format_threat_model(entry.row) for entry in rows})) for rows in of_models
    ]
    return (
        f"{first} and {second} have no threat model in common among those asked for: {first} has "
        f"{told[0]}, and {second} has {told[1]}"
    )


def _has_evidence(entries: Sequence[Entry]) -> bool:
    return any(entry.evidence is not None for entry in entries)


def _standings(entries: Sequence[Entry]) -> _OfModel:
    """Return the worst that the rows of a model say of each example that one of them has."""
    found = dict[int, Standing]()
    for evidence in (entry.evidence for entry in entries):
        for example_id, standing in _of_evidence(evidence).items() if evidence else ():
            other = found.get(example_id, standing)
            found[example_id] = Standing(
                min(standing.status, other.status, key=_WORST_FIRST.__getitem__),
                standing.clean and other.clean,
            )
    attacked = all(entry.row["empirical_accuracy"] is not None for entry in entries)
    return _OfModel(found, attacked)


def _of_evidence(evidence: Evidence) -> dict[int, Standing]:
    """Return what a row says of each example, as results.summary.summary_row counts it."""
    void = evidence.record.spec.voids_certificates(evidence.flags)
    return {
        v.example_id: Standing(
            Status.UNDECIDED if void and v.status is Status.CERTIFIED else v.status,
            v.prediction == v.label,
        )
        for v in evidence.verdicts
    }


def _comparison(threat_model: _ThreatModel, first: _OfModel, second: _OfModel) -> Comparison:
    ids = sorted(first.standings.keys() & second.standings.keys())
    pairs = [(first.standings[i], second.standings[i]) for i in ids]
    standing = (Status.CERTIFIED, Status.UNDECIDED)
    held: dict[str, list[tuple[bool, bool]]] = {
        "clean_accuracy": [(a.clean, b.clean) for a, b in pairs],
        "certified_accuracy": [
            (a.status is Status.CERTIFIED, b.status is Status.CERTIFIED) for a, b in pairs
        ],
    }
    if first.attacked and second.attacked:
        held["empirical_accuracy"] = [
            (a.status in standing, b.status in standing) for a, b in pairs
        ]
    dataset, norm, eps, data_sha256 = threat_model
    return Comparison(
        title=format_threat_model({"dataset": dataset, "norm": norm, "eps": eps}),
        dataset=dataset,
        data_sha256=data_sha256,
        norm=norm,
        eps=eps,
        n_first=len(first.standings),
        n_second=len(second.standings),
        n=len(ids),
        counts=Counter((a.status, b.status) for a, b in pairs),
        differences=tuple(_difference(column, ids, of) for column, of in held.items() if ids),
    )


def _difference(column: str, ids: Sequence[int], held: Sequence[tuple[bool, bool]]) -> Difference:
    only_first = tuple(i for i, (a, b) in zip(ids, held, strict=True) if a and not b)
    only_second = tuple(i for i, (a, b) in zip(ids, held, strict=True) if b and not a)
    p_value = mcnemar(len(only_first), len(only_second))
    return Difference(
        column=column,
        first=Share.of(sum(a for a, _ in held), len(ids)),
        second=Share.of(sum(b for _, b in held), len(ids)),
        only_first=only_first,
        only_second=only_second,
        p_value=p_value,
        adjusted=p_value,
    )


def _adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with their p-values adjusted together."""
    p_values = [d.p_value for comparison in comparisons for d in comparison.differences]
    adjusted = iter(holm(p_values))
    return [
        replace(
            comparison,
            differences=tuple(replace(d, adjusted=next(adjusted)) for d in comparison.differences),
        )
        for comparison in comparisons
    ]
