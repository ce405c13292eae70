"""The columns of a store's tables, and the checksum that each row carries.

A checksum is against damage: bits that flip, pages that are lost, values edited by hand. It has no
secret, so that it does not hold against edits that renew it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any, Final, Literal

Kind = Literal["text", "whole", "real", "blob"]
_FORMATS: Final[Mapping[Kind, str]] = {"whole": "q", "real": "d"}


class Layout:
    """A table's columns and their kinds; checksum, the last column, is not among them.

    n_keys: how many columns, the first ones, name a row. expendable: whether a run goes
    on without a row that is gone, or makes it anew.
    """

    def __init__(
        self, table: str, kinds: Mapping[str, Kind], *, n_keys: int, expendable: bool
    ) -> None:
        self.table, self.columns, self.expendable = table, tuple(kinds), expendable
        self.keys = self.columns[:n_keys]
        names = f"{', '.join(self.columns)}, checksum"
        marks = ", ".join("?" * (len(self.columns) + 1))
        self.insert = f"INTO {table} ({names}) VALUES ({marks})"
        self.select = f"SELECT {names} FROM {table}"
        places = list(enumerate(kinds.values()))
        numbers = [place for place, kind in places if kind in _FORMATS]
        self._numbers = _getter(numbers)
        self._texts = _getter([place for place, kind in places if kind == "text"])
        self._blobs = _getter([place for place, kind in places if kind == "blob"])
        formats = (_FORMATS[kind] for kind in kinds.values() if kind in _FORMATS)
        self._pack = struct.Struct("<" + "".join(formats)).pack
        self._person = table.encode()

    def signed(self, row: Sequence[Any]) -> tuple[Any, ...]:
        """Return a row of this table's columns, as SQLite takes it, with its checksum behind it."""
        try:
            return (*row, self.checksum(row))
        except UnicodeEncodeError:
            # The message of a foreign error may hold half characters, which are no text.
            row = [_as_text(value) if isinstance(value, str) else value for value in row]
            return (*row, self.checksum(row))

    def checksum(self, row: Sequence[Any]) -> int:
        """Return 64 bits of BLAKE2b over a row; NULL, as which SQLite keeps NaN, equals NaN.

        Raises TypeError or ValueError where a value is not of its column's kind.
        """
        numbers = [math.nan if value is None else value for value in self._numbers(row)]
        try:
            content = self._pack(*numbers)
        except (struct.error, OverflowError) as error:
            raise TypeError(f"{error}: {numbers}") from error
        content += "\0".join(self._texts(row)).encode()
        for value in self._blobs(row):
            content += b"\0" if value is None else b"\1" + value
        digest = blake2b(content, digest_size=8, person=self._person).digest()
        return int.from_bytes(digest, "little", signed=True)

    def is_same(self, row: Sequence[Any], other: Sequence[Any]) -> bool:
        """Return whether two rows of this table have the same content."""
        return self.checksum(row) == self.checksum(other)

    def is_intact(self, row: Sequence[Any], checksum: object) -> bool:
        """Return whether a row that was read has the kinds of its columns and this checksum."""
        try:
            return self.checksum(row) == checksum
        except (TypeError, ValueError):
            return False

    def name_of(self, row: Sequence[Any]) -> str:
        """Say which row it is, as in "key 0123456789ab, eps 0.5, example_id 3"."""
        named = zip(self.keys, row, strict=False)
        return ", ".join(f"{column} {str(value)[:12]}" for column, value in named)


def _as_text(value: str) -> str:
    return value.encode(errors="backslashreplace").decode()


def _getter(places: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """Return a function from a row to its values at some places."""
    if len(places) > 1:
        return itemgetter(*places)  # the fastest; of one place it returns no tuple
    return lambda row: tuple(row[place] for place in places)


LAYOUTS: Final[Mapping[str, Layout]] = {
    layout.table: layout
    for layout in (
        Layout("evaluations", {"key": "text", "record": "text"}, n_keys=1, expendable=True),
        Layout(
            "verdicts",
            {
                "key": "text",
                "eps": "real",
                "example_id": "whole",
                "label": "whole",
                "prediction": "whole",
                "status": "text",
                "certified_radius": "real",
                "certifier": "text",
                "adversarial_distance": "real",
                "attack": "text",
                "forward_passes": "whole",
                "backward_passes": "whole",
                "seconds": "real",
                "reason": "text",
                "x_adv": "blob",
                "next_stage": "text",
                "trail": "text",
            },
            n_keys=3,
            expendable=True,
        ),
        Layout(
            "runs",
            {
                "key": "text",
                "eps": "real",
                "first_example": "whole",
                "n_examples": "whole",
                "summary": "text",
            },
            n_keys=4,
            expendable=True,
        ),
        Layout(
            "violations",
            {
                "key": "text",
                "eps": "real",
                "example_id": "whole",
                "certified_radius": "real",
                "adversarial_distance": "real",
                "attack": "text",
                "path": "text",
                "x_adv": "blob",
            },
            n_keys=3,
            expendable=False,
        ),
        Layout(
            "costs",
            {
                "key": "text",
                "eps": "real",
                "stage": "text",
                "examples": "whole",
                "decided": "whole",
                "forward_passes": "whole",
                "backward_passes": "whole",
                "seconds": "real",
            },
            n_keys=3,
            expendable=True,
        ),
        Layout(
            "votes",
            {
                "key": "text",
                "example_id": "whole",
                "stage": "text",
                "draws": "whole",
                "counts": "text",
                "seconds": "real",
            },
            n_keys=3,
            expendable=True,
        ),
        Layout("flags", {"key": "text", "flag": "text"}, n_keys=2, expendable=False),
        Layout(
            "signs",
            {"key": "text", "eps": "real", "name": "text", "value": "real"},
            n_keys=3,
            expendable=False,
        ),
    )
}
