"""Errors of the machine: memory, disk, threads, processes. Tried again, they may not come back.

An error of the model comes back, so that it is a result; an error of the machine is none.
"""

from __future__ import annotations

import errno
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager

from robustbench_dyn.errors import DynbenchError, MachineError

_NUMBERS = frozenset(
    {
        errno.ENOMEM,
        errno.EAGAIN,  # no further process or thread
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
    }
)
# What libraries say, all of which raise RuntimeError, OSError, ImportError or errors of their own.
_TEXTS = re.compile(
    "|".join(
        (
            r"out of memory",
            r"out of host memory",
            r"not enough (host )?memory",
            r"insufficient memory",
            r"can.?t allocate",  # torch's DefaultCPUAllocator
            r"cannot allocate",  # ENOMEM as the C library says it
            r"could not allocate",
            r"unable to allocate",  # numpy
            r"failed to allocate",
            r"(memory )?allocation (still )?failed",  # OpenBLAS
            r"alloc_failed",  # cuDNN, cuBLAS, cuSPARSE, cuSOLVER, cuFFT
            r"cublas_status_not_initialized",  # no memory for the handle
            r"bad[_ ]alloc",
            r"errc::not_enough_memory",
            # oneDNN; with "descriptor" after it, the operation does not exist.
            r"could not (create|execute) a primitive(?! desc)",
            r"could not create a memory",
            r"mkl[^a-z].*memory",
            r"can.?t start new thread",
            r"(thread creation|pthread_create).*failed",
            r"resource temporarily unavailable",
            r"too many open files",
            r"no space left on device",
            r"disk quota exceeded",
            r"file too large",
            r"input/output error",
            r"killed by signal",  # a worker of a DataLoader
            r"terminated abruptly",  # a worker of a pool
            r"exited unexpectedly",
            r"busy or unavailable",  # CUDA-capable devices
            r"uncorrectable ecc error",
            r"gpu is lost",
        )
    ),
    re.IGNORECASE,
)
_WITH_TEXT = (RuntimeError, OSError, ImportError, SystemError, BufferError)


def is_machine_error(error: BaseException) -> bool:
    """Return whether an error, or one that led to it, says that the machine failed.

    Told by the type, the number of the operating system, or a known text: out of memory in the
    words of torch, oneDNN, CUDA and the linear algebra libraries; a full disk; no further thread,
    process or open file; a child process that was killed.
    """
    seen = set[int]()
    chain: list[BaseException | None] = [error]
    while chain:
        one = chain.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if _is_one(one):
            return True
        chain += [one.__cause__, None if one.__suppress_context__ else one.__context__]
        if isinstance(one, BaseExceptionGroup):
            chain += one.exceptions
    return False


def _is_one(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, BrokenExecutor, MachineError)):
        return True
    if isinstance(error, DynbenchError):  # it may quote anything; what led to it counts
        return False
    if isinstance(error, subprocess.CalledProcessError):
        return error.returncode < 0  # a signal
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    # Of torch; named, so that this module imports without it.
    if type(error).__name__ in ("OutOfMemoryError", "ProcessExitedException"):
        return True
    return isinstance(error, _WITH_TEXT) and bool(_TEXTS.search(str(error)))


def describe(error: BaseException) -> str:
    """Return the type and the first line of an error, for a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def machine_errors_explained() -> Iterator[None]:
    """Raise an error of the machine as MachineError; every other one passes."""
    try:
        yield
    except DynbenchError:
        # Its message is written for the user.
        raise
    except Exception as error:
        if not is_machine_error(error):
            raise
        raise MachineError(
            f"the machine failed ({describe(error)}), and nothing was concluded from it; free "
            "memory and disk space, and the same command goes on"
        ) from error
