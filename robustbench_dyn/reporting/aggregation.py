"""Lines of tables: what Markdown, LaTeX and the page show, the seeds of a model as one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, NamedTuple

from robustbench_dyn.reporting.published import Entry
from robustbench_dyn.reporting.ranking import ModelOfTable, model_of, tied
from robustbench_dyn.reporting.rows import Images
from robustbench_dyn.results.flags import FLAGS, name_of
from robustbench_dyn.results.headings import format_percent, format_threat_model

NO_EVIDENCE: Final = "no_evidence"
# As many digits of a hash tell the weights of one name apart.
_DIGITS = 8


class Spread(NamedTuple):
    """A column of the seeds of a model: their mean, and the least and the most of them."""

    mean: float
    least: float
    most: float

    @staticmethod
    def of(values: Iterable[float | None]) -> Spread | None:
        """Return the spread of values; None where one of them is missing."""
        known = list(values)
        present = [value for value in known if value is not None]
        if not known or len(present) < len(known):
            return None
        return Spread(fmean(present), min(present), max(present))

    def text(self) -> str:
        """Write fractions in percent: 83.5, or 83.5 (83.1-83.9) where seeds differ."""
        mean = format_percent(self.mean)
        if self.least == self.most:
            return mean
        return f"{mean} ({format_percent(self.least)}–{format_percent(self.most)})"


@dataclass(frozen=True)
class Line:
    """One model of one table, with the rows of all its seeds.

    entries: a row and its evidence for each seed, by seed. label: the model, with @ and the first
    digits of the weights' hash where the table has the name with other weights, too. images: those
    of its rows. certified, clean: of the seeds, as fractions. empirical, gap: likewise; None where
    a seed was not attacked. interval: of fractions; it contains the true robust accuracy with 95 %
    confidence; of several seeds, from the least lower limit to the greatest upper one, which
    contains the interval of each. certified_rank, empirical_rank: None where not ranked.
    certified_tied, empirical_tied: whether other models share the rank. seconds, forward_passes,
    backward_passes: means per example. open_flags: of all seeds, each once. corrections: likewise.
    """

    entries: tuple[Entry, ...]
    label: str
    images: Images
    certified: Spread
    clean: Spread
    empirical: Spread | None
    gap: Spread | None
    interval: tuple[float, float]
    certified_rank: int | None
    empirical_rank: int | None
    certified_tied: bool
    empirical_tied: bool
    seconds: float
    forward_passes: float
    backward_passes: float
    open_flags: tuple[str, ...]
    corrections: tuple[str, ...]

    @property
    def row(self) -> Mapping[str, Any]:
        """The row of the first seed, for what all seeds share: model, suite, certifiers, hashes."""
        return self.entries[0].row

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in their order."""
        return tuple(entry.row["seed"] or 0 for entry in self.entries)

    def asks_for(self) -> list[tuple[str, str]]:
        """Return each open flag with what it asks for before the model can be ranked."""
        return [(flag, _asked(flag)) for flag in self.open_flags]


@dataclass(frozen=True)
class TableLines:
    """One table: all rows of one data set and threat model.

    title: as in "cifar10, Linf, eps 8/255". images: those that the ranks are about: of the ranked
    models, those with the most examples, and of these the ones that most models have; None where
    no model is ranked. ranked: the models on these images, best first. other_images: models that
    are ranked on other images, in whose ranks those on more images count by these alone; they are
    sorted by images first. not_ranked: models with open flags, on any images, the highest
    certified accuracy first.
    """

    dataset: str
    norm: str
    eps: float
    title: str
    images: Images | None
    ranked: tuple[Line, ...]
    other_images: tuple[Line, ...]
    not_ranked: tuple[Line, ...]

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines, those that are ranked first."""
        return (*self.ranked, *self.other_images, *self.not_ranked)


def lines(entries: Sequence[Entry]) -> list[TableLines]:
    """Return the tables of entries, by data set, norm and eps.

    entries: with their ranks and open flags in the rows, as published tables have them, and as
    ranking.ranked sets them. The result does not depend on their order.
    """
    tables = dict[tuple[str, str, float], list[Entry]]()
    for entry in entries:
        row = entry.row
        tables.setdefault((row["dataset"], row["norm"], row["eps"]), []).append(entry)
    return [_table(*key, of_table) for key, of_table in sorted(tables.items())]


def _table(dataset: str, norm: str, eps: float, entries: Sequence[Entry]) -> TableLines:
    all_lines = _lines_of(entries)
    ranked = [line for line in all_lines if line.certified_rank is not None]
    sizes = Counter(line.images for line in ranked)
    # The last criteria choose one of several, whatever the order of the entries.
    main = max(sizes, key=lambda i: (i.n_examples, sizes[i], *map(str, i)), default=None)
    others = [line for line in ranked if line.images != main]
    return TableLines(
        dataset=dataset,
        norm=norm,
        eps=eps,
        title=format_threat_model(entries[0].row),
        images=main,
        ranked=tuple(line for line in ranked if line.images == main),
        other_images=tuple(
            sorted(others, key=lambda line: (-line.images.n_examples, *map(str, line.images)))
        ),
        not_ranked=tuple(line for line in all_lines if line.certified_rank is None),
    )


def _lines_of(entries: Sequence[Entry]) -> list[Line]:
    """Return the lines of one table, best first."""
    models = dict[ModelOfTable, list[Entry]]()
    for entry in entries:
        models.setdefault(model_of(entry.row), []).append(entry)
    weights = dict[str, set[str]]()
    for model in models:
        weights.setdefault(model.model, set()).add(model.weights_sha256)
    shared = {column: tied(entries, column) for column in ("certified_rank", "empirical_rank")}
    found = [
        _line(
            model,
            sorted(seeds, key=lambda entry: entry.row["seed"] or 0),
            shared,
            of_several_weights=len(weights[model.model]) > 1,
        )
        for model, seeds in models.items()
    ]
    return sorted(found, key=_place)


def _line(
    model: ModelOfTable,
    seeds: Sequence[Entry],
    shared: Mapping[str, set[tuple[Images, int]]],
    *,
    of_several_weights: bool,
) -> Line:
    rows = [entry.row for entry in seeds]
    certified, clean, empirical, gap = (
        Spread.of(row[column] for row in rows)
        for column in ("certified_accuracy", "clean_accuracy", "empirical_accuracy", "gap")
    )
    assert certified is not None and clean is not None, "every row has both"
    ranks = {column: rows[0].get(column) for column in shared}
    ties = {column: (model.images, rank) in shared[column] for column, rank in ranks.items()}
    examples = sum(row["n_examples"] for row in rows)
    costs = {
        column: sum(row[column] for row in rows) / examples
        for column in ("seconds", "forward_passes", "backward_passes")
    }
    return Line(
        entries=tuple(seeds),
        label=f"{model.model}@{model.weights_sha256[:_DIGITS]}"
        if of_several_weights
        else model.model,
        images=model.images,
        certified=certified,
        clean=clean,
        empirical=empirical,
        gap=gap,
        interval=(min(row["ci_low"] for row in rows), max(row["ci_high"] for row in rows)),
        certified_rank=ranks["certified_rank"],
        empirical_rank=ranks["empirical_rank"],
        certified_tied=ties["certified_rank"],
        empirical_tied=ties["empirical_rank"],
        open_flags=_distinct(
            [*(entry.row.get("open_flags") or "").split(), *_without_evidence(entry)]
            for entry in seeds
        ),
        corrections=_distinct(filter(None, [row.get("corrections")]) for row in rows),
        **costs,
    )


def _place(line: Line) -> tuple[Any, ...]:
    """Return what sorts the lines of a table."""
    return (
        line.certified_rank is None,
        line.certified_rank or 0,
        -line.certified.mean,
        -(line.empirical or line.clean).mean,
        line.label,
        *map(str, model_of(line.row)),
    )


def _without_evidence(entry: Entry) -> list[str]:
    """Return the flag that tables of earlier versions do not have yet."""
    return [] if entry.row["evidence_sha256"] else [NO_EVIDENCE]


def _distinct(parts: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for part in parts for text in part))


def _asked(flag: str) -> str:
    """Return what a flag asks for; a flag of a later version asks for that version."""
    name = name_of(flag)
    return FLAGS[name].asks_for if name else "a version of robustbench-dyn that knows this flag"
