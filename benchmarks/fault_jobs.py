"""Small runs of dynbench for benchmarks/faults.py, and what is on the disk after each of them."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Hashable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

DYNBENCH = (sys.executable, "-c", "from robustbench_dyn.cli import main; main()")
STORE, WEIGHTS, TABLES, TABLE = "verdicts.sqlite", "weights.safetensors", "tables", "verdicts.csv"
# A verdict, without what it cost: a batch that is repeated costs twice.
FACTS = (
    "label",
    "prediction",
    "status",
    "certified_radius",
    "certifier",
    "adversarial_distance",
    "attack",
    "reason",
    "trail",
    "x_adv",
)


@dataclass
class Found:
    """What is on the disk.

    entries: final verdicts, or the SHA-256 of files. waiting: verdicts that wait for a stage, as a
    certified one does that an audit has chosen. corrupt: files that cannot be read.
    leftovers: temporary files.
    """

    entries: dict[Hashable, Hashable] = field(default_factory=dict)
    waiting: set[Hashable] = field(default_factory=set)
    corrupt: list[str] = field(default_factory=list)
    leftovers: int = 0


@dataclass(frozen=True)
class Job:
    """A command of dynbench.

    prepare: writes into the folder, in which the command runs, what it needs. find: reads what the
    command left. progress: a cheap value that changes as soon as results are written, None while
    it is unknown. output: its largest file. replaces: whether it writes whole files anew, so that
    one has the old or the new content. program: the command without its arguments.
    """

    name: str
    arguments: tuple[str, ...]
    prepare: Callable[[Path], None]
    find: Callable[[Path], Found]
    progress: Callable[[Path], Hashable]
    output: str
    replaces: bool = False
    program: tuple[str, ...] = DYNBENCH


def find_verdicts(folder: Path) -> Found:
    """Read the final verdicts of a store, and have SQLite check the file."""
    found = Found(leftovers=_count_temporary(folder))
    path = folder / STORE
    if not path.exists():
        return found
    try:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            check = connection.execute("PRAGMA integrity_check").fetchall()
            if check != [("ok",)]:
                found.corrupt.append(f"{path}: {check[:3]}")
            columns = [row[1] for row in connection.execute("PRAGMA table_info(verdicts)")]
            facts = [name for name in FACTS if name in columns]
            if facts:
                query = f"SELECT key, eps, example_id, {', '.join(facts)} FROM verdicts"
                if "next_stage" in columns:
                    waiting = query + " WHERE next_stage <> ''"
                    found.waiting = {row[:3] for row in connection.execute(waiting)}
                    query += " WHERE next_stage = ''"
                found.entries = {row[:3]: row[3:] for row in connection.execute(query)}
    except sqlite3.DatabaseError as error:
        found.corrupt.append(f"{path}: {error}")
    return found


def find_weights(folder: Path) -> Found:
    """Read the checksum of the weights, and load the checkpoint."""
    found = Found(leftovers=_count_temporary(folder))
    if (folder / WEIGHTS).exists():
        found.entries[WEIGHTS] = _sha256(folder / WEIGHTS)
    for path in folder.glob("*.checkpoint"):
        try:
            torch.load(path, weights_only=True)
        except Exception as error:  # whatever torch raises for half a file
            found.corrupt.append(f"{path}: {type(error).__name__}: {error}")
    return found


def find_files(name: str) -> Callable[[Path], Found]:
    """Return a function that reads the checksum of a file, or of each file in a folder."""

    def find(folder: Path) -> Found:
        root = folder / name
        paths = [root] if root.is_file() else [path for path in root.rglob("*") if path.is_file()]
        entries = {
            str(path.relative_to(folder)): _sha256(path)
            for path in paths
            if not _is_temporary(path.relative_to(folder))
        }
        return Found(dict(entries), leftovers=_count_temporary(folder))

    return find


def count_verdicts(folder: Path) -> Hashable:
    """Return the number of verdicts and votes that are written, None while it cannot be read."""
    if not (folder / STORE).exists():
        return 0
    uri = f"file:{folder / STORE}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=0.02)) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            counted = [name for name in ("verdicts", "votes") if name in tables]
            queries = [f"SELECT COUNT(*) FROM {name}" for name in counted]
            return sum(connection.execute(query).fetchone()[0] for query in queries)
    except sqlite3.Error:
        return None


def files_written(folder: Path) -> Hashable:
    """Return the names, sizes and times of all files but those of the store."""
    stats = list[tuple[str, int, int]]()
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:  # a temporary file that has just gone
            continue
        if path.is_file() and not path.name.startswith(STORE):
            stats.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return tuple(sorted(stats))


def jobs(folder: Path) -> dict[str, Job]:
    """Return the jobs; folder: a place for the files from which they start."""
    moons = ("--dataset", "moons", "--store", STORE)
    attacked = ("--attacks", "apgd-ce,fab-t,square:n_queries=1000", "--certifiers", "lipschitz")
    old, new = folder / "old.sqlite", folder / "new.sqlite"

    def nothing(_folder: Path) -> None:
        pass

    def evaluate(store: Path, n_examples: int) -> None:
        radii = [part for i in range(1, 26) for part in ("--eps", str(i / 250))]
        quick = ["--dataset", "moons", "--attacks", "none", "--certifiers", "lipschitz"]
        size = ["--n-examples", str(n_examples), "--store", str(store)]
        command = [*DYNBENCH, "run", "--model", "lipflow", *quick, *size, *radii]
        subprocess.run(command, check=True, capture_output=True)

    def configure(target: Path) -> None:
        config: dict[str, Any] = {
            "models": ["lipflow"],
            "datasets": ["moons"],
            "seeds": [0],
            "threat_models": [{"norm": "L2", "eps": [0.05, 0.1]}],
            "n_examples": 60,
            "attacks": "apgd-ce",
            "certifiers": "lipschitz",
            "batch_size": 5,
            "examples_per_shard": 30,
        }
        (target / "sweep.yaml").write_text(yaml.safe_dump(config))

    def write_recipe(target: Path) -> None:
        recipe: dict[str, Any] = {
            "model": "feedforward",
            "dataset": "moons",
            "options": {"channels": 32, "depth": 4},
            "optimizer": "adam",
            "learning_rate": 0.01,
            "epochs": 30,
            "batch_size": 25,
            "seed": 0,
        }
        (target / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def export_store(*arguments: str) -> Callable[[Path], None]:
        """Copy the new store, beside what the command makes of the old one."""

        def prepare(target: Path) -> None:
            for store, n_examples in ((old, 100), (new, 500)):
                if not store.exists():
                    evaluate(store, n_examples)
            shutil.copy(old, target / STORE)
            command = [*DYNBENCH, *arguments]
            subprocess.run(command, check=True, capture_output=True, cwd=target)
            shutil.copy(new, target / STORE)

        return once(prepare, folder / arguments[0])

    run = ("run", "--model", "lipflow", *moons, "--n-examples", "60", "--batch-size", "10")
    smooth = ("smooth", "--model", "euler_resnet", *moons, "--n-examples", "40", "--eps", "0.05")
    noise = ("--sigma", "0.1", "--n", "3000", "--attacks", "none", "--batch-size", "500")
    train = ("train", "--model", "feedforward", "--dataset", "moons", "--n-examples", "400")
    to_weights = ("--recipe", "recipe.yaml", "--out", WEIGHTS)
    sweep = ("sweep", "sweep.yaml", "--store", STORE, "--workers", "2")
    board = ("leaderboard", "--store", STORE, "--to", TABLES)
    export = ("export", TABLE, "--store", STORE)
    eps = ("--eps", "0.05", "--eps", "0.1")
    in_store = (find_verdicts, count_verdicts, STORE)
    listed = (
        Job("run", (*run, *eps, *attacked), nothing, *in_store),
        Job("sweep", sweep, configure, *in_store),
        Job("smooth", (*smooth, *noise), nothing, *in_store),
        Job("train", (*train, *to_weights), write_recipe, find_weights, files_written, WEIGHTS),
        Job(
            name="leaderboard",
            arguments=board,
            prepare=export_store(*board),
            find=find_files(TABLES),
            progress=files_written,
            output=f"{TABLES}/README.md",
            replaces=True,
        ),
        Job(
            name="export",
            arguments=export,
            prepare=export_store(*export),
            find=find_files(TABLE),
            progress=files_written,
            output=TABLE,
            replaces=True,
        ),
    )
    return {job.name: job for job in listed}


def once(prepare: Callable[[Path], None], template: Path) -> Callable[[Path], None]:
    """Return a function that prepares a folder by copying the first one that was prepared."""

    def copy(target: Path) -> None:
        if not template.exists():
            template.mkdir()
            prepare(template)
        shutil.copytree(template, target, dirs_exist_ok=True)

    return copy


def _is_temporary(path: Path) -> bool:
    return path.suffix == ".partial" or any(part.startswith(".") for part in path.parts)


def _count_temporary(folder: Path) -> int:
    return sum(_is_temporary(path.relative_to(folder)) for path in folder.rglob("*"))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
