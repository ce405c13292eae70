"""Accuracies that papers report, which were not run here: reported.csv, beside the tables.

More files may be called reported-NAME.csv, such as reported-cifar10.csv. The figures are shown
apart from the rows of the tables, and never ranked with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from robustbench_dyn.errors import InputError
from robustbench_dyn.reporting.csv_lines import read_lines
from robustbench_dyn.reporting.folder import settled
from robustbench_dyn.results.cells import from_csv_text
from robustbench_dyn.threat_models import NORMS

REPORTED: Final = "reported.csv"
_NAME = re.compile(r"reported(-.+)?\.csv")
_LINK = re.compile(r"https://[^\s<>\"]+")
_OPTIONAL: Final = ("clean", "certified", "empirical")


class Reported(NamedTuple):
    """What a paper reports of one model at one eps.

    clean, certified, empirical: shares of the first n_examples test images, None where the paper
    has no such figure. source: the paper, and the place in it; link: where to find it.
    """

    dataset: str
    norm: str
    eps: float
    model: str
    clean: float | None
    certified: float | None
    empirical: float | None
    n_examples: int
    source: str
    link: str

    @property
    def table(self) -> tuple[str, str, float]:
        """The data set and threat model, as rows.table_of returns them."""
        return self.dataset, self.norm, self.eps


def is_reported(name: str) -> bool:
    """Say whether a file of this name holds reported figures."""
    return bool(_NAME.fullmatch(name))


def read_reported(folder: Path) -> list[Reported]:
    """Return what the files of reported figures in a folder hold, the best certified first.

    The list may be empty. Raises InputError, with the line, for a file or a figure that breaks a
    rule.
    """
    found = list[Reported]()
    for path in sorted(settled(folder).glob("reported*.csv")):
        if is_reported(path.name):
            lines = read_lines(path, Reported._fields, what="reported figures")
            found += [_read(cells, place) for cells, place in lines]
    return sorted(found, key=lambda one: (one.table, -(one.certified or 0), one.model))


def reported_for(reported: Iterable[Reported], table: tuple[str, str, float]) -> Sequence[Reported]:
    """Return what is reported for a data set and threat model."""
    return [one for one in reported if one.table == table]


def _read(cells: Sequence[str], place: str) -> Reported:
    if len(cells) != len(Reported._fields):
        raise InputError(f"{place} has {len(cells)} cells; it must have {len(Reported._fields)}")
    line = {name: from_csv_text(cell) for name, cell in zip(Reported._fields, cells, strict=True)}
    for name in ("dataset", "model", "source"):
        if not line[name].strip():
            raise InputError(f"{place}: {name} is empty; a reported figure needs it")
    if line["norm"] not in NORMS:
        raise InputError(f"{place}: norm is {line['norm']!r}; it must be one of {', '.join(NORMS)}")
    if not _LINK.fullmatch(line["link"]):
        raise InputError(f"{place}: link is {line['link']!r}; it must be an https address")
    try:
        one = Reported(
            dataset=line["dataset"],
            norm=line["norm"],
            eps=float(line["eps"]),
            model=line["model"],
            **{name: float(line[name]) if line[name] else None for name in _OPTIONAL},
            n_examples=int(line["n_examples"]),
            source=line["source"],
            link=line["link"],
        )
    except ValueError as error:
        raise InputError(f"{place}: {error}; eps, shares and n_examples are numbers") from error
    if not 0 < one.eps < float("inf") or one.n_examples < 1:
        raise InputError(f"{place}: eps and n_examples must be greater than 0")
    _check_shares(one, place)
    return one


def _check_shares(one: Reported, place: str) -> None:
    shares = [share for share in (one.certified, one.empirical, one.clean) if share is not None]
    if one.certified is None and one.empirical is None:
        raise InputError(f"{place} has neither a certified nor an empirical accuracy")
    # Written so that NaN fails.
    if not all(0 <= share <= 1 for share in shares) or shares != sorted(shares):
        raise InputError(
            f"{place}: the shares must lie in [0, 1], with certified <= empirical <= clean"
        )
