"""Engines: they run the shards of a sweep, and rerun the shards whose workers die."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from robustbench_dyn.plugins import Entry, Registry
from robustbench_dyn.sweeps.shards import Shard

if TYPE_CHECKING:
    from robustbench_dyn.progress.report import Progress

__all__ = ["ENGINES", "Engine", "Event"]

State = Literal["started", "at work", "died", "done", "failed", "unsound"]


class Event(NamedTuple):
    """A change in the state of a shard.

    message: the key of a shard that is done; the reason where one died, failed or is unsound.
    progress: of a shard that is at work, if the engine reports it.
    """

    shard: Shard
    state: State
    message: str = ""
    progress: Progress | None = None


# engine(shards, store, workers) brings every shard to "done", "failed" or "unsound", and writes
# its verdicts to the store. Closing the iterator early stops the workers.
Engine = Callable[[Sequence[Shard], Path, int], Iterator[Event]]


ENGINES: Registry[Engine] = Registry(
    "engine",
    (
        Entry("local", "robustbench_dyn.sweeps.engines.local:run"),
        Entry("ray", "robustbench_dyn.sweeps.engines.ray_cluster:run"),
    ),
)
