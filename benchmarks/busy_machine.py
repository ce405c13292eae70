"""The default run on an idle machine, and on one whose cores are busy with other processes.

    python benchmarks/busy_machine.py [--runs 3]

Compares two values of GOMP_SPINCOUNT, how often an idle OpenMP thread polls before it sleeps: the
library's default of 300,000, and the default of `dynbench`. The runs alternate; `others` is the
number of busy processes. Results: benchmarks/results/busy_machine.csv.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

import measuring

COMMAND = ("run", "--model", "lipflow", "--n-examples", "200")
LIBRARY_DEFAULT = "300000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    settings = {
        "library": environment | {"GOMP_SPINCOUNT": LIBRARY_DEFAULT},
        "dynbench": environment,
    }
    rows = []
    for others in (0, os.cpu_count() or 1):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        taken: dict[str, list[float]] = {setting: [] for setting in settings}
        try:
            for _ in range(runs):
                for setting, variables in settings.items():
                    with tempfile.TemporaryDirectory() as folder:
                        taken[setting].append(
                            measuring.seconds_of(COMMAND, cwd=folder, env=variables)
                        )
        finally:
            for process in busy:
                process.kill()
        library_median = statistics.median(taken["library"])
        for setting, seconds in taken.items():
            median = statistics.median(seconds)
            rows.append(
                {
                    "others": others,
                    "spin_count": setting,
                    "runs": runs,
                    "median_seconds": median,
                    "max_seconds": max(seconds),
                    "times_library": median / library_median,
                }
            )
    measuring.write("busy_machine", rows)


if __name__ == "__main__":
    main()
