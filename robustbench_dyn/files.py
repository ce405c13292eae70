"""Write files as a whole: a reader finds the old content or the new one, also after a crash."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EISDIR
from pathlib import Path

from robustbench_dyn.errors import OutputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of an empty file in the same folder; at the end it takes the place of path.

    The folder is made where it does not exist. The content is on the disk before the name changes.
    Where the body raises, or the disk is full, path stays as it was and nothing is left behind.
    Raises OutputError where the file cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name that nothing else can know or have made before; the extension stays.
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        partial = Path(name)
        try:
            yield partial
            _give_usual_mode(partial)
            sync(partial)
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 as a whole; raises OutputError where that fails."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file as a whole; raises OutputError where that fails."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def check_writable(path: Path) -> None:
    """Raise OutputError, before anything is computed, where a file could not be written to path.

    Nothing is made: of a folder that does not exist, the nearest one above it is tried.
    """
    with explained(path):
        if path.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        nearest = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise what the operating system refuses as OutputError, with what the user can do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(
            f"{path} cannot be written: {reason}; free space, make the folder writable, or give "
            "another place"
        ) from error


def _give_usual_mode(path: Path) -> None:
    """Give a file the mode that open() would have given it; mkstemp makes it private."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
