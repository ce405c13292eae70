"""Small sweeps of the digits, an engine without workers, and all that a store holds of them."""

import json
import sqlite3

import torch

from robustbench_dyn.sweeps.engines import Event
from robustbench_dyn.sweeps.shards import try_shard
from robustbench_dyn.sweeps.sweep_file import Sweep

SMALL = {
    "models": ["linear"],
    "datasets": ["digits"],
    "n_examples": 24,
    "seeds": [0],
    "threat_models": [{"norm": "L2", "eps": [0.3, 0.6]}, {"norm": "Linf", "eps": ["8/255"]}],
    "attacks": "pgd,apgd-ce",
    "batch_size": 6,
    "examples_per_shard": 12,
}

SMOOTHED = {"name": "linear", "smoothing": {"sigma": 0.25, "n0": 20, "n": 100}}
WITH_SMOOTHED = {
    "models": [SMOOTHED, "linear"],
    "threat_models": [{"norm": "L2", "eps": [0.1, 0.3]}],
    "n_examples": 16,
    "examples_per_shard": 8,
    "attacks": "pgd",
    "batch_size": 50,
}


def content(**changes):
    return Sweep.model_validate(SMALL | changes)


def in_this_process(shards, store, _workers):
    """Run one shard after another; an engine that spares the start of workers."""
    threads = torch.get_num_threads()
    try:
        for shard in shards:
            yield Event(shard, "started")
            yield Event(shard, *try_shard(shard, store))
    finally:
        torch.set_num_threads(threads)


def dump(path):
    """Return everything that a store holds, but for times."""
    with sqlite3.connect(path) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(verdicts)")]
        # A checksum is of the seconds, too.
        kept = ", ".join(column for column in columns if column not in ("seconds", "checksum"))
        verdicts = connection.execute(f"SELECT {kept} FROM verdicts ORDER BY 1, 2, 3").fetchall()
        records = connection.execute("SELECT * FROM evaluations ORDER BY key").fetchall()
        runs = connection.execute("SELECT * FROM runs ORDER BY 1, 2, 3, 4").fetchall()
    connection.close()
    rows = [timeless(json.loads(run[4])) for run in runs]
    return verdicts, records, [run[:4] for run in runs], rows


def timeless(row):
    return {k: v for k, v in row.items() if k not in ("seconds", "evaluated_at")}


def votes(path):
    with sqlite3.connect(path) as connection:
        rows = connection.execute(
            "SELECT example_id, stage, draws, counts FROM votes ORDER BY 1, 2"
        ).fetchall()
    connection.close()
    return rows
