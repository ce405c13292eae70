"""Confinement of a process before it runs foreign code: memory, files, network, signals.

Limits of resources are POSIX's. On Linux 5.13 and later, Landlock takes the files away, and the
memory of other processes; on 6.7 TCP, on 6.12 signals (https://docs.kernel.org/userspace-api/
landlock.html). Landlock needs no privileges, and there is no way back.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

# System calls have these numbers on all architectures.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ABI_VERSION, _PATH_BENEATH = 1, 1
_NO_NEW_PRIVILEGES, _PARENT_DEATH_SIGNAL = 38, 1
# Rights over files, as bits: those of the first ABI, and what later ones add.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
_TCP, _SCOPES = 0b11, 0b11
_ON_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14

# What Python and its libraries read, besides their own folders.
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/opt", "/etc", "/proc", "/sys", "/dev")
_DEVICES = ("/dev/null", "/dev/zero")
_GPUS = "nvidia*"


def limit_resources(*, memory: int, open_files: int, files_of: int, address_space: bool) -> None:
    """Limit what this process may take from now on.

    memory: bytes, beyond what it has already. open_files: descriptors. files_of: bytes of a file
    that it writes. address_space: count mapped memory as well, which a GPU's driver needs plenty
    of.
    """
    import resource  # noqa: PLC0415  (Windows has none)

    used = memory_in_use(os.getpid(), mapped=True)
    kinds = {
        resource.RLIMIT_DATA: used + memory,
        resource.RLIMIT_NOFILE: open_files,
        resource.RLIMIT_FSIZE: files_of,
        resource.RLIMIT_CORE: 0,
    }
    if address_space:
        kinds[resource.RLIMIT_AS] = used + memory
    for kind, limit in kinds.items():
        _, hard = resource.getrlimit(kind)
        lowest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (lowest, lowest))


def memory_in_use(process: int, *, mapped: bool = False) -> int:
    """Return the bytes that a process holds in memory, or has mapped; 0 where nothing tells."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()
    except OSError:
        return 0
    return int(pages[0 if mapped else 1]) * os.sysconf("SC_PAGE_SIZE")


def landlock_version() -> int:
    """Return the version of Landlock that the kernel offers; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, _ABI_VERSION)))


def confine(*, reads: Iterable[Path], writes: Iterable[Path]) -> int:
    """Take from this process, for good, all files but these; return Landlock's version, or 0.

    reads: files and folders that it may read, besides the system's. writes: folders that it may
    change. Where Landlock allows it, the process also loses TCP and signals to other processes,
    and it can never look into one. Raises OSError where the kernel refuses.
    """
    version = landlock_version()
    if version == 0:
        return 0
    rights = (1 << max(n for since, n in _FILE_RIGHTS.items() if since <= version)) - 1
    attributes = [rights, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0]
    words = 3 if version >= 6 else 2 if version >= 4 else 1
    ruleset = _checked(
        _libc().syscall(_CREATE_RULESET, struct.pack("=3Q", *attributes)[: 8 * words], 8 * words, 0)
    )
    try:
        for path in [*map(Path, _SYSTEM), *reads]:
            _allow(ruleset, path, rights & _READ)
        for path in [*map(Path, _DEVICES), *Path("/dev").glob(_GPUS), *writes]:
            _allow(ruleset, path, rights)
        _checked(_libc().prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _checked(_libc().syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return version


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends; Linux only."""
    if sys.platform == "linux":
        import signal  # noqa: PLC0415

        _libc().prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            rights &= _ON_A_FILE
        rule = struct.pack("=Qi", rights, handle)
        _checked(_libc().syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(handle)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
