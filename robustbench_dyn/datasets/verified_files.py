"""Published files on this machine: found by name, read within limits, checked by SHA-256."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from robustbench_dyn.datasets.published import PublishedFile
from robustbench_dyn.errors import IntegrityError

REMEDY = "delete it, or name another folder"
LATER = "try again later, or give a folder that holds the data"

# A FIFO without a writer would let open() wait for ever.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
# Of the content; deflate adds 5 bytes a block of 64 KiB to what it cannot shrink.
_MOST_GZIP_OVERHEAD = 1 / 1000
_GZIP_HEADER = 4096
_GZIP_CONTAINER = 16 + zlib.MAX_WBITS


def find_together(
    files: Iterable[PublishedFile], folders: Iterable[Path], *, suffixes: tuple[str, ...]
) -> list[Path] | None:
    """Return the paths of the files in the first folder that has all of them, else None.

    suffixes: what may follow a file's name, first choice first. A name counts whatever it stands
    for: reading it tells what is wrong with it.
    """
    for folder in folders:
        found = [
            next((path for path in paths if os.path.lexists(path)), None)
            for paths in ([folder / f"{file.name}{end}" for end in suffixes] for file in files)
        ]
        present = [path for path in found if path is not None]
        if found and len(present) == len(found):
            return present
    return None


def read_verified(path: Path, file: PublishedFile, *, remedy: str = REMEDY) -> bytes:
    """Return the content of a file, uncompressed if its name ends in .gz.

    Raises IntegrityError where it is no regular file, or its content is not the published one.
    """
    if path.suffix == ".gz":
        compressed = _read(path, most_bytes=most_packed_bytes(file), remedy=remedy)
        return gunzip_verified(compressed, file, origin=str(path), remedy=remedy)
    content = _read(path, most_bytes=file.n_bytes, remedy=remedy)
    check_content(io.BytesIO(content), file, origin=str(path), remedy=remedy)
    return content


def most_packed_bytes(file: PublishedFile) -> int:
    """Bound the length of a .gz file with the published content."""
    return file.n_bytes + int(file.n_bytes * _MOST_GZIP_OVERHEAD) + _GZIP_HEADER


def gunzip_verified(compressed: bytes, file: PublishedFile, *, origin: str, remedy: str) -> bytes:
    """Decompress a .gz file of a published file.

    Stops soon after the published length, so that no file can fill the memory. origin is the file's
    name or address, for the message.
    Raises IntegrityError where it is no gzip, is truncated or damaged, or holds another content.
    """
    stream = zlib.decompressobj(wbits=_GZIP_CONTAINER)
    try:
        content = stream.decompress(compressed, file.n_bytes + 1)
    except zlib.error as error:
        raise IntegrityError(
            f"{origin} is not an intact gzip file ({error}), expected {file.n_bytes} bytes of "
            f"content; {remedy}"
        ) from error
    if len(content) > file.n_bytes:
        raise IntegrityError(
            f"{origin} holds more than the expected {file.n_bytes} bytes; it is another file: "
            f"{remedy}"
        )
    if not stream.eof:
        raise IntegrityError(
            f"{origin} ends early, after {len(content)} of the expected {file.n_bytes} bytes; the "
            f"file is truncated: {remedy}"
        )
    check_content(io.BytesIO(content), file, origin=origin, remedy=remedy)
    return content


def check_content(
    stream: io.BytesIO | IO[bytes], file: PublishedFile, *, origin: str, remedy: str
) -> None:
    """Raise IntegrityError unless the stream, read from its start, holds the published content."""
    n_bytes = stream.seek(0, os.SEEK_END)
    if file.is_exact and n_bytes != file.n_bytes:
        raise IntegrityError(
            f"the content of {origin} has {n_bytes} bytes, expected {file.n_bytes}; it is "
            f"truncated or another file: {remedy}"
        )
    stream.seek(0)
    found = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    if found != file.sha256:
        raise IntegrityError(
            f"the content of {origin} has SHA-256 {found}, expected {file.sha256}; it is damaged "
            f"or another data set with the same file names: {remedy}"
        )


def _read(path: Path, *, most_bytes: int, remedy: str) -> bytes:
    """Read a regular file of at most most_bytes; raises IntegrityError for anything else."""
    try:
        handle = os.open(path, _OPEN_FLAGS)
        try:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                raise IntegrityError(
                    f"{path} is {_kind_of(mode)}, expected a regular file; {remedy}"
                )
            with os.fdopen(handle, "rb", closefd=False) as stream:
                content = stream.read(most_bytes + 1)
        finally:
            os.close(handle)
    except OSError as error:
        raise IntegrityError(
            f"{path} cannot be read ({error.strerror}), expected a regular file; {remedy}"
        ) from error
    if len(content) > most_bytes:
        raise IntegrityError(
            f"{path} has more than {most_bytes} bytes, expected at most that; it is another file: "
            f"{remedy}"
        )
    return content


def _kind_of(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for test, name in kinds if test(mode)), "no file")
