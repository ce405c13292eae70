"""The checklist of the command check: each rule with what was found, and how to mend what broke."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from robustbench_dyn.cli.consoles import Column, note, stderr, table, text

if TYPE_CHECKING:
    from robustbench_dyn.evaluation.contract import ModelFinding
    from robustbench_dyn.plugins.contract import Finding

_VERDICTS = {True: "holds", False: "BROKEN", None: "not tested"}
_COLUMNS = (
    Column("rule", wraps=True),
    Column("for", importance=2),
    "verdict",
    Column("found", wraps=True),
    Column("caught in a control that", importance=1, wraps=True),
)


@dataclass
class Checklist:
    """The findings on one subject; tested: with which weights and examples, where it says so."""

    kind: str
    name: str
    tested: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add_rule(self, part: str, finding: Finding) -> None:
        """Take in a finding on a rule of a contract; part: the norm or the like that it is of."""
        self.rows.append(
            {
                "rule": finding.rule,
                "for": part,
                "holds": finding.holds,
                "found": finding.detail,
                "expected": finding.rule,
                "remedy": "",
                "caught": list(finding.caught),
            }
        )

    def add(self, finding: ModelFinding) -> None:
        """Take in a finding on a rule for networks."""
        self.rows.append(
            {
                "rule": finding.rule,
                "for": "",
                "holds": finding.holds,
                "found": finding.found,
                "expected": finding.expected,
                "remedy": finding.remedy,
                "caught": [],
            }
        )

    @property
    def broken(self) -> list[str]:
        """The rules that are broken, each once."""
        return list(dict.fromkeys(row["rule"] for row in self.rows if row["holds"] is False))

    def document(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return {
            "kind": self.kind,
            "name": self.name,
            "tested": self.tested,
            "holds": not self.broken,
            "findings": self.rows,
        }

    def print(self) -> None:
        """Print a table, and below it what to do about each broken rule."""
        shown = [
            (
                row["rule"],
                row["for"],
                _VERDICTS[row["holds"]],
                row["found"],
                ", ".join(row["caught"]),
            )
            for row in self.rows
        ]
        # A column without any text is none.
        used = [k for k in range(len(_COLUMNS)) if any(row[k] for row in shown)]
        table(
            [_COLUMNS[k] for k in used],
            [[row[k] for k in used] for row in shown],
            title=self.tested or f"{self.kind} {self.name}",
            instead="--json",
        )
        for row in self.rows:
            if row["holds"] is False and row["remedy"]:
                note(
                    f"{row['rule']}: expected {row['expected']}; found {row['found']}. To mend it: "
                    f"{row['remedy']}."
                )


@contextmanager
def testing(checklist: Checklist) -> Iterator[Callable[[str], None]]:
    """Show in a terminal what is being tested; what is yielded tells the rule that was last."""
    what = f"testing {checklist.kind} {checklist.name}"
    with stderr().status(text(what)) as status:
        yield lambda rule: status.update(text(f"{what}, after: {rule}"))
