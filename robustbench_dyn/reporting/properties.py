"""Measured properties of the models in a folder of tables: properties.csv."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from robustbench_dyn.errors import InputError
from robustbench_dyn.reporting.csv_lines import read_lines
from robustbench_dyn.reporting.folder import settled
from robustbench_dyn.results.cells import from_csv_text, to_csv_cell


class Measured(NamedTuple):
    """The largest defect of one claim at one kind of points, over the parts with this claim.

    defect and tolerance: as in properties.base.Finding; holds: whether the defect is within it.
    """

    model: str
    dataset: str
    claim: str
    part: str
    points: str
    defect: float
    tolerance: float
    holds: bool
    note: str
    weights_sha256: str
    parts: int


_TEXTS: Final = ("model", "dataset", "claim", "part", "points", "note", "weights_sha256")


class Findings:
    """What was measured of models, by the hash of their weights."""

    def __init__(self, measured: Iterable[Measured] = ()) -> None:
        self.measured = list(measured)
        self._of: dict[str, list[Measured]] = {}
        for one in self.measured:
            self._of.setdefault(one.weights_sha256, []).append(one)

    def of(self, row: Mapping[str, Any]) -> Sequence[Measured]:
        """Return what was measured of a row's model; nothing where it was not."""
        return self._of.get(_weights(row), [])

    def only_of(self, rows: Iterable[Mapping[str, Any]]) -> Findings:
        """Return what was measured of the models of these rows."""
        weights = {_weights(row) for row in rows}
        return Findings(one for one in self.measured if one.weights_sha256 in weights)

    def failed(self, row: Mapping[str, Any]) -> list[str]:
        """Return the claims of a row's model that do not hold, each once."""
        return list(dict.fromkeys(one.claim for one in self.of(row) if not one.holds))


def _weights(row: Mapping[str, Any]) -> str:
    return str(row["weights_sha256"] or "")


def measure(weights_of: Iterable[tuple[Any, Any]]) -> list[Measured]:
    """Test what architectures claim at their trained weights; takes seconds a model.

    weights_of: (Architecture, Weights) pairs, whose code is run.
    """
    from robustbench_dyn.models.architectures import full_name  # noqa: PLC0415  (imports torch)
    from robustbench_dyn.properties.architectures import check_architecture  # noqa: PLC0415

    measured = []
    for architecture, weights in weights_of:
        findings = list(
            check_architecture(architecture, dataset=weights.dataset, variant=weights.variant)
        )
        parts: dict[tuple[str, str], set[str]] = {}
        for finding in findings:
            parts.setdefault((finding.claim, finding.points), set()).add(finding.part)
        for (claim, points), of_claim in parts.items():
            here = [f for f in findings if (f.claim, f.points) == (claim, points)]
            worst = max(here, key=_excess)
            measured.append(
                Measured(
                    model=full_name(architecture.name, weights.variant),
                    dataset=weights.dataset,
                    claim=claim,
                    part=worst.part,
                    points=points,
                    defect=worst.defect,
                    tolerance=worst.tolerance,
                    holds=worst.holds,
                    note=worst.note,
                    weights_sha256=weights.sha256,
                    parts=len(of_claim),
                )
            )
    return measured


def _excess(finding: Any) -> float:
    """Return by how much a defect exceeds its tolerance; NaN is the worst."""
    excess = finding.defect - finding.tolerance
    return float("inf") if excess != excess else float(excess)  # noqa: PLR0124  (NaN)


def read_findings(path: Path) -> Findings:
    """Return what a properties.csv holds; nothing where there is none.

    Raises InputError, with the line, for what no version has written.
    """
    path = settled(path.parent) / path.name
    if not path.is_file():
        return Findings()
    lines = read_lines(path, Measured._fields, what="findings")
    return Findings(_read(cells, place) for cells, place in lines)


def to_csv(findings: Findings) -> str:
    """Return findings as CSV, by data set, model and weights."""
    lines = [",".join(Measured._fields)]
    rows = sorted(findings.measured, key=lambda one: (one.dataset, one.model, one.weights_sha256))
    for one in rows:
        values = one._asdict() | {name: to_csv_cell(getattr(one, name)) for name in _TEXTS}
        lines.append(",".join(map(str, values.values())))
    return "\n".join(lines) + "\n"


def _read(cells: Sequence[str], place: str) -> Measured:
    try:
        line = dict(zip(Measured._fields, cells, strict=True))
        holds = {"True": True, "False": False}[line["holds"]]
        defect, tolerance = float(line["defect"]), float(line["tolerance"])
        texts = {name: from_csv_text(line[name]) for name in _TEXTS}
        one = Measured(
            **texts, defect=defect, tolerance=tolerance, holds=holds, parts=int(line["parts"])
        )
    except (ValueError, KeyError) as error:
        raise InputError(f"{place} is no finding that dynbench leaderboard wrote") from error
    # NaN is within no tolerance.
    if holds != (defect <= tolerance):
        raise InputError(f"{place}: holds={holds}, but the defect is {defect} of {tolerance}")
    return one
