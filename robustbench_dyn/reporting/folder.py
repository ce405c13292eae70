"""A folder of tables replaced as a whole: a kill leaves all old files or all new ones.

The new folder is made beside the old one, as .FOLDER.dynbench-new, with hard links to the files
that do not change. Then the two swap names in one step (renameat2 with RENAME_EXCHANGE), and the
old one is deleted. Where the system has no such step, the old folder is renamed to
.FOLDER.dynbench-old and the new one takes its name. A kill between these two renames leaves no
FOLDER: settled() then finds the old tables, and the next replacing_folder() puts them back first.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from robustbench_dyn.errors import InputError
from robustbench_dyn.files import explained, sync

# Notes that may lie among tables. A program that has another file open, a store for instance, would
# go on with a file in a folder that is deleted.
_CARRIED = (".csv", ".parquet", ".md", ".tex", ".txt", ".json", ".yaml", ".yml")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def settled(folder: Path) -> Path:
    """Return where the files of a folder are, also after a kill between two renames."""
    old = _beside(place_of(folder), "old")
    return old if old.is_dir() and not folder.exists() else folder


def place_of(folder: Path) -> Path:
    """Return the absolute path of a folder behind symbolic links, also where these form a loop."""
    # Path.resolve raises RuntimeError for a loop.
    return Path(os.path.realpath(folder))


def check_replaceable(folder: Path, *, marker: str = "") -> None:
    """Raise InputError where replacing_folder would refuse the folder."""
    place = place_of(folder)
    _check_replaceable(place, folder)
    _check_content(place, folder, marker)


@contextmanager
def replacing_folder(folder: Path, *, marker: str = "") -> Iterator[Path]:
    """Yield a new folder with the files of `folder`; at the end it takes the place of `folder`.

    Files in it must be replaced or deleted, not changed: they are hard links to the old ones.
    marker: the name of a file that lists all other files of the folder, a line each, and that the
    body writes. With one, the new folder begins empty, and an old one that holds any other file is
    refused.
    Where the body raises, `folder` stays as it was. One process at a time: others wait. Raises
    InputError for a folder that cannot be replaced, OutputError where the disk refuses.
    """
    place = place_of(folder)
    _check_replaceable(place, folder)
    with explained(folder):
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place.parent):
            _recover(place)
            _check_content(place, folder, marker)
            new = _beside(place, "new")
            new.mkdir()
            try:
                if place.exists() and not marker:
                    _link_files(place, new)
                yield new
                sync(new)
                _take_place(new, place)
            finally:
                shutil.rmtree(new, ignore_errors=True)
            sync(place.parent)


def _beside(place: Path, what: str) -> Path:
    return place.parent / f".{place.name}.dynbench-{what}"


def _check_replaceable(place: Path, folder: Path) -> None:
    """Raise InputError for what is no folder, or cannot be renamed."""
    for parent in (place, *place.parents):
        if parent.exists():
            if not parent.is_dir():
                raise InputError(f"{parent} is a file; give a folder")
            break
    here = Path.cwd()
    if place == here or place in here.parents or os.path.ismount(place):
        kind = "a mount point" if os.path.ismount(place) else "the current folder, or holds it"
        raise InputError(
            f"{folder} is {kind}, so that its files cannot be replaced all at once; give a folder "
            f"of their own, such as {folder / 'leaderboards'}"
        )


def _check_content(place: Path, folder: Path, marker: str) -> None:
    """Raise InputError where something that is not ours would move with the folder."""
    if not place.exists():
        return
    if marker:
        _check_listed(place, folder, marker)
        return
    for entry in sorted(place.iterdir()):
        is_note = entry.suffix in _CARRIED or entry.name.startswith(".")
        if not (entry.is_symlink() or (entry.is_file() and is_note)):
            raise InputError(
                f"{folder} holds {entry.name}, and the tables are written as a folder that is "
                f"replaced as a whole; give a folder of their own, such as "
                f"{folder / 'leaderboards'}"
            )


def _check_listed(place: Path, folder: Path, marker: str) -> None:
    """Raise InputError where a folder holds a file that its marker does not list."""
    listed = {marker}
    if (place / marker).is_file():
        listed.update((place / marker).read_text(encoding="utf-8", errors="replace").splitlines())
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if name not in listed and (path.is_symlink() or not path.is_dir()):
            raise InputError(
                f"{folder} holds {name}, which is no file of a page that dynbench wrote; give a "
                "folder that is new or empty"
            )


def _recover(place: Path) -> None:
    """Finish or undo what a kill has left, under the lock."""
    old = _beside(place, "old")
    if old.is_dir() and not place.exists():
        old.rename(place)
    for left in (old, _beside(place, "new")):
        if left.is_symlink() or left.is_file():
            left.unlink()
        elif left.exists():
            shutil.rmtree(left)


def _link_files(source: Path, target: Path) -> None:
    shutil.copystat(source, target)
    for entry in source.iterdir():
        try:
            os.link(entry, target / entry.name, follow_symlinks=False)
        except OSError:  # a file system without hard links
            shutil.copy2(entry, target / entry.name, follow_symlinks=False)


def _take_place(new: Path, place: Path) -> None:
    if not place.exists():
        new.rename(place)
        return
    if _exchange(new, place):
        return
    old = _beside(place, "old")
    place.rename(old)
    try:
        new.rename(place)
    except OSError:
        old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    renameat2.argtypes = (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_uint,
    )
    paths = os.fsencode(one), os.fsencode(other)
    return bool(renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, where the system has locks of folders."""
    try:
        import fcntl  # noqa: PLC0415  (not on Windows)

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, PermissionError):
        yield
        return
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
