"""What the border between this process and that of an untrusted plugin costs.

    python benchmarks/isolation.py [--runs 21] [--n-examples 100]

The plugin is a copy of `lipflow` under another name. Passes of 250 images are timed in pairs,
inside and outside, in turns; then whole evaluations. `times_inside` is the median of the ratios of
the pairs. Results: benchmarks/results/isolation.csv.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# As the command does, before torch is loaded: idle threads soon sleep.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import measuring
import torch
from torch import nn

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model
from robustbench_dyn.models.precision import full_precision
from robustbench_dyn.resources import shipped

BATCH = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--n-examples", type=int, default=100)
    options = parser.parse_args()
    # As in an evaluation, and in the other process.
    with full_precision(), tempfile.TemporaryDirectory() as folder:
        plugin = Path(folder) / "lipflow_outside"
        shutil.copytree(shipped("plugins") / "lipflow", plugin)
        card = plugin / "card.yaml"
        card.write_text(card.read_text().replace("name: lipflow\n", "name: lipflow_outside\n"))
        started = time.perf_counter()
        outside = load_model("lipflow_outside", plugins=(plugin,))
        loading = time.perf_counter() - started
        started = time.perf_counter()
        inside = load_model("lipflow").requires_grad_(False)
        loading_inside = time.perf_counter() - started
        data = load_dataset("fashion_mnist", n_examples=BATCH)
        works: dict[str, Callable[[nn.Module], None]] = {
            f"forward, {BATCH} images": lambda model: _forward(model, data.x),
            f"forward and gradient, {BATCH} images": lambda model: _gradient(model, data.x),
            f"evaluation, {options.n_examples} images": lambda model: _evaluate(
                model, options.n_examples
            ),
        }
        rows = [_row("loading", [loading_inside], [loading])]
        for name, work in works.items():
            runs = max(3, options.runs // 7) if name.startswith("evaluation") else options.runs
            pairs = [(_seconds(work, inside), _seconds(work, outside)) for _ in range(runs)]
            rows.append(_row(name, [a for a, _ in pairs], [b for _, b in pairs]))
    measuring.write("isolation", rows)


def _row(work: str, inside: list[float], outside: list[float]) -> dict[str, object]:
    ratios = [b / a for a, b in zip(inside, outside, strict=True)]
    return {
        "work": work,
        "pairs": len(ratios),
        "median_seconds_inside": statistics.median(inside),
        "median_seconds_outside": statistics.median(outside),
        "times_inside": statistics.median(ratios),
        "least_ratio": min(ratios),
        "largest_ratio": max(ratios),
    }


def _seconds(work: Callable[[nn.Module], None], model: nn.Module) -> float:
    started = time.perf_counter()
    work(model)
    return time.perf_counter() - started


@torch.no_grad()
def _forward(model: nn.Module, x: torch.Tensor) -> None:
    model(x)


def _gradient(model: nn.Module, x: torch.Tensor) -> None:
    inputs = x.clone().requires_grad_()
    torch.autograd.grad(model(inputs).sum(), inputs)


def _evaluate(model: nn.Module, n_examples: int) -> None:
    evaluate(model, "fashion_mnist", ThreatModel("L2", 0.5), n_examples=n_examples)


if __name__ == "__main__":
    main()
