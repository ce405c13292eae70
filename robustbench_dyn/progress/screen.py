"""The part of a terminal that a display draws again and again, from a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

# Redrawn so often a second: quick enough for a bar, and no load for what it shows.
_PER_SECOND = 8


class Screen:
    """Lines at the foot of the terminal while a block runs; they are gone when it ends.

    render: called with the width in columns, in another thread; returns lines no longer than it.
    """

    def __init__(self, console: Console, render: Callable[[int], Sequence[Text]]) -> None:
        self._console, self._render = console, render
        self._live = Live(
            console=console,
            get_renderable=self._lines,
            refresh_per_second=_PER_SECOND,
            transient=True,
        )

    def __enter__(self) -> None:
        self._live.start(refresh=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def _lines(self) -> Group:
        # The last column stays free: some terminals break the line once it is written.
        return Group(*self._render(max(1, self._console.width - 1)))
