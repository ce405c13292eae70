"""The local engine: processes that write to one store; a process that dies is replaced."""

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
    from robustbench_dyn.progress.report import Progress

# A shard fails after this many worker deaths in a row without one new verdict.
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
                # A worker may die before it receives the shard; receive() then reports its death.
                try:
                    worker.connection.send((worker.shard, store))
                except OSError:
                    continue
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                event = worker.receive()
                if event.progress is not None:
                    # A worker that resumes a shard first repeats the reports of the one before.
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
    """A process that receives shards through a pipe."""

    process: SpawnProcess
    connection: Connection
    shard: Shard

    def receive(self) -> Event:
        """Return the next event of the shard, or the death of the process."""
        try:
            state, payload = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self.connection.close()
            code = self.process.exitcode or 0
            return Event(self.shard, "died", f"signal {-code}" if code < 0 else f"exit code {code}")
        if state == "at work":
            return Event(self.shard, state, progress=payload)
        return Event(self.shard, state, payload)

    def stop(self) -> None:
        """Kill the process; its verdicts are already in the store."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _start_worker(shard: Shard) -> _Worker:
    context: Any = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    # Only the worker holds the other end now, so that the pipe closes when the worker dies.
    theirs.close()
    return _Worker(process, ours, shard)


def _serve(connection: Connection) -> None:
    """Run the shards that arrive through the pipe, until it closes."""
    # Ctrl-C reaches the whole process group; the scheduling process alone handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(progress: Progress) -> None:
        connection.send(("at work", progress))

    while True:
        try:
            shard, store = connection.recv()
        except EOFError:
            return
        # Read once, when torch is imported; it also limits the threads of numpy and scipy.
        os.environ.setdefault("OMP_NUM_THREADS", str(shard.threads))
        try:
            connection.send(try_shard(shard, store, report))
        except OSError:  # the process that schedules shards was killed
            return


def _end_with_parent() -> None:
    """End this process when its parent is killed, even in the middle of a long attack."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
