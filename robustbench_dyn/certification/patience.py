"""The time that certifiers may take all together, and their end once it is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple

from torch.overrides import TorchFunctionMode

log = logging.getLogger(__name__)

# Without a budget, `auto` gives up on networks that are too large for it: after so many seconds,
# and as many more for each example. No model in the tables comes near it.
SECONDS_OF_AUTO, SECONDS_OF_AUTO_PER_EXAMPLE = 60.0, 10.0


class OutOfTime(BaseException):
    """The time is over; raised and caught by certification alone, and no error of a certifier."""


class _End(NamedTuple):
    """When a block's time is over, by a clock."""

    clock: Callable[[], float]
    until: float

    def look(self) -> None:
        if self.clock() >= self.until:
            raise OutOfTime


_end: ContextVar[_End | None] = ContextVar("_end", default=None)


def look_at_time() -> None:
    """Raise OutOfTime once the time that this code runs at the expense of is over."""
    end = _end.get()
    if end is not None:
        end.look()


class Patience:
    """The seconds that certifiers may take together, preparation included.

    seconds: None for no limit. searches: whether the limit holds for certifiers that search until
    they have decided, too; these have limits of their own. clock: seconds from any start.
    """

    def __init__(
        self,
        seconds: float | None = None,
        *,
        searches: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.searches = seconds, searches
        self._clock, self._spent, self._warned = clock, 0.0, False

    @property
    def over(self) -> bool:
        """Whether the time is spent."""
        return self.seconds is not None and self._spent >= self.seconds

    @property
    def said(self) -> str:
        """What is said of an example or a certifier once the time is over."""
        return f"gave up after {self.seconds:g} s"

    def renew(self) -> None:
        """Begin with the whole time again, as for another eps."""
        self._spent, self._warned = 0.0, False

    @contextmanager
    def spending(self, *, watched: bool = True) -> Iterator[None]:
        """Run a block at the expense of the time; raises OutOfTime where it ends in the block.

        watched: look at the time before each operation of torch, so that a layer is computed to its
        end, which makes small ones slower; else the block itself calls look_at_time.
        """
        if self.seconds is None:
            yield
            return
        if self.over:
            raise OutOfTime
        started = self._clock()
        end = _End(self._clock, started + self.seconds - self._spent)
        token = _end.set(end)
        try:
            with _Watch(end) if watched else nullcontext():
                yield
        finally:
            _end.reset(token)
            self._spent += self._clock() - started
            if self.over and not self._warned:
                self._warned = True
                log.warning("the certifiers %s; what they left open is attacked alone", self.said)


class _Watch(TorchFunctionMode):
    """Raises OutOfTime at the first operation of torch after a moment."""

    def __init__(self, end: _End) -> None:
        super().__init__()
        self._end = end

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self._end.look()
        return function(*args, **(kwargs or {}))
