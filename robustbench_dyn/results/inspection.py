"""The whole of a store's file: its pages, its rows, and what they refer to."""

from __future__ import annotations

from robustbench_dyn.errors import StoreError
from robustbench_dyn.results.database import Database
from robustbench_dyn.results.layouts import LAYOUTS, Layout
from robustbench_dyn.results.rows import READERS, UNREADABLE, Row


def check(database: Database, *, delete: bool = False) -> list[str]:
    """Return what is wrong with a store, in sentences; none where it is sound.

    Checks all pages, the checksum and the content of every row, and that each row's evaluation is
    there. delete: remove damaged rows without which a run goes on, since it makes them anew.
    """
    problems = list[str]()
    try:
        with database.explained():
            found = database.connection.execute("PRAGMA quick_check").fetchall()
            problems += [f"pages: {' '.join(line.split())}" for (line,) in found if line != "ok"]
            for table, layout in LAYOUTS.items():
                damaged = _damaged_rows(database, layout)
                problems += [f"{table}: the row of {layout.name_of(r)} is damaged" for r in damaged]
                if damaged and delete and layout.expendable:
                    _delete(database, layout, damaged)
                    problems.append(f"{table}: {len(damaged)} damaged rows were deleted")
            lost = database.connection.execute("PRAGMA foreign_key_check").fetchall()
            tables = sorted({row[0] for row in lost})
            problems += [f"{table}: rows whose evaluation is missing" for table in tables]
    except StoreError as error:
        problems.append(str(error))
    return problems


def _damaged_rows(database: Database, layout: Layout) -> list[Row]:
    damaged = list[Row]()
    for *row, checksum in database.connection.execute(layout.select):
        if not layout.is_intact(row, checksum):
            damaged.append(row)
            continue
        try:
            READERS[layout.table](row)
        except UNREADABLE:
            damaged.append(row)
    return damaged


def _delete(database: Database, layout: Layout, rows: list[Row]) -> None:
    condition = " AND ".join(f"{column} IS ?" for column in layout.keys)
    with database.transaction() as connection:
        connection.executemany(
            f"DELETE FROM {layout.table} WHERE {condition}",
            [row[: len(layout.keys)] for row in rows],
        )
