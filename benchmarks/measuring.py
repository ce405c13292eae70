"""Timing of commands and CSV files of results, for all benchmarks."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Describe the processor, the threads in use and the version of torch."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), model)
    threads = torch.get_num_threads()
    return f"{model}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}"


def seconds_of(command: Sequence[str], **options: Any) -> float:
    """Run `dynbench` as a process and return its wall-clock seconds; options: of subprocess.run."""
    dynbench = Path(sys.executable).with_name("dynbench")
    started = time.perf_counter()
    subprocess.run([dynbench, *command], check=True, capture_output=True, **options)
    return time.perf_counter() - started


def joined(table: pd.DataFrame, rows: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    """Return the table with `rows` in place of its rows with the same keys."""
    if table.empty:
        return rows
    new = pd.MultiIndex.from_frame(rows[list(key)])
    kept = table[~pd.MultiIndex.from_frame(table[list(key)]).isin(new)]
    return pd.concat([kept, rows], ignore_index=True) if len(kept) else rows


def add(
    path: Path, rows: pd.DataFrame, key: Sequence[str], *, order: Sequence[str] = ()
) -> pd.DataFrame:
    """Put rows into a CSV file, in place of its rows with the same keys; return all of it.

    order: the columns to sort the file by; by default new rows stand last.
    """
    table = pd.DataFrame()
    if path.is_file():
        # A text may be empty or "None".
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
        table[list(key)] = table[list(key)].astype(object).fillna("")
    table = joined(table, rows, key)
    if order:
        table = table.sort_values(list(order), kind="stable")
    table.to_csv(path, index=False, lineterminator="\n")
    return table


def write(name: str, rows: list[dict[str, Any]], *, key: Sequence[str] = ()) -> None:
    """Write results/NAME.csv and print what was measured.

    key: rows of the file with other keys stay, with the machine that they name; by default none.
    """
    RESULTS.mkdir(exist_ok=True)
    table = pd.DataFrame(rows).assign(machine=machine())
    path = RESULTS / f"{name}.csv"
    if key:
        add(path, table, key)
    else:
        table.to_csv(path, index=False, lineterminator="\n")
    print(table.drop(columns="machine").to_string(index=False))
    print(f"{machine()}\nwritten to {path}")
