"""Evidence in Parquet: the verdicts of all rows of one table, compressed, and their headers."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robustbench_dyn.errors import DynbenchError, InputError
from robustbench_dyn.files import replacing
from robustbench_dyn.results.evidence import Evidence, read_header
from robustbench_dyn.results.rows import UNREADABLE, row_of, verdict_of

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

# The verdicts' columns in a store, less the key and the next stage, which is empty.
COLUMNS: Final = (
    "eps",
    "example_id",
    "label",
    "prediction",
    "status",
    "certified_radius",
    "certifier",
    "adversarial_distance",
    "attack",
    "forward_passes",
    "backward_passes",
    "seconds",
    "reason",
    "x_adv",
    "trail",
)
_HEADERS: Final = b"robustbench_dyn.evidence"
# A file that unpacks to more than this is no work of this package.
_MOST_ROWS, _MOST_BYTES = 5_000_000, 2**30
# So few that those of a hostile file fit in memory, whatever it says of itself.
_ROWS_AT_A_TIME = 4096


def write_evidence(path: Path, evidence: Sequence[Evidence]) -> None:
    """Write the evidence of the rows of one table; raises OutputError where the disk refuses."""
    import pyarrow as pa  # noqa: PLC0415  (slow to import)
    from pyarrow import parquet  # noqa: PLC0415

    schema = _schema()
    values: dict[str, list[Any]] = {name: [] for name in schema.names}
    headers = {one.sha256: one.header() for one in evidence}
    for one in evidence:
        for verdict in one.verdicts:
            _, *row, x_adv, _, trail = row_of("", verdict)
            for name, value in zip(COLUMNS, (*row, x_adv, trail), strict=True):
                values[name].append(value)
            values["evidence"].append(one.sha256)
    table = pa.Table.from_pydict(values, schema=schema)
    table = table.replace_schema_metadata({_HEADERS: json.dumps(headers).encode()})
    with replacing(path) as partial:
        parquet.write_table(table, partial, compression="zstd", compression_level=12)


def read_evidence(path: Path, *, only: Collection[str] | None = None) -> dict[str, Evidence]:
    """Return the evidence in a file, by the SHA-256 of what was read.

    only: the hashes, as written, of what is wanted; by default all. Raises InputError where the
    file cannot be read or is not of evidence.
    """
    try:
        return {one.sha256: one for one in _read(path, only)}
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).split())
        raise InputError(f"{path} cannot be read: {reason}") from error


def _read(path: Path, only: Collection[str] | None) -> Iterator[Evidence]:
    import pyarrow as pa  # noqa: PLC0415  (slow to import)
    from pyarrow import parquet  # noqa: PLC0415

    try:
        with parquet.ParquetFile(path) as file:
            metadata = file.schema_arrow.metadata or {}
            if _HEADERS not in metadata:
                raise InputError("it does not say what its verdicts are of")
            headers = json.loads(metadata[_HEADERS])
            if only is not None:
                headers = {name: header for name, header in headers.items() if name in only}
            for name, group in groupby(_rows(file, only), key=itemgetter(0)):
                verdicts = tuple(verdict_of(("", *row[1:-1], "", row[-1])) for row in group)
                yield Evidence(**read_header(headers.pop(name)), verdicts=verdicts)
            if headers:
                raise InputError(f"it lacks the verdicts of {len(headers)} of its rows")
    except (pa.ArrowException, *UNREADABLE, DynbenchError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} is no evidence that dynbench leaderboard wrote: {reason:.200}"
        ) from error


def _rows(file: parquet.ParquetFile, only: Collection[str] | None) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a file, of some evidence only, if said so.

    Raises InputError where they unpack to too much.
    """
    import pyarrow as pa  # noqa: PLC0415  (slow to import)
    import pyarrow.compute as pc  # noqa: PLC0415

    if (rows := file.metadata.num_rows) > _MOST_ROWS:
        raise InputError(f"it has {rows:,} verdicts, and at most {_MOST_ROWS:,} are read")
    schema, size = _schema(), 0
    for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME):
        size += batch.nbytes
        if size > _MOST_BYTES:
            raise InputError(f"it unpacks to more than the {_MOST_BYTES:,} bytes that are read")
        part = batch.select(schema.names).cast(schema)
        if only is not None:
            names = part["evidence"].cast(pa.string())
            part = part.filter(pc.is_in(names, value_set=pa.array(sorted(only), pa.string())))
        yield from zip(*(_values_of(column) for column in part.columns), strict=True)


def _values_of(column: pa.Array) -> list[Any]:
    """Return `column.to_pylist()`, faster where it holds numbers or repeated texts."""
    import pyarrow as pa  # noqa: PLC0415  (slow to import)

    if column.null_count or pa.types.is_binary(column.type):
        return list(column.to_pylist())
    if pa.types.is_dictionary(column.type):
        texts = column.dictionary.to_pylist()
        return [texts[index] for index in column.indices.to_numpy()]
    return list(column.to_numpy().tolist())


def _schema() -> pa.Schema:
    import pyarrow as pa  # noqa: PLC0415  (slow to import)

    text = pa.dictionary(pa.int32(), pa.string())
    kinds = {
        "evidence": text,
        "example_id": pa.int64(),
        "label": pa.int64(),
        "prediction": pa.int64(),
        "status": text,
        "certifier": text,
        "attack": text,
        "forward_passes": pa.int64(),
        "backward_passes": pa.int64(),
        "reason": text,
        "x_adv": pa.binary(),
        "trail": text,
    }
    return pa.schema(
        [
            pa.field(name, kinds.get(name, pa.float64()), nullable=name == "x_adv")
            for name in ("evidence", *COLUMNS)
        ]
    )
