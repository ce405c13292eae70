"""Engines run the shards of a sweep, and run again those whose workers die."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from robustbench_dyn.errors import InputError
from robustbench_dyn.sweeps.shards import Shard

if TYPE_CHECKING:
    from robustbench_dyn.evaluation.pipeline import Progress

__all__ = ["Engine", "Event", "engine_names", "get_engine"]

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


def engine_names() -> tuple[str, ...]:
    """Name the engines."""
    return ("local", "ray")


def get_engine(name: str) -> Engine:
    """Return an engine; raises InputError where there is none, or where it is not installed."""
    if name == "local":
        from robustbench_dyn.sweeps.engines import local  # noqa: PLC0415

        return local.run
    if name == "ray":
        from robustbench_dyn.sweeps.engines import ray_cluster  # noqa: PLC0415

        return ray_cluster.run
    raise InputError(f"no engine is called {name!r}; choose one of {', '.join(engine_names())}")
