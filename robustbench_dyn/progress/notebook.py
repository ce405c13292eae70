"""The progress of a run in a notebook: one output that is rewritten, by IPython alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from rich.text import Text

_WIDTH = 100
_SECONDS = 0.5


def in_notebook() -> bool:
    """Say whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookScreen:
    """Lines in the output of a cell while a block runs; the last ones stay when it ends.

    render: called with the width in columns, in another thread.
    """

    def __init__(self, render: Callable[[int], Sequence[Text]]) -> None:
        self._render, self._ended = render, threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._handle: Any = None

    def __enter__(self) -> None:
        from IPython.display import display  # noqa: PLC0415  (there is one in a notebook alone)

        shown: Any = display
        self._handle = shown(self._content(), raw=True, display_id=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._update()

    def _draw(self) -> None:
        while not self._ended.wait(_SECONDS):
            self._update()

    def _update(self) -> None:
        # A run does not end because a frontend has gone.
        with suppress(Exception):
            self._handle.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        return {"text/plain": "\n".join(line.plain for line in self._render(_WIDTH))}
