"""Engines: they run the shards of a sweep, and rerun the shards whose workers die."""

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
