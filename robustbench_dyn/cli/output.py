"""Output of the commands: results go to stdout, all else to stderr, and no text is a control code.

Names, messages and file names come from plugins, stores and tables of others. They are printed with
their control characters escaped, so that none of them moves the cursor or hides another line.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, ParamSpec, TextIO

from robustbench_dyn.errors import OutputError, printable
from robustbench_dyn.progress.loading import clear

P = ParamSpec("P")

_STDOUT = 1
# A message may quote a text of any length.
_LONGEST_ERROR = 2_000

# The stdout of the commands that run; the last one is that of the innermost.
_reserved: list[TextIO] = []


def reserve_stdout() -> None:
    """Redirect to stderr what compiled code prints, as HiGHS does; only dynbench writes stdout."""
    try:
        if sys.stdout.fileno() != _STDOUT:
            return
        stdout = os.dup(_STDOUT)
        os.dup2(sys.stderr.fileno(), _STDOUT)
    except (AttributeError, OSError):
        # One of the two is closed, or is no file.
        return
    # Not every locale has all characters of a name.
    encoding, errors = sys.stdout.encoding, "backslashreplace"
    sys.stdout = os.fdopen(stdout, "w", encoding=encoding, errors=errors)


def reserving_stdout(command: Callable[P, None]) -> Callable[P, None]:
    """Make a command during which print(), as plugins call it, writes to stderr."""

    @functools.wraps(command)
    def reserving(*args: P.args, **kwargs: P.kwargs) -> None:
        with _reserving():
            command(*args, **kwargs)

    return reserving


@contextmanager
def _reserving() -> Iterator[None]:
    _reserved.append(results())
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _reserved.pop()
        clear()


def results() -> TextIO:
    """Return the stream of the results."""
    return _reserved[-1] if _reserved else sys.stdout


def print_result(text: object) -> None:
    """Print a result to stdout; raises OutputError where it cannot be written."""
    clear()
    stream = results()
    try:
        print(printable(str(text)), file=stream, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_results()
        raise OutputError(f"the result cannot be written to stdout: {error.strerror}") from error


def print_json(document: Any) -> None:
    """Print a JSON document to stdout; NaN and infinities, which JSON does not have, are null."""
    print_result(json.dumps(finite_or_null(document), indent=2, allow_nan=False))


def print_error(message: str) -> None:
    """Print one line to stderr."""
    line = printable(" ".join(message.split()))
    if len(line) > _LONGEST_ERROR:
        line = f"{line[:_LONGEST_ERROR]}... ({len(line):,} characters)"
    try:
        print(f"dynbench: {line}", file=sys.stderr, flush=True)  # noqa: T201
    except (AttributeError, OSError):  # stderr is closed; the exit code remains
        return


def finite_or_null(value: Any) -> Any:
    """Return a document of dicts, lists and numbers with None for each NaN or infinity."""
    if isinstance(value, dict):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def discard_results() -> None:
    """Drop what was not written yet, so that closing the stream at the end cannot fail again."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), results().fileno())
    except (AttributeError, OSError, ValueError):  # it is no file, or is closed
        return
