"""Ranks in a table: models that the same images cannot tell apart share one.

What a tied group means. Within a table, exact McNemar tests compare each two models on the same
examples, and Holm's correction makes the probability at most 5 % that any two models of the table
that are equally robust come out as separated. Then:

- No two models of one group are separated from each other. This does not say that they are equally
  robust: more images may separate them.
- The first models of a group have fewer examples than all models of the group above, and are
  separated from one of these at least. This does not say that each model of a group is separated
  from each model above: being inseparable is not transitive. With 800, 790 and 780 certified
  examples, the third may be separated from the second, whose examples include its own, and not from
  the first, which certifies others. So compare two models by their own test (comparison.py), not
  by their ranks.
- Models with equally many examples share a group, since nothing separates them.

Certified and empirical ranks have tests and corrections of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_dyn.reporting.published import Entry
from robustbench_dyn.reporting.rows import Images, images
from robustbench_dyn.reporting.statistics import holm, mcnemar_of
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.verdicts import Status

Booleans = NDArray[np.bool_]

# Of one wrong separation or more among all pairs of a table.
LEVEL = 0.05


class ModelOfTable(NamedTuple):
    """The model of a row, as a table counts it: the identity of the row without its seed.

    One model attacked by two suites counts as two.
    """

    images: Images
    model: str
    weights_sha256: str
    suite: str


def model_of(row: Mapping[str, Any]) -> ModelOfTable:
    """Return the model of a row; rows of one model differ in their seed alone."""
    return ModelOfTable(
        images=images(row),
        model=row["model"],
        weights_sha256=row.get("weights_sha256") or "",
        suite=row.get("suite") or "",
    )


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries, of any number of tables, with certified_rank and empirical_rank set.

    Models on equal images make a list, ranked by the number of examples that are certified (that
    no attack broke) in the rows of all seeds. Models on more images, which include those of the
    list, count in it by these images alone: so the ranks of 1,000 images go on where those of
    10,000 end, instead of beginning at 1 again. A model is ranked only if each of its rows has
    evidence, of the same examples, and no open flag; all others get None, as do the empirical ranks
    of models that no attack was run on. Equal ranks are tied groups, see above; the rank is 1 + the
    number of models in the groups above, so that four models may have 1, 1, 1, 4. The ranks depend
    neither on the order of the entries nor on the names of the models.
    """
    of_models = dict[ModelOfTable, list[int]]()
    for place, entry in enumerate(entries):
        of_models.setdefault(model_of(entry.row), []).append(place)
    counted = {
        model: count
        for model in sorted(of_models, key=_most_images_first)
        if (count := _Count.of([entries[place] for place in of_models[model]])) is not None
    }
    lists = dict[tuple[Images, bytes], list[ModelOfTable]]()
    for model, count in counted.items():
        lists.setdefault((model.images, count.ids.tobytes()), []).append(model)
    found: list[dict[str, int | None]] = [
        {"certified_rank": None, "empirical_rank": None} for _ in entries
    ]
    for models in lists.values():
        counts = [*(counted[model] for model in models), *_on_more_images(models, counted)]
        certified_ranks = ranks([count.certified for count in counts])
        attacked_ranks = iter(ranks([c.standing for c in counts if c.standing is not None]))
        # Those of the list come first, and the others get no rank here.
        for model, rank in zip(models, certified_ranks, strict=False):
            empirical = None if counted[model].standing is None else next(attacked_ranks)
            for place in of_models[model]:
                found[place] = {"certified_rank": rank, "empirical_rank": empirical}
    return [
        entry._replace(row=entry.row | of_entry)
        for entry, of_entry in zip(entries, found, strict=True)
    ]


class _Count(NamedTuple):
    """The examples of a model, by id, that count in all its seeds.

    standing: None where a seed was not attacked.
    """

    ids: NDArray[np.int64]
    certified: Booleans
    standing: Booleans | None

    @staticmethod
    def of(entries: Sequence[Entry]) -> _Count | None:
        """Count the seeds of a model; None where it cannot be ranked."""
        evidence = [e for entry in entries if (e := entry.evidence) is not None]
        if len(evidence) < len(entries) or any(entry.row.get("open_flags") for entry in entries):
            return None
        seeds = [Held.of(one) for one in evidence]
        ids = seeds[0].example_ids
        if any(not np.array_equal(seed.example_ids, ids) for seed in seeds):
            return None
        attacked = all(entry.row["empirical_accuracy"] is not None for entry in entries)
        return _Count(
            ids,
            np.logical_and.reduce([seed.certified for seed in seeds]),
            np.logical_and.reduce([seed.standing for seed in seeds]) if attacked else None,
        )

    def on(self, ids: NDArray[np.int64]) -> _Count | None:
        """Count these examples alone; None where the model lacks one of them."""
        places = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        if not np.array_equal(self.ids[places], ids):
            return None
        standing = self.standing
        return _Count(ids, self.certified[places], None if standing is None else standing[places])


def _most_images_first(model: ModelOfTable) -> tuple[int, int]:
    return -model.images.n_examples, model.images.first_example


def _on_more_images(
    models: Sequence[ModelOfTable], counted: Mapping[ModelOfTable, _Count]
) -> list[_Count]:
    """Count models on more images than a list has by the images of the list, each model once.

    models: of the list. counted: those on the most images first; these count.
    """
    listed, ids = models[0].images, counted[models[0]].ids
    there = set(models)
    found = dict[ModelOfTable, _Count]()
    for model, count in counted.items():
        here = model._replace(images=listed)
        same_data = listed == model.images._replace(
            first_example=listed.first_example, n_examples=listed.n_examples
        )
        if same_data and here not in there and (part := count.on(ids)) is not None:
            found.setdefault(here, part)
    return list(found.values())


class Held(NamedTuple):
    """What the verdicts of a row come to, an element an example, by example id.

    certified: a certificate counts. standing: no attack broke it. clean: the prediction is right.
    """

    example_ids: NDArray[np.int64]
    certified: Booleans
    standing: Booleans
    clean: Booleans

    @staticmethod
    def of(evidence: Evidence) -> Held:
        """Count the verdicts of a row as results.summary.summary_row does."""
        verdicts = evidence.verdicts
        ids = np.array([v.example_id for v in verdicts], dtype=np.int64)
        codes = np.array([_CODES[v.status] for v in verdicts], dtype=np.int8)
        clean = np.array([v.prediction == v.label for v in verdicts], dtype=np.bool_)
        certified = codes == _CODES[Status.CERTIFIED]
        standing = certified | (codes == _CODES[Status.UNDECIDED])
        if evidence.record.spec.voids_certificates(evidence.flags):
            certified = np.zeros_like(certified)
        order = np.argsort(ids, kind="stable")
        return Held(ids[order], certified[order], standing[order], clean[order])


_CODES = {status: code for code, status in enumerate(Status)}


def separated(held: Sequence[Booleans]) -> Booleans:
    """Say of each two models whether they are separated at LEVEL, as a symmetric matrix.

    held: of each model, which examples it has; all of one length.
    """
    n = len(held)
    if n == 0:
        return np.zeros((0, 0), dtype=np.bool_)
    # Products of float64 count up to 2^53 without rounding, and much faster than whole numbers.
    has = np.array(held, dtype=np.float64).reshape(n, -1)
    only_first = has @ (1 - has).T
    first, second = np.triu_indices(n, k=1)
    p_values = mcnemar_of(only_first[first, second], only_first[second, first])
    apart = np.zeros((n, n), dtype=np.bool_)
    apart[first, second] = np.asarray(holm(p_values.tolist())) <= LEVEL
    return apart | apart.T


def ranks(held: Sequence[Booleans]) -> list[int]:
    """Return the rank of each model, equal within a tied group.

    held: of each model, which examples it has; all of one length. Models are taken from the largest
    count down, those of equal counts together. They join the group of the models above unless one
    of them is separated from one of the group; then they begin the next.
    """
    apart = separated(held)
    counts = [int(of_one.sum()) for of_one in held]
    order = sorted(range(len(held)), key=lambda place: -counts[place])
    found = [0] * len(held)
    group, above = list[int](), 0
    for _, block in groupby(order, key=counts.__getitem__):
        models = list(block)
        if apart[np.ix_(models, group)].any():
            above += len(group)
            group = []
        group += models
        for place in models:
            found[place] = above + 1
    return found


def tied(entries: Iterable[Entry], column: str) -> set[tuple[Images, int]]:
    """Return the images and ranks that several models share; column: of the ranks."""
    models = dict[tuple[Images, int], set[ModelOfTable]]()
    for entry in entries:
        if (rank := entry.row.get(column)) is not None:
            models.setdefault((images(entry.row), rank), set()).add(model_of(entry.row))
    return {place for place, sharing in models.items() if len(sharing) > 1}
