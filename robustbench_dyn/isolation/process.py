"""A process for foreign code, as the process that asks it for work sees it."""

from __future__ import annotations

import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from robustbench_dyn.errors import DynbenchError, ForeignCodeError
from robustbench_dyn.isolation.channel import (
    ASKS,
    FAILED,
    Channel,
    ChannelClosedError,
    MalformedMessageError,
    Message,
    as_exception,
    as_message,
)
from robustbench_dyn.isolation.confinement import memory_in_use
from robustbench_dyn.isolation.limits import Limits

log = logging.getLogger(__name__)

_GIB = 2**30
# Between two looks at whether the process still lives, and within its memory.
_TICK = 0.2
# Importing torch, before any foreign code, may take this long on a busy machine.
_SECONDS_TO_START = 300.0
_SHOWN = 300
# As of the command; see cli.
_SPIN_COUNT = "5000"
# What the environment may tell to foreign code; it may hold passwords besides.
_ENVIRONMENT = ("PATH", "LANG", "LC_", "LD_LIBRARY_PATH", "OMP_", "MKL_", "GOMP_", "KMP_", "CUDA_")


class ProcessEnded(BaseException):
    """The process is gone, or was killed for breaking a limit.

    No Exception: what records the failures of a model must not take this for one of them, and go
    on. `reported` turns it into a ForeignCodeError.
    """


@contextmanager
def reported(who: str = "") -> Iterator[None]:
    """Raise the end of a process as ForeignCodeError.

    who: where it is given, whose code is called, so that any other error is one of that code.
    """
    try:
        yield
    except ProcessEnded as end:
        raise ForeignCodeError(str(end)) from None
    except (DynbenchError, MemoryError):
        raise
    except Exception as error:
        if not who:
            raise
        raise ForeignCodeError(f"{who} failed: {type(error).__name__}: {error}") from error


class ChildProcess:
    """A process that does what it is asked for, one call at a time.

    who: whose code it runs, for messages. reads: what it may read besides Python's own folders.
    confined: whether it has lost the user's files (see confinement.confine).
    Raises ForeignCodeError where this system has no such processes.
    """

    def __init__(self, who: str, *, limits: Limits, reads: Iterable[Path] = ()) -> None:
        if os.name != "posix":
            raise ForeignCodeError(
                f"{who} is code from outside of this package, and this system offers no process "
                "with limits for it; give --trust to run it in this process"
            )
        self.who, self.limits = who, limits
        self._lock = threading.Lock()
        self._ended, self._has_printed = "", False
        self._folder = Path(tempfile.mkdtemp(prefix="dynbench-"))
        self._output = (self._folder / "output").open("w+b")
        work = self._folder / "work"
        work.mkdir()
        ours, theirs = socket.socketpair()
        files = [_shared_file("to"), _shared_file("from")]
        most = int(limits.memory_gib * _GIB)
        self._channel = Channel(ours, writes=files[0], reads=files[1], most_bytes=most)
        package = Path(__file__).resolve().parents[2]
        handles = (theirs.fileno(), *files)
        # The driver of a GPU maps more memory than any limit allows.
        settings = {
            "reads": [str(package), *map(str, reads)],
            "writes": [str(work)],
            "memory": most,
            "open_files": limits.open_files,
            "limit_mapped": not torch.cuda.is_available(),
            "threads": torch.get_num_threads(),
            "end_with_parent": threading.current_thread() is threading.main_thread(),
            "parent": os.getpid(),
        }
        command = [sys.executable, "-P", "-m", "robustbench_dyn.isolation.child"]
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(settings), *map(str, handles)],
                cwd=work,
                env=_environment(package, work),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=handles,
                start_new_session=True,
            )
        finally:
            theirs.close()
        # The process, its folder and the files go when nothing refers to this object any more.
        self._finalizer = weakref.finalize(
            self, _end, os.getpid(), self._process, ours, files, self._output, self._folder
        )
        self._memory = 0
        with reported():
            started = self._call("start", {}, {}, _SECONDS_TO_START)
        self.confined = bool(started.content["confined"])
        if not self.confined:
            log.warning(
                "%s runs in a process of its own, and this system cannot keep it from your files",
                who,
            )
        self._memory = most + memory_in_use(self._process.pid)

    def call(
        self,
        name: str,
        content: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        *,
        times: int = 1,
        answering: Callable[[Message], Message] | None = None,
    ) -> Message:
        """Ask for something, as "module:function" of this package, and wait for the answer.

        times: how many times seconds_per_call it may take. answering: answers what the process
        asks in return, before its own answer; that takes of the same time. Raises what the function
        raised: an error of this package, MemoryError and the like as themselves, any other as
        RuntimeError.
        Raises ProcessEnded where the process ends, takes too long or too much, or answers what is
        no answer; it is killed then, and every further call raises the same.
        """
        seconds = times * self.limits.seconds_per_call
        return self._call(name, content or {}, tensors or {}, seconds, answering)

    @property
    def has_ended(self) -> bool:
        """Whether every further call raises ProcessEnded."""
        return bool(self._ended)

    def __reduce__(self) -> NoReturn:
        raise ForeignCodeError(f"the process of {self.who} cannot be copied; load it again")

    def close(self) -> None:
        """End the process, and remove what it has left behind."""
        self._finalizer()

    def _call(
        self,
        name: str,
        content: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        seconds: float,
        answering: Callable[[Message], Message] | None = None,
    ) -> Message:
        with self._lock:
            if self._ended:
                raise ProcessEnded(self._ended)
            try:
                ends = time.monotonic() + seconds
                self._channel.send(Message(name, content, tensors))
                answer = self._received(name, seconds, ends)
                while answer.name == ASKS and answering is not None:
                    self._channel.send(_answered(answering, answer))
                    answer = self._received(name, seconds, ends)
            except ChannelClosedError:
                raise self._end_of_process(name) from None
            except TimeoutError:
                raise self._took_longer(name, seconds) from None
            except MalformedMessageError as error:
                raise self._killed(f"answered what is no answer ({error})") from None
            except BaseException:
                # Interrupted half way: the next answer would be that of this call.
                self._ended = self._ended or f"a call of {self.who} was interrupted"
                self.close()
                raise
        if answer.name == FAILED:
            raise as_exception(answer)
        return answer

    def _received(self, name: str, seconds: float, ends: float) -> Message:
        """Wait for an answer, while the process lives and keeps to its limits."""
        poll = select.poll()
        poll.register(self._channel.connection, select.POLLIN)
        while not poll.poll(1000 * min(_TICK, max(0.0, ends - time.monotonic()))):
            if self._process.poll() is not None:
                raise self._end_of_process(name)
            if time.monotonic() >= ends:
                raise self._took_longer(name, seconds)
            if self._memory and memory_in_use(self._process.pid) > self._memory:
                raise self._killed(f"took more than {self.limits.memory_gib:g} GiB of memory")
        answer = self._channel.receive(ends)
        if not self._has_printed and os.fstat(self._output.fileno()).st_size:
            self._has_printed = True
            log.warning("%s prints, which is not shown: %s", self.who, self._printed())
        return answer

    def _took_longer(self, name: str, seconds: float) -> ProcessEnded:
        what = name.partition(":")[2] or name
        return self._killed(f"took more than {seconds:g} s for one call ({what})")

    def _end_of_process(self, name: str) -> ProcessEnded:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        code = self._process.poll()
        how = "closed its connection"
        if code is not None:
            how = (
                f"ended its process with exit code {code}"
                if code >= 0
                else f"was ended by {_name_of_signal(-code)}"
            )
        return self._killed(f"{how} during a call ({name.partition(':')[2] or name})")

    def _killed(self, how: str) -> ProcessEnded:
        printed = self._printed()
        self._ended = f"{self.who} {how}; what was computed before is kept" + (
            f"; it had printed: {printed}" if printed else ""
        )
        self.close()
        return ProcessEnded(self._ended)

    def _printed(self) -> str:
        """Return the end of what the process has printed, on one line."""
        # The process shares the position in this file, but not that of a read of its own.
        file = self._output.fileno()
        start = max(0, os.fstat(file).st_size - _SHOWN)
        text = os.pread(file, _SHOWN, start).decode(errors="replace")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _name_of_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those without a name
        return f"signal {number}"


def _answered(answering: Callable[[Message], Message], question: Message) -> Message:
    try:
        return answering(question)
    # It is raised there, and comes back from there.
    except Exception as error:
        return as_message(error)


def _end(
    owner: int,
    process: subprocess.Popen[bytes],
    connection: socket.socket,
    files: Iterable[int],
    output: Any,
    folder: Path,
) -> None:
    if os.getpid() != owner:  # a fork of the process that started it
        return
    # The whole group: it may have started processes of its own.
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    connection.close()
    output.close()
    for file in files:
        os.close(file)
    shutil.rmtree(folder, ignore_errors=True)


def _shared_file(name: str) -> int:
    """Return a file that has no name and stays in memory, where this system has such."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(f"dynbench-{name}", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())


def _environment(package: Path, work: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)}
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    return {
        # Idle threads of one process must not take the cores from the other.
        "GOMP_SPINCOUNT": _SPIN_COUNT,
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "HOME": str(work),
        "TMPDIR": str(work),
        "PYTHONUNBUFFERED": "1",
    }
