"""Export verdicts and certificates as CSV, Parquet or TSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_dyn.errors import InputError
from robustbench_dyn.files import check_writable, replacing, write_text
from robustbench_dyn.results.cells import to_csv_text
from robustbench_dyn.results.verdicts import EXAMPLE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_dyn.results.store import Store
    from robustbench_dyn.smoothing import CertifiedExample

# Columns that describe an evaluation, besides its key.
EVALUATION_COLUMNS = ("model", "dataset", "norm", "seed", "attacks", "certifiers")


def check_export_path(path: Path, suffixes: tuple[str, ...] = (".csv", ".parquet")) -> None:
    """Raise, before anything is computed, where no table can be written to path.

    InputError: the suffix is not allowed, or the folder does not exist; OutputError: the disk
    refuses.
    """
    if path.suffix not in suffixes:
        raise InputError(f"the table {path} must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} of the table does not exist")
    check_writable(path)


def export_store(store: Store, path: Path, *, pending: bool = False) -> int:
    """Write all verdicts, sorted by key, eps and example, to .csv or .parquet; return their number.

    pending: include examples of stopped runs that still wait for an attack or certifier.
    Columns: key, model, dataset, norm, seed, attacks, certifiers, eps, then those of
    Evaluation.examples. Raises InputError and OutputError as check_export_path does.
    """
    return write_tables(_tables(store, pending=pending), path)


def write_tables(tables: Iterable[pd.DataFrame], path: Path) -> int:
    """Write tables with equal columns into one file, as a whole; return the number of rows.

    In a CSV, text that a spreadsheet would take for a formula has an apostrophe in front
    (cells.py). Raises InputError for a path of no table, OutputError where the disk refuses.
    """
    check_export_path(path)
    with replacing(path) as partial:
        write = _write_csv if path.suffix == ".csv" else _write_parquet
        return write(tables, partial)


def write_certificates(certificates: Iterable[CertifiedExample], path: Path) -> None:
    """Write certificates of randomised smoothing as TSV, in the format of the field.

    Columns as in github.com/locuslab/smoothing: idx, label, predict (-1 for an abstention), radius
    (L2, rounded down), correct and time. Raises what check_export_path raises.
    """
    check_export_path(path, (".tsv",))
    lines = ["idx\tlabel\tpredict\tradius\tcorrect\ttime"]
    for example_id, label, prediction, radius, seconds in certificates:
        # Decimal, because printing a float rounds to nearest, which may lie above the radius.
        rounded = Decimal(radius).quantize(Decimal("1e-5"), ROUND_FLOOR)
        lines.append(
            f"{example_id}\t{label}\t{max(prediction, -1)}\t{rounded}\t"
            f"{int(prediction == label)}\t{timedelta(seconds=seconds)}"
        )
    write_text(path, "\n".join(lines) + "\n")


def _write_csv(tables: Iterable[pd.DataFrame], path: Path) -> int:
    written = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        for table in tables:
            cells = table.apply(_as_csv_text)
            cells.to_csv(file, index=False, header=not written, lineterminator="\n")
            written += len(table)
    return written


def _as_csv_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column whose texts no spreadsheet takes for formulas; numbers stay numbers."""
    from pandas.api.types import is_numeric_dtype  # noqa: PLC0415  (slow to import)

    if is_numeric_dtype(column):
        return column
    # A million rows have few different texts.
    texts = {text: _csv_text(text) for text in column.unique() if isinstance(text, str)}
    if all(text == shown for text, shown in texts.items()):
        return column
    return column.map(lambda value: texts.get(value, value))


def _csv_text(text: str) -> str:
    # csv.writer, which pandas calls, leaves a carriage return without quotes.
    return to_csv_text(text.replace("\r\n", "\n").replace("\r", "\n"))


def _write_parquet(tables: Iterable[pd.DataFrame], path: Path) -> int:
    import pyarrow as pa  # noqa: PLC0415  (slow to import)
    from pyarrow import parquet  # noqa: PLC0415

    writer, written = None, 0
    try:
        for table in tables:
            rows = pa.Table.from_pandas(table, preserve_index=False)
            writer = writer or parquet.ParquetWriter(path, rows.schema)
            writer.write_table(rows.cast(writer.schema))
            written += len(table)
    finally:
        if writer is not None:
            writer.close()
    return written


def _tables(store: Store, *, pending: bool) -> Iterator[pd.DataFrame]:
    import pandas as pd  # noqa: PLC0415  (slow to import)

    told = {key: record.columns() for key, record in store.records().items()}
    about = {
        column: {key: _text(columns[column]) for key, columns in told.items()}
        for column in EVALUATION_COLUMNS
    }
    columns = ("key", "eps", *EXAMPLE_COLUMNS)
    # SQLite returns None for NaN; a column of None alone must still have dtype float.
    numbers = dict.fromkeys(("certified_radius", "adversarial_distance", "seconds"), float)
    for rows in store.table(columns, pending=pending):
        table = pd.DataFrame(rows, columns=list(columns)).astype(numbers)
        for position, column in enumerate(EVALUATION_COLUMNS, start=1):
            table.insert(position, column, table["key"].map(about[column]))
        yield table


def _text(value: object) -> object:
    return "+".join(value) or "none" if isinstance(value, list) else value
