"""The SQLite file of a store: opened, written in transactions, read with its checksums checked."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from robustbench_dyn.errors import StoreError
from robustbench_dyn.results.layouts import LAYOUTS
from robustbench_dyn.results.schema import SCHEMA_VERSION, upgrade

# Tables that are small, and whose lost rows no run would miss: all of them is checked at the first
# read. Verdicts and votes that are lost are computed again.
_SMALL = frozenset({"evaluations", "runs", "violations", "costs", "flags", "signs"})
_NOT_WRITABLE = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")


class Database:
    """One SQLite file with the tables of a store; path None keeps them in memory.

    Raises StoreError where the file cannot be opened, read or written, or is no store.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None
        self._size = 0
        self._checked = False
        with self.explained():
            _check_name(path)
            # timeout: another process may be writing
            self.connection = sqlite3.connect(path or ":memory:", timeout=60)
            try:
                # A page whose cells overlap is refused when it is read.
                self.connection.execute("PRAGMA cell_size_check = ON")
                self._prepare()
                self._remember()
            except BaseException:
                self.connection.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def version(self) -> int:
        """Return the version of the schema that the file has."""
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        return int(version)

    def rows(
        self, table: str, condition: str = "", values: Sequence[object] = ()
    ) -> Iterator[tuple[Any, ...]]:
        """Yield rows of a table, without their checksums.

        condition: what follows FROM, with `values` for its question marks. Raises StoreError where
        a row is not what was written.
        """
        layout = LAYOUTS[table]
        with self.explained():
            if not self._checked:
                self._check_small_tables()
            for *row, checksum in self.connection.execute(f"{layout.select} {condition}", values):
                if not layout.is_intact(row, checksum):
                    raise self.damaged(table, row)
                yield tuple(row)

    def _check_small_tables(self) -> None:
        """Read all small tables, and one row of the others; pages may have changed places."""
        self._checked = True
        for table in LAYOUTS:
            if table in _SMALL:
                self.check_pages(table)
            for _ in self.rows(table, "" if table in _SMALL else "LIMIT 1"):
                pass

    def check_pages(self, table: str) -> None:
        """Raise StoreError where the pages of a table are damaged, so that rows may be missing."""
        with self.explained():
            (found,) = self.connection.execute(f"PRAGMA quick_check({table})").fetchone()
        if found != "ok":
            raise StoreError(
                f"the store {self.path} is damaged in its table {table}: {' '.join(found.split())}"
                "; use a copy of it, or give another --store file"
            )

    def damaged(self, table: str, row: Sequence[Any]) -> StoreError:
        """Return the error for a row that is not what was written."""
        layout = LAYOUTS[table]
        way_out = (
            f"dynbench store check {self.path} --delete removes such rows, and the next run makes "
            "them anew"
            if layout.expendable
            else "use a copy of the store, or give another --store file"
        )
        return StoreError(
            f"the store {self.path or '(in memory)'} is damaged: in its table {table}, the row of "
            f"{layout.name_of(row)} is not what was written; {way_out}"
        )

    def write(
        self, table: str, rows: Iterable[Sequence[Any]], *, conflict: str = "", verb: str = "INSERT"
    ) -> None:
        """Write rows with their checksums, inside an open transaction.

        verb: INSERT, or INSERT OR REPLACE and the like; conflict: an ON CONFLICT clause.
        """
        layout = LAYOUTS[table]
        query = f"{verb} {layout.insert} {conflict}"
        self.connection.executemany(query, map(layout.signed, rows))

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write in one transaction, after other writers."""
        with self.explained():
            if lost := self._lost():
                raise StoreError(self._explanation(lost, lost))
            try:
                # IMMEDIATE: a process that reads here and then writes has waited for its turn.
                self.connection.execute("BEGIN IMMEDIATE")
                yield self.connection
                size = self._pages_size()
                self.connection.commit()
            except BaseException:
                # Where Ctrl-C came before the caller's block began, this runs when the transaction
                # is collected, which may be after the file was closed: nothing was written then.
                with suppress(sqlite3.ProgrammingError):
                    self.connection.rollback()
                raise
            self._size = size

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise what SQLite raises as StoreError, with what the user can do."""
        try:
            yield
        except UnicodeDecodeError as error:
            # Python reads SQLite's messages as UTF-8; those about damaged names are none.
            raise StoreError(self._explanation(error.reason, "", "SQLITE_CORRUPT")) from error
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "") or ""
            raise StoreError(self._explanation(str(error), self._lost(), name)) from error

    def _explanation(self, what: str, lost: str, name: str = "") -> str:
        place = f"the store {self.path or '(in memory)'}"
        if lost:
            return (
                f"{place} failed: {lost} while it was in use, so that what was written before may "
                "be lost; leave the file alone, and the same command starts again what is missing"
            )
        if name.startswith(_DAMAGED):
            return (
                f"{place} failed: {what}; it is damaged or no store. Use a copy of it, or give "
                "another --store file"
            )
        if name.startswith(_NOT_WRITABLE):
            return (
                f"{place} failed: {what}; what was written before is kept. Make the file and its "
                "folder readable, and writable where there is something new to write, or give "
                "another --store file"
            )
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
            return (
                f"{place} failed: {what}; what was written before is kept. Another process writes "
                "it, or its file system has no locks: wait, or give another --store file"
            )
        return (
            f"{place} failed: {what}; what was written before is kept. Free space, make the file "
            "writable, or give another --store file"
        )

    def _prepare(self) -> None:
        if self.version() == SCHEMA_VERSION:
            return
        with self.transaction() as connection:
            # Asked again: another process may have prepared the file in the meantime.
            version = self.version()
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if not 0 <= version <= SCHEMA_VERSION or (version == 0 and tables):
                raise StoreError(
                    f"{self.path} is no store of this version (it has schema {version}, this is "
                    f"{SCHEMA_VERSION}); give another --store file or update robustbench-dyn"
                )
            upgrade(connection, version)

    def _remember(self) -> None:
        """Note which file this is and how large, to notice when it is not it any more."""
        self._size = self._pages_size()
        if self.path is not None:
            with suppress(OSError):
                status = self.path.stat()
                self._identity = status.st_dev, status.st_ino

    def _pages_size(self) -> int:
        """Return the size of all that was written; the file may be larger, and not smaller."""
        (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
        (size,) = self.connection.execute("PRAGMA page_size").fetchone()
        return int(pages) * int(size)

    def _lost(self) -> str:
        """Say what has happened to the file since it was opened, if anything."""
        if self.path is None or self._identity is None:
            return ""
        try:
            status = self.path.stat()
        except OSError as error:
            return "" if isinstance(error, PermissionError) else "the file was moved or deleted"
        if self._identity != (status.st_dev, status.st_ino):
            return "another file took its place"
        return "the file was truncated" if status.st_size < self._size else ""


def _check_name(path: Path | None) -> None:
    """Raise StoreError for a path that cannot be a store's."""
    if path is None:
        return
    try:
        if "\0" in str(path):
            raise ValueError("it has a null character")
        if path.is_dir():
            raise StoreError(f"the store {path} is a folder; give a file")
        if not path.parent.is_dir():
            raise StoreError(f"the folder {path.parent} of the store does not exist")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StoreError(f"no store can be called {path}: {reason}; give another name") from error
