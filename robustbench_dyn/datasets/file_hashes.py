"""SHA-256 of files, remembered in the user's cache while a file's size and times stay the same."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from robustbench_dyn.datasets.search_path import cache_folder
from robustbench_dyn.errors import IntegrityError, OutputError
from robustbench_dyn.files import write_text

# A file written this short a time before it was hashed could be written again within one tick of
# the clock that dates it, so its hash is not remembered.
_SETTLED_NANOSECONDS = 2_000_000_000


def hash_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the SHA-256 of each file, hex digits; names are paths below the folder.

    A file is read once, and again when its size, its inode or one of its times differs.
    Raises IntegrityError where a file cannot be read.
    """
    memory = cache_folder() / "hashes" / f"{_digest(str(folder.resolve()).encode())[:32]}.json"
    known = _recall(memory)
    found, new = list[str](), False
    for name in names:
        path = folder / name
        with reading(path):
            if not path.is_file():
                raise OSError("it is no file")
            state = _state(path.stat())
            entry = known.get(name)
            if isinstance(entry, list) and entry[:-1] == state:
                found.append(str(entry[-1]))
                continue
            sha256, settled = _hash(path)
        found.append(sha256)
        if settled:
            known[name], new = [*state, sha256], True
    if new:
        # A cache that cannot be written costs time, and nothing else.
        with suppress(OutputError):
            write_text(memory, json.dumps(known))
    return found


def hash_file(path: Path) -> str:
    """Return the SHA-256 of one file; see hash_files."""
    (sha256,) = hash_files(path.parent, [path.name])
    return sha256


def _hash(path: Path) -> tuple[str, bool]:
    """Return the SHA-256 of a file, and whether it can be remembered."""
    with path.open("rb") as stream:
        before = os.fstat(stream.fileno())
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        after = os.fstat(stream.fileno())
    written = max(before.st_mtime_ns, before.st_ctime_ns)
    settled = time.time_ns() - written > _SETTLED_NANOSECONDS
    return sha256, settled and _state(before) == _state(after)


def _state(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _recall(memory: Path) -> dict[str, Any]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise what the operating system refuses while a file is read as IntegrityError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise IntegrityError(
            f"{path} cannot be read ({reason}); make it readable, or take it out"
        ) from error
