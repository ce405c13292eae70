"""The status of a command before its run begins: reading data, loading torch or a model.

Imported without torch, whose own import is the first thing to wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status

# The status on screen, if there is one; of the whole process, as its terminal is.
_shown: list[Status] = []
_hushed: list[bool] = [False]


def say(text: str) -> None:
    """Show what is being done, in place of what was; nothing where stderr is no terminal."""
    if _hushed[-1]:
        return
    from rich.console import Console  # noqa: PLC0415  (most commands have nothing to say)
    from rich.text import Text  # noqa: PLC0415

    from robustbench_dyn.errors import printable  # noqa: PLC0415

    line = Text(printable(" ".join(text.split())))
    if _shown:
        _shown[0].update(line)
        return
    console = Console(stderr=True, markup=False, emoji=False)
    if console.is_terminal:
        status = console.status(line)
        status.start()
        _shown.append(status)


def hush(quiet: bool) -> None:
    """Show nothing from here on, or all again."""
    _hushed[:] = [quiet]
    if quiet:
        clear()


def clear() -> None:
    """Take away what `say` shows, as before anything else is printed."""
    while _shown:
        _shown.pop().stop()


@contextmanager
def loading(text: str, *, enabled: bool = True) -> Iterator[None]:
    """Show a text while a block runs, which may say more; see `say`."""
    try:
        if enabled:
            say(text)
        yield
    finally:
        clear()
