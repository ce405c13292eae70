"""A smoothed evaluation of two examples; run as a program, it is slow enough to be killed.

    python -m oracles.killed_votes STORE

The program prints a line for each pass of the network.
"""

import sys
import time
from pathlib import Path

from oracles import halfspaces, points
from robustbench_dyn import Smoothing, ThreatModel, evaluate_smoothed

N_DRAWS = 1000


def evaluate_two(model, store):
    evaluate_smoothed(
        model,
        points((0.12, 0.3)),
        [ThreatModel("L2", 0.15)],
        Smoothing(0.1, n0=20, n=N_DRAWS),
        store=store,
        batch_size=20,
    )


def _slow_down(_module, inputs):
    time.sleep(0.02)
    print(len(inputs[0]), flush=True)  # noqa: T201


if __name__ == "__main__":
    slow = halfspaces()
    slow.register_forward_pre_hook(_slow_down)
    evaluate_two(slow, Path(sys.argv[1]))
