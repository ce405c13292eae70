"""The start-up time of the command: whole processes, median of several runs.

    python benchmarks/start.py [--runs 7]

Results: benchmarks/results/start.csv.
"""

from __future__ import annotations

import argparse
import statistics

import measuring

COMMANDS = (("--help",), ("list", "models"), ("list", "attacks"), ("run", "--help"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    rows = []
    for command in COMMANDS:
        taken = [measuring.seconds_of(command) for _ in range(runs + 1)]
        # The first run reads the files from disk, and does not count.
        rows.append(
            {
                "command": "dynbench " + " ".join(command),
                "runs": runs,
                "median_seconds": statistics.median(taken[1:]),
                "max_seconds": max(taken[1:]),
            }
        )
    measuring.write("start", rows)


if __name__ == "__main__":
    main()
