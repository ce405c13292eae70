"""Data sets of plugins that are not trusted: a process reads them, and hands over the arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from robustbench_dyn.datasets.dataset import Availability, DatasetInfo, RawSplit, Rows, Split
from robustbench_dyn.errors import InputError, IntegrityError, RegistryError
from robustbench_dyn.plugins import SERVICE, Entry, FactsOfThing, Plugin, stand_ins, start_process

# To read a large data set takes the time of so many calls.
_TO_READ = 10


class FactsOfDataset(FactsOfThing):
    """What a process says of a data set; see DatasetInfo."""

    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    sizes: dict[Split, int]
    availability: dict[Split, Availability]
    source: str
    licence: str
    read_in_part: bool = False


def of_foreign_plugin(plugin: Plugin) -> Iterator[Entry]:
    """Yield an Entry for each data set of an untrusted plugin."""
    return stand_ins(plugin, "datasets", FactsOfDataset, _make)


def facts_of(info: DatasetInfo) -> dict[str, Any]:
    """Return what a stand-in must know of a data set, as JSON can say it."""
    names = FactsOfDataset.model_fields.keys() - {"read_in_part"}
    return {name: getattr(info, name) for name in names} | {
        "read_in_part": info.load_rows is not None
    }


def _make(plugin: Plugin, facts: FactsOfDataset) -> DatasetInfo:
    names = FactsOfDataset.model_fields.keys() - {"read_in_part"}
    known = {name: getattr(facts, name) for name in names}
    load_rows = partial(_load_rows, plugin, facts.name) if facts.read_in_part else None
    try:
        info = DatasetInfo(
            **known, load_raw=partial(_load_raw, plugin, facts.name), load_rows=load_rows
        )
    except InputError as error:
        raise RegistryError(str(error)) from error
    if info.is_unregistered:
        raise RegistryError(f"{info.name!r} is a name of unregistered files; give it name=")
    return info


def _load_raw(plugin: Plugin, name: str, split: Split, data_dir: Path | None) -> RawSplit:
    """Have a process read a split; it may read data_dir, and no other folder of the user's."""
    return _asked(plugin, name, split, None, data_dir)[0]


def _load_rows(plugin: Plugin, name: str, split: Split, rows: range, data_dir: Path | None) -> Rows:
    """Have a process read some examples of a split; see _load_raw."""
    (x, y, white), sha256 = _asked(plugin, name, split, rows, data_dir)
    if not (isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256)):
        raise IntegrityError(f"the process of data set {name!r} returned no hash of its split")
    return Rows(x, y, white, sha256)


def _asked(
    plugin: Plugin, name: str, split: Split, rows: range | None, data_dir: Path | None
) -> tuple[RawSplit, Any]:
    """Return what a process reads, the whole split where rows is None, and its hash if it says."""
    import torch

    from robustbench_dyn.isolation.process import reported

    process = start_process(plugin, *([data_dir.resolve()] if data_dir else []))
    about = {"dataset": name, "split": split, "data_dir": str(data_dir) if data_dir else None}
    part = {} if rows is None else {"rows": [rows.start, rows.stop]}
    try:
        with reported(process.who):
            answer = process.call(f"{SERVICE}:load_raw", about | part, times=_TO_READ)
    finally:
        process.close()
    x, y = answer.tensors.get("x"), answer.tensors.get("y")
    white = answer.content.get("white")
    if not (
        x is not None
        and y is not None
        and (x.is_floating_point() or x.dtype == torch.uint8)
        and x.dtype != torch.bfloat16
        and not (y.is_floating_point() or y.is_complex())
        and isinstance(white, (int, float))
    ):
        raise IntegrityError(f"the process of data set {name!r} returned no images and labels")
    if not 0 < white < float("inf"):
        raise IntegrityError(f"the process of data set {name!r} says that white is {white}")
    return RawSplit(x=x.numpy(), y=y.numpy(), white=white), answer.content.get("sha256")
