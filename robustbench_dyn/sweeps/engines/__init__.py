"""Engines run the shards of a sweep, and run again those whose workers die."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from robustbench_dyn.plugins import Entry, Registry
from robustbench_dyn.sweeps.shards import Shard

if TYPE_CHECKING:
    from robustbench_dyn.evaluation.pipeline import Progress

__all__ = ["ENGINES", "Engine", "Event"]

State = Literal["started", "at work", "died", "done", "failed", "unsound"]


class Event(NamedTuple):
    """Something that happened to a shard.

    message: the key of a shard that is done, and why another one died, failed or is unsound.
    progress: of a shard that is at work, where the engine can tell.
    """

    shard: Shard
    state: State
    message: str = ""
    progress: Progress | None = None


# engine(shards, store, workers) brings every shard to "done", "failed" or "unsound", and leaves
# its verdicts in the store. What is closed before its end stops its workers.
Engine = Callable[[Sequence[Shard], Path, int], Iterator[Event]]


ENGINES: Registry[Engine] = Registry(
    "engine",
    (
        Entry("local", "robustbench_dyn.sweeps.engines.local:run"),
        Entry("ray", "robustbench_dyn.sweeps.engines.ray_cluster:run"),
    ),
)
