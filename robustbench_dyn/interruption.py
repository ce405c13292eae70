"""Ctrl-C: noted when it comes, for a library that it meets may raise an error of its own instead.

An import that is interrupted ends in an ImportError, for instance.
"""

from __future__ import annotations

import signal
from types import FrameType

MESSAGE = "interrupted; finished work is kept, and the same command resumes it"
EXIT_CODE = 130

_heard = [False]


def listen() -> None:
    """Note Ctrl-C from now on; KeyboardInterrupt is raised as before."""
    _heard[0] = False
    # A shell has a command in the background ignore it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _hear)


def is_interrupted() -> bool:
    """Return whether Ctrl-C came since listen() was called."""
    return _heard[0]


def ignore() -> None:
    """Ignore Ctrl-C from now on, so that a second one does not cut a message off."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _hear(_number: int, _frame: FrameType | None) -> None:
    _heard[0] = True
    raise KeyboardInterrupt
