"""Kill random workers during a sweep; the verdicts must equal those of an undisturbed sweep.

    python benchmarks/faults.py [--engine local] [--kills 50] [--seed 0]

Ends with exit code 1 where they differ. Results: benchmarks/results/faults.csv.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import measuring

from robustbench_dyn.sweeps.engines import Event
from robustbench_dyn.sweeps.sweep import Sweep, sweep

CONFIG = Sweep.model_validate(
    {
        "models": ["lipflow", "euler_resnet"],
        "datasets": ["fashion_mnist"],
        "seeds": [0],
        "threat_models": [{"norm": "L2", "eps": [0.25, 0.5]}],
        "n_examples": 200,
        "attacks": "apgd-ce",
        "batch_size": 10,
        "examples_per_shard": 50,
    }
)
# Names of the worker processes of each engine.
NAMES = {"local": "multiprocessing.spawn", "ray": "ray::_run_remotely"}


class Killer(threading.Thread):
    """A thread that sends SIGKILL to random workers until it has killed enough of them."""

    def __init__(self, name: str, kills: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.process_name, self.kills, self.random = name, kills, random.Random(seed)
        self.killed = 0

    def run(self) -> None:
        while self.killed < self.kills:
            time.sleep(self.random.uniform(1.0, 4.0))
            listed = subprocess.run(
                ["pgrep", "-f", self.process_name], capture_output=True, text=True, check=False
            )
            workers = listed.stdout.split()
            if workers:
                subprocess.run(["kill", "-9", self.random.choice(workers)], check=False)
                self.killed += 1


def verdicts(path: Path) -> list[tuple[Any, ...]]:
    """Return all verdicts without seconds and passes, which a repeated batch counts again."""
    columns = (
        "key, eps, example_id, label, prediction, status, certified_radius, certifier, "
        "adversarial_distance, attack, reason, x_adv"
    )
    with closing(sqlite3.connect(path)) as connection:
        query = f"SELECT {columns} FROM verdicts ORDER BY key, eps, example_id"
        return connection.execute(query).fetchall()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=list(NAMES), default="local")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    deaths = []

    def watch(event: Event, _n_shards: int) -> None:
        if event.state == "died":
            deaths.append(event)
        if event.state != "at work":
            print(event.state, event.shard, event.message[:60], flush=True)

    with tempfile.TemporaryDirectory() as folder:
        quiet, disturbed = Path(folder) / "quiet.sqlite", Path(folder) / "disturbed.sqlite"
        sweep(CONFIG, quiet, engine=options.engine, workers=2)
        killer = Killer(NAMES[options.engine], options.kills, options.seed)
        killer.start()
        rounds, expected = 0, verdicts(quiet)
        started = time.perf_counter()
        same = True
        # A sweep may end before the last kill; then another one starts with a new store.
        while rounds == 0 or killer.is_alive():
            disturbed.unlink(missing_ok=True)
            outcome = sweep(CONFIG, disturbed, engine=options.engine, workers=2, progress=watch)
            same = same and verdicts(disturbed) == expected and not outcome.failed
            rounds += 1
        row = {
            "engine": options.engine,
            "kills": killer.killed,
            "deaths_seen": len(deaths),
            "sweeps": rounds,
            "verdicts": len(expected),
            "equal": same,
            "seconds": time.perf_counter() - started,
        }
    measuring.write(f"faults_{options.engine}", [row])
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    main()
