"""The result of a verification: what holds of each row, what does not, and how sure that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple


class Depth(StrEnum):
    """How deep a verification goes; each depth does what the ones before it do.

    RECOUNT reads files alone. REPLAY runs the model on a random sample of the examples, FULL on
    all of them.
    """

    RECOUNT = "recount"
    REPLAY = "replay"
    FULL = "full"


class Finding(NamedTuple):
    """One thing that is wrong with a row.

    check: the name of the check that failed, as in docs/verification.md. message: a sentence.
    examples: the example_ids that it is about; empty where it is about the row.
    """

    check: str
    message: str
    examples: tuple[int, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a verification says of one row.

    place: the file and the line. row: its model and threat model, in words; empty where the row
    cannot be read. findings: what is wrong. statements: what holds, with the confidence. notes:
    what could not be checked, and why.
    """

    place: str
    row: str
    depth: Depth
    findings: tuple[Finding, ...] = ()
    statements: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong with the row."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Return the report as a document of JSON."""
        findings = [finding._asdict() for finding in self.findings]
        return asdict(self) | {"findings": findings, "holds": self.holds}


def shown_ids(examples: tuple[int, ...] | list[int], *, most: int = 5) -> str:
    """Name examples for a message: the first few, and how many more there are."""
    noun = "example" if len(examples) == 1 else "examples"
    more = f" and {len(examples) - most} more" if len(examples) > most else ""
    return f"{noun} {', '.join(map(str, examples[:most]))}{more}"
