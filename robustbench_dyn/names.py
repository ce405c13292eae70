"""Names of models and data sets: the one rule for them, and file names made of them."""

from __future__ import annotations

import re
from pathlib import Path

from robustbench_dyn.errors import InputError

LONGEST = 100
# Parts with a slash between; ~ stands before the sigma of a smoothed classifier.
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.~-]*"
_NAME = re.compile(rf"{_PART}(/{_PART})*")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.~-]")


def is_name(name: object) -> bool:
    """Say whether name is a string that may stand in tables, stores and file names."""
    return (
        isinstance(name, str)
        and len(name) <= LONGEST
        and _NAME.fullmatch(name) is not None
        and ".." not in name
    )


def check_name(name: object, what: str) -> None:
    """Raise InputError unless name is one; what: the thing that has it, for the message."""
    if not is_name(name):
        shown = repr(name)
        shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."
        raise InputError(f"{what} {shown} is no valid name; {RULE}")


RULE = (
    f"a name is at most {LONGEST} letters, digits and _ - . ~, in parts with / between that begin "
    "with a letter, a digit or _, without .."
)


def file_name(*parts: str, suffix: str) -> str:
    """Join parts with - to the name of a file, without folders whatever the parts are.

    Different names stay different, since + replaces the slash and stands in no name.
    """
    return "-".join(_UNSAFE.sub("+", part) for part in parts) + suffix


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder; raises InputError where it would lie elsewhere."""
    path = folder / name
    if path.parent != folder or path.name != name or name in ("", ".", ".."):
        raise InputError(f"{name!r} is no name of a file in {folder}")
    return path
