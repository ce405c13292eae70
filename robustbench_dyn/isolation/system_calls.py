"""A filter of system calls, by seccomp: what foreign code may not ask of the kernel; Linux only.

Landlock guards files. The filter takes what leads around it: sockets of every kind, further
processes, other processes' limits and memory, and memory that no limit counts. See
https://docs.kernel.org/userspace-api/seccomp_filter.html.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

# seccomp(2), its only filter mode, and the flag that filters all threads of the process.
_FILTER, _ALL_THREADS, _NO_NEW_PRIVILEGES = 1, 1, 38
# Classic BPF: load a word of the call's description, compare, test bits, return.
_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_LOW, _FIRST_HIGH = 0, 4, 16, 20
_CLONE_THREAD = 0x00010000
_OTHER_ABI = 0x40000000  # x32, on x86-64

# The numbers of calls by machine; those that are refused to all.
_REFUSED = {
    "x86_64": {
        "socket": 41,
        "connect": 42,
        "socketpair": 53,
        "fork": 57,
        "vfork": 58,
        "execve": 59,
        "shmget": 29,
        "semget": 64,
        "msgget": 68,
        "ptrace": 101,
        "setpriority": 141,
        "sched_setparam": 142,
        "sched_setscheduler": 144,
        "mount": 165,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "ioprio_set": 251,
        "migrate_pages": 256,
        "unshare": 272,
        "move_pages": 279,
        "perf_event_open": 298,
        "setns": 308,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "kcmp": 312,
        "sched_setattr": 314,
        "memfd_create": 319,
        "bpf": 321,
        "execveat": 322,
        "userfaultfd": 323,
    },
    "aarch64": {
        "ioprio_set": 30,
        "mount": 40,
        "unshare": 97,
        "ptrace": 117,
        "sched_setparam": 118,
        "sched_setscheduler": 119,
        "setpriority": 140,
        "msgget": 186,
        "semget": 190,
        "shmget": 194,
        "socket": 198,
        "socketpair": 199,
        "connect": 203,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "execve": 221,
        "migrate_pages": 238,
        "move_pages": 239,
        "perf_event_open": 241,
        "setns": 268,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "kcmp": 272,
        "sched_setattr": 274,
        "memfd_create": 279,
        "bpf": 280,
        "execveat": 281,
        "userfaultfd": 282,
    },
}
_REFUSED_ON_BOTH = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "memfd_secret": 447,
}
_CLONE3 = 435
# Of this process alone: its number is 0.
_OF_ITSELF = {
    "x86_64": {"sched_setaffinity": 203, "prlimit64": 302},
    "aarch64": {"sched_setaffinity": 122, "prlimit64": 261},
}
_CLONE = {"x86_64": 56, "aarch64": 220}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def filter_system_calls() -> bool:
    """Refuse these calls to this process, in all its threads and for good; return whether it is so.

    Refused calls fail with EPERM. New threads are allowed, new processes are not.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _REFUSED:
        return False
    program = _program(machine)
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and where they are.
    filters = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return bool(libc.syscall(_SECCOMP[machine], _FILTER, _ALL_THREADS, filters) == 0)


def _program(machine: str) -> bytes:
    """Return the filter as instructions of 8 bytes; jumps count from the next instruction."""
    refuse, unknown = _FAIL | errno.EPERM, _FAIL | errno.ENOSYS
    lines = [
        _line(_LOAD, _ARCHITECTURE),
        _line(_EQUAL, _AUDIT[machine], 1, 0),
        _line(_RETURN, refuse),
        _line(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        lines += [_line(_AT_LEAST, _OTHER_ABI, 0, 1), _line(_RETURN, refuse)]
    for number in sorted({*_REFUSED[machine].values(), *_REFUSED_ON_BOTH.values()}):
        lines += [_line(_EQUAL, number, 0, 1), _line(_RETURN, refuse)]
    # The C library then calls clone, whose flags a filter can see.
    lines += [_line(_EQUAL, _CLONE3, 0, 1), _line(_RETURN, unknown)]
    lines += [
        _line(_EQUAL, _CLONE[machine], 0, 4),
        _line(_LOAD, _FIRST_LOW),
        _line(_BITS, _CLONE_THREAD, 1, 0),
        _line(_RETURN, refuse),
        _line(_RETURN, _ALLOW),
    ]
    for number in _OF_ITSELF[machine].values():
        lines += [
            _line(_EQUAL, number, 0, 6),
            _line(_LOAD, _FIRST_LOW),
            _line(_EQUAL, 0, 0, 3),
            _line(_LOAD, _FIRST_HIGH),
            _line(_EQUAL, 0, 0, 1),
            _line(_RETURN, _ALLOW),
            _line(_RETURN, refuse),
        ]
    return b"".join([*lines, _line(_RETURN, _ALLOW)])


def _line(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_so, if_not, value)
