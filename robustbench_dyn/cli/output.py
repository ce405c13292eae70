"""Output of the commands: results go to stdout, all else to stderr, and no text is a control code.

Names, messages and file names come from plugins, stores and tables of others. They are printed with
their control characters escaped, so that none of them moves the cursor or hides another line.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, ParamSpec, TextIO

from robustbench_dyn.errors import OutputError, printable

P = ParamSpec("P")

_STDOUT = 1
# A message may quote a text of any length.
_LONGEST_ERROR = 2_000

# Whether --quiet is given; see `be_quiet`.
_quiet = False
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
        with _silence() if _quiet else redirect_stdout(sys.stderr):
            yield
    finally:
        _reserved.pop()
        # A caller of several commands in one process gives it to each.
        be_quiet(False)


@contextmanager
def _silence() -> Iterator[None]:
    """Drop warnings, logged messages and what plugins print; errors are printed nevertheless."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with (
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            redirect_stdout(nowhere),
            warnings.catch_warnings(action="ignore"),
        ):
            yield
    finally:
        logging.disable(disabled)


def be_quiet(quiet: bool) -> bool:
    """Print nothing but errors to stderr from here on, or all again; returns its argument."""
    global _quiet  # noqa: PLW0603  (one switch for all that a command prints)
    _quiet = quiet
    return quiet


def is_quiet() -> bool:
    """Return whether nothing but errors is wanted on stderr: no progress, no messages."""
    return _quiet


def announce(message: str) -> None:
    """Print a message in one line to stderr, such as where a file was written, unless quiet."""
    if not _quiet:
        print_error(message)


def announce_files(store: Path, *others: Path | None) -> None:
    """Say in one line where verdicts are kept, and which other files were written."""
    written = ", ".join(str(path) for path in others if path is not None)
    announce(f"verdicts kept in {store}" + (f"; written: {written}" if written else ""))


def results() -> TextIO:
    """Return the stream of the results."""
    return _reserved[-1] if _reserved else sys.stdout


def print_result(text: object) -> None:
    """Print a result to stdout; raises OutputError where it cannot be written."""
    write_results(f"{printable(str(text))}\n")


def write_results(text: str) -> None:
    """Write a text to stdout as it is; raises OutputError where it cannot be written."""
    stream: TextIO | None = results()
    if stream is None:  # stdout is closed
        return
    try:
        stream.write(text)
        stream.flush()
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
