"""Rows of leaderboards, checked as they come from a store or a CSV."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from robustbench_dyn.errors import InputError
from robustbench_dyn.names import RULE, is_name
from robustbench_dyn.results.cells import from_csv_text, to_csv_cell
from robustbench_dyn.results.flags import unknown_flags
from robustbench_dyn.results.summary import SUMMARY_COLUMNS, binomial_limit
from robustbench_dyn.threat_models import NORMS

Row = dict[str, Any]
Kind = Literal["name", "norm", "text", "hash", "time", "flags", "count", "fraction", "number"]
# A cell may be this long, in characters; longer ones are no work of this package.
_LONGEST_CELL = 10_000
_LONGEST_SHOWN = 60
_NUMBER = re.compile(r"[-+.0-9A-Za-z]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Column(NamedTuple):
    """A column: the kind of its values, whether each row needs one, and the least value."""

    kind: Kind
    needed: bool = False
    least: float | None = None


# What tables add to the columns of a run: the place in the table, and the evidence.
OF_TABLES: Final = (
    "certified_rank",
    "empirical_rank",
    "open_flags",
    "corrections",
    "evidence_sha256",
)
PUBLISHED_COLUMNS: Final = (*SUMMARY_COLUMNS, *OF_TABLES)

_REQUIRED_FRACTION = Column("fraction", needed=True)
_COST = Column("number", needed=True, least=0)
_TEXT = Column("text")
_HASH, _RANK = Column("hash"), Column("count", least=1)
COLUMNS: dict[str, Column] = dict.fromkeys(PUBLISHED_COLUMNS, _TEXT) | {
    "model": Column("name", needed=True),
    "dataset": Column("name", needed=True),
    "norm": Column("norm", needed=True),
    "eps": Column("number", needed=True, least=0),
    "n_examples": Column("count", needed=True, least=1),
    "clean_accuracy": _REQUIRED_FRACTION,
    "certified_accuracy": _REQUIRED_FRACTION,
    "empirical_accuracy": Column("fraction"),
    "gap": Column("fraction"),
    "ci_low": _REQUIRED_FRACTION,
    "ci_high": _REQUIRED_FRACTION,
    "certifiers": Column("text", needed=True),
    "attacks": Column("text", needed=True),
    "forward_passes": Column("count", needed=True, least=0),
    "backward_passes": Column("count", needed=True, least=0),
    "seconds": _COST,
    "parameters": Column("count", least=0),
    "lipschitz_bound": Column("number", least=0),
    "seed": Column("count"),
    "audit_share": Column("fraction"),
    "flags": Column("flags"),
    "evaluated_at": Column("time"),
    "first_example": Column("count", least=0),
    "weights_sha256": _HASH,
    "data_sha256": _HASH,
    "training_record": _HASH,
    "evidence_sha256": _HASH,
    "certified_rank": _RANK,
    "empirical_rank": _RANK,
}
# Tables of earlier versions do not have them.
_LATER = (
    "audit_share",
    "declared_bounds",
    "first_example",
    "suite",
    "added_attacks",
    "data_sha256",
    "training_record",
    *OF_TABLES,
)
# A number is read as it was computed, or in some tables rounded in its last digits.
_SAME = 1e-9


class RowIdentity(NamedTuple):
    """What makes two rows the same claim, so that one replaces the other."""

    model: str
    weights_sha256: str
    data_sha256: str
    dataset: str
    norm: str
    eps: float
    suite: str
    seed: int | None


class Images(NamedTuple):
    """The images of a row and their threat model; rows of equal ones can be compared."""

    dataset: str
    data_sha256: str
    norm: str
    eps: float
    first_example: int
    n_examples: int


def identity(row: Mapping[str, Any]) -> RowIdentity:
    """Return what makes a row the same claim as another one."""
    values = {name: _plain(row[name]) for name in RowIdentity._fields}
    return RowIdentity(**values | {"seed": None if values["seed"] == "" else values["seed"]})


def images(row: Mapping[str, Any]) -> Images:
    """Return the images of a row; those of a table of an earlier version begin at 0."""
    first, n_examples = row["first_example"], row["n_examples"]
    return Images(
        dataset=str(row["dataset"]),
        data_sha256=str(_plain(row["data_sha256"])),
        norm=str(row["norm"]),
        eps=float(row["eps"]),
        first_example=int(_plain(first) or 0),
        n_examples=int(n_examples),
    )


def table_of(row: Mapping[str, Any]) -> tuple[str, str, float]:
    """Return the data set, norm and eps of a row: the table where it stands."""
    return str(row["dataset"]), str(row["norm"]), float(row["eps"])


def _plain(value: Any) -> Any:
    """Return a value with the empty text in place of none, as tables have it."""
    return "" if value is None or value != value else value  # noqa: PLR0124  (NaN)


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


_RULES_OF_TEXTS: dict[str, tuple[Callable[[object], bool], str]] = {
    "text": (lambda value: isinstance(value, str), "a text"),
    "name": (is_name, f"a name: {RULE}"),
    "norm": (lambda value: value in NORMS, f"one of {', '.join(NORMS)}"),
    "hash": (lambda value: _matches(_SHA256, value), "64 hexadecimal digits"),
    "time": (_is_time, "a time such as 2026-01-31T12:00:00+00:00"),
    "flags": (lambda value: isinstance(value, str) and not unknown_flags(value), "known flags"),
}


def checked_row(row: Mapping[str, object], place: str) -> Row:
    """Return the columns of a row, None where there is no value.

    place: where the row stands, for the message. Raises InputError for a value of the wrong type
    or out of its range, for a missing one, and for accuracies that contradict each other.
    """
    values = {name: _present(row.get(name)) for name in PUBLISHED_COLUMNS}
    for name, column in COLUMNS.items():
        value = values[name]
        if value is None or value == "":
            if column.needed:
                raise InputError(f"{place}: {name} is empty, and every row needs it")
        elif broken := _broken_rule(value, column):
            raise InputError(f"{place}: {name}={_shown(value)} must be {broken}")
    _check_order(values, place)
    _check_numbers(values, place)
    for rank in ("certified_rank", "empirical_rank"):
        if values["open_flags"] and values[rank] is not None:
            raise InputError(
                f"{place}: {rank}={values[rank]} must be empty, since the row has open flags"
            )
    return values


def read_rows(path: Path, *, more: Sequence[str] = ()) -> list[Row]:
    """Return the rows of a CSV as to_csv wrote it.

    more: columns of texts that the file has behind the others, which each row needs.
    Raises InputError, with the file, the line and the rule, where it cannot be read or breaks one.
    """
    rows = []
    for _, row in try_rows(path, more=more):
        if isinstance(row, InputError):
            raise row
        rows.append(row)
    return rows


def try_rows(path: Path, *, more: Sequence[str] = ()) -> Iterator[tuple[str, Row | InputError]]:
    """Yield where each row of a CSV stands, and the row, or the rule that it breaks.

    more: as of read_rows. Raises InputError where the file itself cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for place, cells in _parsed(file, path, more):
                yield place, _row_or_error(cells, place, more)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise InputError(f"{path} is no leaderboard: it is no text in UTF-8") from None


def _row_or_error(
    cells: dict[str, str] | InputError, place: str, more: Sequence[str]
) -> Row | InputError:
    if isinstance(cells, InputError):
        return cells
    try:
        row = {name: _value(name, cells.get(name, ""), place) for name in PUBLISHED_COLUMNS}
        told = {name: from_csv_text(cells[name]) for name in more}
        for name in (name for name in more if not told[name]):
            raise InputError(f"{place}: {name} is empty, and every row needs it")
        return checked_row(row, place) | told
    except InputError as error:
        return error


def to_csv(rows: Iterable[Mapping[str, object]], *, more: Sequence[str] = ()) -> str:
    """Return rows as CSV with a heading; no text is taken for a formula (cells.py).

    more: columns of texts behind the others.
    """
    columns = (*PUBLISHED_COLUMNS, *more)
    lines = [",".join(columns)]
    for row in rows:
        lines.append(",".join(_cell(name, _present(row[name])) for name in columns))
    return "\n".join(lines) + "\n"


def _cell(name: str, value: Any) -> str:
    if value is None or value == "":
        return ""
    kind = COLUMNS[name].kind if name in COLUMNS else "text"
    if kind in _RULES_OF_TEXTS:
        return to_csv_cell(value)
    # repr gives the digits that read back as the same float.
    return str(int(value)) if kind == "count" else repr(float(value))


def _parsed(
    file: Any, path: Path, more: Sequence[str]
) -> Iterator[tuple[str, dict[str, str] | InputError]]:
    """Yield where each line stands, and its cells by column, or that they are too many or few."""
    reader = csv.reader(file, strict=True)
    remedy = "give a folder of tables that dynbench leaderboard wrote"
    line = 1
    try:
        header = next(reader, [])
        if not header:
            raise InputError(f"{path} is empty; {remedy}")
        for column in (*PUBLISHED_COLUMNS, *more):
            if column not in header and column in _LATER:
                continue
            if header.count(column) != 1:
                wrong = "lacks" if column not in header else "has twice"
                raise InputError(
                    f"{path} is no leaderboard, it {wrong} the column {column}; {remedy}"
                )
        line = reader.line_num + 1
        for cells in reader:
            place = f"{path}, line {line}"
            if len(cells) == len(header):
                yield place, dict(zip(header, cells, strict=True))
            else:
                yield (
                    place,
                    InputError(
                        f"{place}: {len(cells)} fields, but the heading has {len(header)}; each "
                        "row needs one field a column"
                    ),
                )
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: no CSV ({error}); {remedy}") from error


def _value(name: str, cell: str, place: str) -> object:
    """Return the value of a cell: a number where the column has numbers."""
    kind = COLUMNS[name].kind
    if len(cell) > _LONGEST_CELL:
        raise InputError(f"{place}: {name} is longer than {_LONGEST_CELL} characters")
    if kind in _RULES_OF_TEXTS:
        return from_csv_text(cell)
    if not cell:
        return None
    # Python reads 1_0, other scripts' digits and spaces around as numbers, too.
    if not _NUMBER.fullmatch(cell):
        raise InputError(f"{place}: {name}={_shown(cell)} is no number")
    try:
        if kind == "count":
            # Earlier tables have whole numbers as 12.0 where another row has none.
            return int(cell.removesuffix(".0"))
        return float(cell)
    except ValueError:
        raise InputError(f"{place}: {name}={_shown(cell)} is no number") from None


def _present(value: object) -> object:
    """Return the value, and None for NaN, which stands for no value in tables."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _broken_rule(value: object, column: Column) -> str:
    """Return the rule that a value breaks; empty where it breaks none."""
    if column.kind in _RULES_OF_TEXTS:
        holds, rule = _RULES_OF_TEXTS[column.kind]
        return "" if holds(value) else rule
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if column.kind == "fraction":
        return "" if 0 <= number <= 1 else "a fraction between 0 and 1"
    whole = column.kind == "count"
    if not (abs(number) < math.inf and (not whole or number == int(number))):
        return "a whole number" if whole else "a finite number"
    too_small = column.least is not None and number < column.least
    return f"at least {column.least:g}" if too_small else ""


def _check_order(values: Row, place: str) -> None:
    """Raise InputError where eps is 0, or an accuracy exceeds one that bounds it."""
    if values["eps"] == 0:
        raise InputError(f"{place}: eps=0 must be positive")
    for low, high in (
        ("certified_accuracy", "empirical_accuracy"),
        ("certified_accuracy", "clean_accuracy"),
        ("empirical_accuracy", "clean_accuracy"),
        ("ci_low", "ci_high"),
    ):
        if values[low] is not None and values[high] is not None and values[low] > values[high]:
            raise InputError(
                f"{place}: {low}={values[low]} exceeds {high}={values[high]}; it must not"
            )


def _check_numbers(values: Row, place: str) -> None:
    """Raise InputError where a number is not the one that follows from the others."""
    n = int(values["n_examples"])
    counts = {}
    for name in ("clean_accuracy", "certified_accuracy", "empirical_accuracy"):
        if values[name] is not None:
            counts[name] = round(values[name] * n)
            if abs(values[name] - counts[name] / n) > _SAME:
                raise InputError(
                    f"{place}: {name}={values[name]} is no share of {n} examples; it must be a "
                    "whole number of them"
                )
    certified = counts["certified_accuracy"]
    standing = counts.get("empirical_accuracy", counts["clean_accuracy"])
    attacked = "empirical_accuracy" in counts
    gap = (standing - certified) / n if attacked else None
    _check_equal(values["gap"], gap, "gap", "empirical_accuracy - certified_accuracy", place)
    for name, limit in (
        ("ci_low", binomial_limit(certified, n, upper=False)),
        ("ci_high", binomial_limit(standing, n, upper=True)),
    ):
        _check_equal(values[name], limit, name, "the Clopper-Pearson limit of the row", place)


def _check_equal(
    value: float | None, expected: float | None, name: str, rule: str, place: str
) -> None:
    if value is None or expected is None:
        if value is not expected:
            raise InputError(f"{place}: {name}={value} must be {expected}, {rule}")
    elif abs(value - expected) > _SAME:
        raise InputError(f"{place}: {name}={value} must be {expected:.12g}, {rule}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
