"""The lines of a CSV with fixed columns, each with its place for messages."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from robustbench_dyn.errors import InputError


def read_lines(path: Path, columns: Sequence[str], *, what: str) -> Iterator[tuple[list[str], str]]:
    """Yield the cells of each line behind the heading, as many as there are, and its place.

    what: what the file holds. Raises InputError where it cannot be read, or has other columns.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            if tuple(next(reader, ())) != tuple(columns):
                raise InputError(f"{path} must have the columns {', '.join(columns)}")
            for cells in reader:
                yield cells, f"{path}, line {reader.line_num}"
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no table of {what}: {error}") from error
