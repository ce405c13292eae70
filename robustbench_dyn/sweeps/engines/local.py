"""Processes of this machine; they write into one store, and a dead one is replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_dyn.sweeps.engines import Event
from robustbench_dyn.sweeps.shards import Shard, try_shard

if TYPE_CHECKING:
    from robustbench_dyn.evaluation.pipeline import Progress

# A shard whose workers die so often in a row without one more verdict is given up.
_PATIENCE = 10


def run(shards: Sequence[Shard], store: Path, workers: int) -> Iterator[Event]:
    """Run shards in up to `workers` processes; see Engine."""
    waiting, fruitless = deque(shards), dict.fromkeys(shards, 0)
    seen: dict[Shard, set[tuple[float, str, int]]] = {shard: set() for shard in shards}
    busy: dict[Connection, _Worker] = {}
    idle: list[_Worker] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                shard = waiting.popleft()
                worker = idle.pop() if idle else _start_worker(shard)
                worker.shard = shard
                busy[worker.connection] = worker
                yield Event(worker.shard, "started")
                # A worker may die before it is asked; its pipe then says so below.
                try:
                    worker.connection.send((worker.shard, store))
                except OSError:
                    continue
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                event = worker.receive()
                if event.progress is not None:
                    # A worker that goes on from another's verdicts repeats its reports at first.
                    if event.progress[:3] not in seen[event.shard]:
                        fruitless[event.shard] = 0
                    seen[event.shard].add(event.progress[:3])
                    yield event
                    continue
                del busy[worker.connection]
                if event.state != "died":
                    idle.append(worker)
                    yield event
                    continue
                fruitless[event.shard] += 1
                if fruitless[event.shard] < _PATIENCE:
                    waiting.append(event.shard)
                    yield event
                else:
                    yield event._replace(
                        state="failed",
                        message=f"{_PATIENCE} workers in a row died of it ({event.message}) "
                        "without deciding one more example; is there enough memory?",
                    )
    finally:
        for worker in (*busy.values(), *idle):
            worker.stop()


@dataclass
class _Worker:
    """A process that waits for shards at the other end of a pipe."""

    process: SpawnProcess
    connection: Connection
    shard: Shard

    def receive(self) -> Event:
        """Return what the process says of its shard, or that it died."""
        try:
            state, content = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self.connection.close()
            code = self.process.exitcode or 0
            return Event(self.shard, "died", f"signal {-code}" if code < 0 else f"exit code {code}")
        if state == "at work":
            return Event(self.shard, state, progress=content)
        return Event(self.shard, state, content)

    def stop(self) -> None:
        """End the process; what it has decided is in the store."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _start_worker(shard: Shard) -> _Worker:
    context: Any = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    # The only other end is the worker's: its death ends the pipe.
    theirs.close()
    return _Worker(process, ours, shard)


def _serve(connection: Connection) -> None:
    """Run the shards that come through the pipe, until it ends."""
    # Ctrl-C reaches the whole group; the process that hands out the work decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(progress: Progress) -> None:
        connection.send(("at work", progress))

    while True:
        try:
            shard, store = connection.recv()
        except EOFError:
            return
        # Read once, when torch is imported: numpy's and scipy's threads count too.
        os.environ.setdefault("OMP_NUM_THREADS", str(shard.threads))
        connection.send(try_shard(shard, store, report))


def _end_with_parent() -> None:
    """End this process when its parent is killed, also in the middle of a long attack."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
