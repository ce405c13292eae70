"""Templates of the pages; each text is escaped, since names and cards come from strangers."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from robustbench_dyn.results.flags import FLAGS, name_of


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
        "percent": percent,
        "number": number,
        "thousands": thousands,
        "flag_name": flag_name,
        "flag_text": flag_text,
    }
    return made


def percent(share: float | None) -> str:
    """Return a fraction in percent with one digit, without the sign; a dash for none."""
    return "–" if share is None else f"{100 * share:.1f}"


def number(value: float | None) -> str:
    """Return a number with three significant digits; a dash for none."""
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def thousands(value: float | None) -> str:
    """Return a whole number with commas; a dash for none."""
    return "–" if value is None else f"{value:,.0f}"


def flag_name(flag: str) -> str:
    """Return the name of a flag as words, without its values."""
    return flag.partition(":")[0].replace("_", " ")


def flag_text(flag: str) -> dict[str, Any]:
    """Return what a flag means, and what it asks for; empty where no version sets it."""
    known = FLAGS.get(name_of(flag))
    return {"meaning": known.meaning, "asks_for": known.asks_for} if known else {}
