"""What the border between this process and that of an untrusted plugin costs.

    python benchmarks/isolation.py [--runs 21] [--n-examples 100]

The plugin is a copy of `lipflow` under another name. Passes of 250 images are timed in pairs,
inside and outside, in turns; then whole evaluations; with one thread and with one for each core.
`times_inside` is the median of the ratios of the pairs. Results: benchmarks/results/isolation.csv.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
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
    rows = []
    # As in an evaluation, and in the other process.
    with full_precision(), tempfile.TemporaryDirectory() as folder:
        plugin = Path(folder) / "lipflow_outside"
        shutil.copytree(shipped("plugins") / "lipflow", plugin)
        card = plugin / "card.yaml"
        card.write_text(card.read_text().replace("name: lipflow\n", "name: lipflow_outside\n"))
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            rows += [
                {"threads": threads, **row}
                for row in _rows(plugin, options.runs, options.n_examples)
            ]
    measuring.write("isolation", rows)


def _rows(plugin: Path, runs: int, n_examples: int) -> Iterator[dict[str, object]]:
    started = time.perf_counter()
    outside = load_model("lipflow_outside", plugins=(plugin,))
    loading = time.perf_counter() - started
    started = time.perf_counter()
    inside = load_model("lipflow").requires_grad_(False)
    yield _row("loading", [time.perf_counter() - started], [loading])
    x = load_dataset("fashion_mnist", n_examples=BATCH).x
    works: dict[str, tuple[int, Callable[[nn.Module], None]]] = {
        f"forward, {BATCH} images": (runs, lambda model: _forward(model, x)),
        f"forward and gradient, {BATCH} images": (runs, lambda model: _gradient(model, x)),
        f"evaluation, {n_examples} images": (
            max(3, runs // 7),
            lambda model: _evaluate(model, n_examples),
        ),
    }
    for name, (n_pairs, work) in works.items():
        pairs = [(_seconds(work, inside), _seconds(work, outside)) for _ in range(n_pairs)]
        yield _row(name, [a for a, _ in pairs], [b for _, b in pairs])


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
