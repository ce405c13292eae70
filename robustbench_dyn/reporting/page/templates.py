"""Templates of the pages; each text is escaped, since names and cards come from strangers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robustbench_dyn.results.flags import FLAGS, Meaning, name_of
from robustbench_dyn.results.headings import format_eps, format_number, format_percent, format_rank

# What the script needs of a row, in an attribute of the row.
_OF_SCRIPT = (
    "certified_rank",
    "empirical_rank",
    "model",
    "family",
    "certificate",
    "certifiers",
    "suite",
    "attacks",
    "certified",
    "empirical",
    "low",
    "clean",
)


def environment() -> Environment:
    """Return the environment of the templates, with the filters that write numbers."""
    made = Environment(
        loader=PackageLoader("robustbench_dyn.reporting.page", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "breakable": breakable,
        "percent": format_percent,
        "eps": format_eps,
        "number": format_number,
        "fixed": fixed,
        "thousands": thousands,
        "rank": format_rank,
        "flag_id": flag_id,
        "flag_words": flag_words,
        "meaning": meaning,
        "flags_of": flags_of,
        "suite_id": suite_id,
        "suites_of": suites_of,
        "row_data": row_data,
    }
    return made


def breakable(name: str) -> Markup:
    """Return a name as HTML that may break after a slash or an underscore, and nowhere else."""
    return Markup("<wbr>").join(re.split(r"(?<=[/_])", name))


def thousands(value: float | None) -> str:
    """Return a whole number with commas; a dash for none."""
    return "–" if value is None else f"{value:,.0f}"


def fixed(value: float | None, digits: int) -> str:
    """Return a number with so many digits after the point, which columns align; a dash for none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def meaning(flag: str) -> Meaning | None:
    """Return what a flag means and asks for; None for one of a later version."""
    return FLAGS.get(name_of(flag))


def flag_words(flag: str) -> str:
    """Return a flag in words, as in "zero gradients: 0.4"."""
    name, _, value = flag.partition(":")
    words = name.replace("_", " ")
    return f"{words}: {value.replace(':', ' ')}" if value else words


def flag_id(flag: str) -> str:
    """Return the name in the page of the note on a flag."""
    return f"flag-{name_of(flag).replace('*', 'any')}"


def flags_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Meaning]:
    """Return the open flags of rows with their meanings, by a flag of each name."""
    names = {name_of(flag): flag for row in rows for flag in row["open_flags"]}
    return {name: FLAGS[name] for name in sorted(names) if name}


def suite_id(row: Mapping[str, Any]) -> str:
    """Return the name in the page of the note on the attacks of a row."""
    text = "+".join((row["suite"], *row["attacks"], "because", *row["added"]))
    return f"suite-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def suites_of(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a row of each suite and list of attacks."""
    return list({suite_id(row): row for row in rows}.values())


def row_data(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the script sorts and filters a row by."""
    return {name: row[name] for name in _OF_SCRIPT} | {"seconds": row["costs"]["seconds"]}
