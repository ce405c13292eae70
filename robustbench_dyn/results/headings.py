"""Headings and formats of every table for people: "certified %", 8/255, "83.5"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from robustbench_dyn.threat_models import format_eps

__all__ = [
    "HEADINGS",
    "INTERVAL",
    "NOTHING",
    "counted",
    "format_attacks",
    "format_eps",
    "format_interval",
    "format_joined",
    "format_number",
    "format_percent",
    "format_rank",
    "format_suite",
    "format_threat_model",
    "heading",
    "members_of_suites",
]

# Of the 95 % intervals in all tables.
INTERVAL = "Clopper-Pearson"
# Stands where there is no value.
NOTHING = "–"
# A column of ci_low and ci_high together has the heading of `interval`.
HEADINGS: dict[str, str] = {
    "certified_rank": "rank",
    "empirical_rank": "empirical rank",
    "model": "model",
    "family": "family",
    "dataset": "data set",
    "norm": "norm",
    "eps": "eps",
    "n_examples": "examples",
    "first_example": "first example",
    "clean_accuracy": "clean %",
    "certified_accuracy": "certified %",
    "empirical_accuracy": "empirical %",
    "gap": "gap",
    "interval": "95 % interval",
    "ci_low": "95 % interval from",
    "ci_high": "95 % interval to",
    "certifiers": "certifiers",
    "attacks": "attacks",
    "suite": "suite",
    "added_attacks": "added attacks",
    "forward_passes": "forward passes",
    "backward_passes": "backward passes",
    "seconds": "seconds",
    "parameters": "parameters",
    "lipschitz_bound": "Lipschitz bound",
    "flags": "flags",
    "open_flags": "open flags",
    "audit_share": "audited share",
    "declared_bounds": "declared bounds",
    "weights_sha256": "SHA-256 of the weights",
    "data_sha256": "SHA-256 of the data",
    "evidence_sha256": "SHA-256 of the evidence",
    "training_record": "training record",
    "plugin_version": "version of the plugin",
    "seed": "seed",
    "device": "device",
    "torch_version": "torch",
    "evaluated_at": "evaluated at",
    "corrections": "corrections",
}
_SUITE_OF_ONE_LIST = ("", "custom")


def heading(column: str) -> str:
    """Return the heading of a column; one without an entry has its name in words."""
    return HEADINGS.get(column, column.replace("_", " "))


def counted(n: int, noun: str) -> str:
    """Write a number of things: "1 row", "1,000 rows"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def format_percent(fraction: float | None) -> str:
    """Write a fraction in percent with one decimal, without the sign; a dash for None and NaN."""
    if fraction is None or fraction != fraction:  # noqa: PLR0124  (NaN)
        return NOTHING
    return f"{100 * fraction:.1f}"


def format_interval(low: float | None, high: float | None) -> str:
    """Write an interval of fractions in percent, as in [80.1, 86.6]."""
    return f"[{format_percent(low)}, {format_percent(high)}]"


def format_number(value: float | None) -> str:
    """Write a cost with three significant digits, or whole with commas from 100 on."""
    if value is None or value != value:  # noqa: PLR0124  (NaN)
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_rank(rank: int | None, *, tied: bool) -> str:
    """Write a rank; "2=" where a tied group of several models has it."""
    if rank is None:
        return NOTHING
    return f"{rank}=" if tied else str(rank)


def format_threat_model(row: Mapping[str, Any]) -> str:
    """Write the data set and the threat model of a row, as in "cifar10, Linf, eps 8/255"."""
    return f"{row['dataset']}, {row['norm']}, eps {format_eps(row['eps'])}"


def format_joined(names: str) -> str:
    """Write names that a column joins by +, with commas; "none" where there are none."""
    return ", ".join(filter(None, names.split("+"))) or "none"


def format_suite(row: Mapping[str, Any]) -> str:
    """Write the suite of a row by its name, with the attacks that flags added.

    As in "standard + rays, square-long". A list of attacks that is no suite, and a row of an
    earlier version, which does not name its suite, are written with the names of the attacks.
    """
    suite, added = row.get("suite") or "", row.get("added_attacks") or ""
    if suite in _SUITE_OF_ONE_LIST:
        return format_attacks(row)
    return f"{suite} + {format_joined(added)}" if added else suite


def format_attacks(row: Mapping[str, Any]) -> str:
    """Write the attacks of a row one by one."""
    return format_joined(row["attacks"])


def members_of_suites(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return each suite that the rows name, with its attacks, once for each list of attacks.

    A suite has other attacks for another norm or number of classes. Attacks that flags added, and
    those that replaced a suite, are left out.
    """
    members = set[tuple[str, str]]()
    for row in rows:
        suite = row.get("suite") or ""
        if suite not in _SUITE_OF_ONE_LIST:
            added = (row.get("added_attacks") or "").split("+")
            # One that failed is the same member.
            attacks = [name.removesuffix("(failed)") for name in row["attacks"].split("+")]
            if own := [name for name in attacks if name not in added]:
                members.add((suite, ", ".join(own)))
    return sorted(members)
