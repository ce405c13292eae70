"""The default run on a machine that is quiet, and on one whose every core is busy with others.

    python benchmarks/busy_machine.py [--runs 3]

By how often a waiting OpenMP thread looks before it sleeps (GOMP_SPINCOUNT): the 300,000 times of
the library, and what `dynbench` sets where nobody else has. In turns; `others`: processes that do
nothing but count. Results: benchmarks/results/busy_machine.csv.
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
OF_THE_LIBRARY = "300000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    given = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    looks = {"library": given | {"GOMP_SPINCOUNT": OF_THE_LIBRARY}, "dynbench": given}
    rows = []
    for others in (0, os.cpu_count() or 1):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        taken: dict[str, list[float]] = {whose: [] for whose in looks}
        try:
            for _ in range(runs):
                for whose, environment in looks.items():
                    with tempfile.TemporaryDirectory() as folder:
                        seconds = measuring.seconds_of(COMMAND, cwd=folder, env=environment)
                        taken[whose].append(seconds)
        finally:
            for process in busy:
                process.kill()
        of_library = statistics.median(taken["library"])
        for whose, each in taken.items():
            median = statistics.median(each)
            rows.append(
                {"others": others, "looks": whose, "runs": runs, "median_seconds": median,
                 "max_seconds": max(each), "times_library": median / of_library}
            )  # fmt: skip
    measuring.write("busy_machine", rows)


if __name__ == "__main__":
    main()
