"""Running commands for benchmarks/faults.py, the processes that they start, and the faults."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fault_jobs import Job

# How long the children of a killed process may live, and how long a command may take to end.
ORPHANED_AFTER_SECONDS, HUNG_AFTER_SECONDS = 20, 120
# Processes inherit it, also those that leave the session.
MARK = "DYNBENCH_FAULTS_RUN"


class End(NamedTuple):
    """Whether a command had to be killed, and how many of its processes outlived it."""

    hung: bool
    orphans: int


@dataclass
class Run:
    """A running command, the leader of a session of its own; before: the progress at its start."""

    job: Job
    folder: Path
    before: Hashable
    file_bytes: int | None = None
    process: subprocess.Popen[str] = field(init=False)
    errors: list[str] = field(default_factory=list)
    worked: bool = False
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            [*self.job.program, *self.job.arguments],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", MARK: self.mark},
        )
        if self.file_bytes is not None:  # in time: the command is still importing
            limits = (self.file_bytes, self.file_bytes)
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, limits)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            self.errors.append(stream.read())

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def at_work(self) -> bool:
        if not self.worked:
            self.worked = self.job.progress(self.folder) not in (None, self.before)
        return self.worked

    def wait_until(self, due: Callable[[], bool]) -> None:
        """Return as soon as something is due or the process has ended."""
        while not (self.ended or due()):
            time.sleep(0.005)

    def wait_for_progress(self) -> float:
        """Return the seconds from the start to the first result."""
        self.wait_until(lambda: self.at_work)
        return time.perf_counter() - self.started

    def wait_for(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        self.wait_until(lambda: time.perf_counter() > end)

    def processes(self) -> list[int]:
        """List the living processes that it started, itself included."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
                mine = int(session) == self.process.pid or (
                    f"{MARK}={self.mark}".encode() in (path / "environ").read_bytes()
                )
            except OSError:  # it has just ended, or belongs to another user
                continue
            if mine and state != "Z":
                found.append(int(path.name))
        return found

    def workers(self) -> list[int]:
        """List the processes that multiprocessing started, which run the shards of a sweep."""
        return [pid for pid in self.processes() if "spawn_main" in _command_line(pid)]

    def finish(self) -> End:
        """Wait until all its processes have ended, and kill those that do not."""
        hung = False
        try:
            self.process.wait(HUNG_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            hung = True
            self.process.kill()
            self.process.wait()
        end = time.perf_counter() + ORPHANED_AFTER_SECONDS
        while (left := self.processes()) and time.perf_counter() < end:
            time.sleep(0.02)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.reader.join(5)
        return End(hung, len(left))


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def send(number: signal.Signals) -> Callable[[Run], bool]:
    """Return a strike that sends a signal to the command and waits for its end."""

    def strike(run: Run) -> bool:
        run.process.send_signal(number)
        run.wait_for(HUNG_AFTER_SECONDS)
        return run.process.poll() != 0  # otherwise it came after the end

    return strike


def kill_worker(rng: random.Random) -> Callable[[Run], bool]:
    """Return a strike that kills one worker of a sweep, which goes on."""

    def strike(run: Run) -> bool:
        run.wait_until(lambda: bool(run.workers()))
        workers = run.workers()
        if run.ended or not workers:
            return False
        try:
            os.kill(rng.choice(workers), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    return strike


def outlive(run: Run) -> bool:
    """Wait for the end of a run that is under a limit; return whether it reached the limit."""
    run.wait_for(HUNG_AFTER_SECONDS)
    return run.process.poll() != 0
