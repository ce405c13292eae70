"""How cost grows, the speedup of a second worker, and a simulation of a thousand shards.

    python benchmarks/scaling.py growth     seconds and passes over examples, eps, size, depth
    python benchmarks/scaling.py workers    Ray and local workers, and a simulated cluster

`workers` needs an idle machine. Results: benchmarks/results/scaling_*.csv, .png.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import measuring
import pandas as pd
import ray
from matplotlib import pyplot as plt
from torch import nn

from robustbench_dyn import ThreatModel, evaluate_grid, load_dataset, load_model
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.models.loading import discover
from robustbench_dyn.sweeps.engines import ENGINES, ray_cluster
from robustbench_dyn.sweeps.shards import Shard
from robustbench_dyn.training.loop import train
from robustbench_dyn.training.recipes import Recipe

mpl.use("agg")
GRID = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
EXAMPLES_PER_SHARD = 50
PLANNED_SHARDS = 1000


def growth() -> None:
    images = load_dataset("fashion_mnist", n_examples=400)
    digits = load_dataset("digits", n_examples=100)
    lipflow = load_model("lipflow")
    rows = [_cost("examples", n, lipflow, images.rows(0, n)) for n in (50, 100, 200, 400)]
    for n in range(1, len(GRID) + 1):
        rows.append(_cost("eps", n, lipflow, images.rows(0, 100), GRID[:n]))
    with tempfile.TemporaryDirectory() as folder:
        for channels in (4, 8, 16, 32):
            small = _trained(Path(folder), channels=channels, dense_depth=4)
            n_parameters = sum(p.numel() for p in small.parameters())
            rows.append(_cost("parameters", n_parameters, small, digits, (0.3,)))
        for depth in (2, 4, 8, 16):
            small = _trained(Path(folder), channels=8, dense_depth=depth)
            # Six convolutional steps precede the dense ones.
            rows.append(_cost("depth", 6 + depth, small, digits, (0.3,)))
    measuring.write("scaling_growth", rows)
    _plot_growth(pd.DataFrame(rows))


def _trained(folder: Path, *, channels: int, dense_depth: int) -> nn.Module:
    recipe = Recipe.model_validate(
        {
            "model": "lipflow",
            "dataset": "digits",
            "norm": "L2",
            "epochs": 30,
            "batch_size": 64,
            "options": {
                "channels": channels,
                "terms": 8 * channels,
                "depth": 3,
                "dense_depth": dense_depth,
            },
            "loss": {"offset": 0.5, "temperature": 0.1},
            "learning_rate": 1e-2,
        }
    )
    out = folder / f"{channels}-{dense_depth}.safetensors"
    return train(recipe, discover().get("lipflow"), out).model


def _cost(
    what: str, value: int, model: nn.Module, data: Dataset, radii: Sequence[float] = (0.5,)
) -> dict[str, Any]:
    started = time.perf_counter()
    evaluations = evaluate_grid(model, data, [ThreatModel("L2", eps) for eps in radii])
    seconds = time.perf_counter() - started
    passes = sum(e.summary["forward_passes"] + e.summary["backward_passes"] for e in evaluations)
    row = {
        "grows": what,
        "value": value,
        "clean_accuracy": evaluations[0].summary["clean_accuracy"],
        "passes": passes,
        "seconds": seconds,
        "microseconds_a_pass": 1e6 * seconds / passes,
    }
    print(row, flush=True)
    return row


def _plot_growth(table: pd.DataFrame) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.4), layout="constrained")
    for axis, (what, rows) in zip(axes, table.groupby("grows", sort=False), strict=True):
        relative = (
            rows[["value", "passes", "seconds"]] / rows[["value", "passes", "seconds"]].iloc[0]
        )
        axis.plot(rows["value"], relative["seconds"], "k-o", label="seconds")
        axis.plot(rows["value"], relative["passes"], "k--s", fillstyle="none", label="passes")
        axis.plot(rows["value"], relative["value"], "k:", label="proportional")
        axis.set(xscale="log", yscale="log", xlabel=str(what))
        axis.set_xticks(rows["value"], [f"{v:,}" for v in rows["value"]], minor=False, fontsize=8)
        ticks = [2**k for k in range(-1, 7)]
        axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    axes[0].set_ylabel("relative to the first")
    axes[0].legend()
    figure.savefig(measuring.RESULTS / "scaling_growth.png", dpi=110)


def workers() -> None:
    ray.init(num_cpus=2, logging_level="ERROR", log_to_driver=False)
    rows = []
    shards = [_shard(k, "standard") for k in range(8)]
    # Warm-up: starts the workers, and loads torch into the disk cache.
    _timed("ray", shards[:2], 2)
    for engine in ("ray", "local"):
        alone = _timed(engine, shards, 1)
        together = _timed(engine, shards, 2)
        for n, seconds in ((1, alone), (2, together)):
            rows.append(
                {
                    "engine": engine,
                    "workers": n,
                    "shards": len(shards),
                    "seconds": seconds,
                    "times_faster": alone / seconds,
                }
            )
            print(rows[-1], flush=True)
    measuring.write("scaling_workers", rows)
    one = _timed("ray", [_shard(0, "none", examples=1000)], 1)
    with _clocked() as serial:
        many = _timed("ray", [_shard(k, "none", examples=10) for k in range(100)], 1)
    overhead, driver = (many - one) / 99, math.fsum(serial) / 100
    work = rows[0]["seconds"] / len(shards)
    ray.shutdown()
    planned = [_plan(n, work, overhead, driver) for n in (1, 2, 4, 8, 16, 32, 64, 128, 256)]
    measuring.write("scaling_plan", planned)
    _plot_plan(pd.DataFrame(planned))


def _shard(k: int, attacks: str, *, examples: int = EXAMPLES_PER_SHARD) -> Shard:
    start = k * examples
    return Shard(
        model="lipflow",
        dataset="fashion_mnist",
        norm="L2",
        eps=(0.5,),
        seed=0,
        start=start,
        stop=start + examples,
        attacks=attacks,
    )


def _timed(engine: str, shards: Sequence[Shard], workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        states = [event.state for event in ENGINES.get(engine)(shards, Path(folder) / "s", workers)]
        assert states.count("done") == len(shards), states
        return time.perf_counter() - started


@contextmanager
def _clocked() -> Iterator[list[float]]:
    """Collect the seconds that the scheduling process spends on its store."""
    spent, plain = list[float](), {n: getattr(ray_cluster, n) for n in ("_cached", "_merge")}

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments)
            spent.append(time.perf_counter() - started)
            return result

        return call

    for name, function in plain.items():
        setattr(ray_cluster, name, clocked(function))
    yield spent
    for name, function in plain.items():
        setattr(ray_cluster, name, function)


def _plan(workers: int, work: float, overhead: float, driver: float) -> dict[str, Any]:
    """Simulate PLANNED_SHARDS shards: one process schedules and merges, workers do the rest.

    work: mean seconds for the examples of a shard; gamma-distributed, with a standard deviation of
    half the mean. overhead: further seconds per shard; driver: the part of the overhead that the
    scheduling process spends, one shard at a time.
    """
    draw = random.Random(0)
    free_at, driver_free = [0.0] * workers, 0.0
    for _ in range(PLANNED_SHARDS):
        k = min(range(workers), key=free_at.__getitem__)
        driver_free = max(driver_free, free_at[k]) + driver
        free_at[k] = driver_free + (overhead - driver) + draw.gammavariate(4, work / 4)
    total = max(free_at)
    alone = PLANNED_SHARDS * (work + overhead)
    return {
        "shards": PLANNED_SHARDS,
        "examples_per_shard": EXAMPLES_PER_SHARD,
        "workers": workers,
        "seconds_a_shard": work,
        "overhead_a_shard": overhead,
        "of_it_in_the_driver": driver,
        "hours": total / 3600,
        "times_faster": alone / total,
        "efficiency": alone / total / workers,
    }


def _plot_plan(table: pd.DataFrame) -> None:
    figure, axis = plt.subplots(figsize=(4.5, 3.6), layout="constrained")
    axis.plot(table["workers"], table["times_faster"], "k-o", label="simulated")
    axis.plot(table["workers"], table["workers"], "k:", label="ideal")
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="workers",
        ylabel="times faster than one",
        title=f"{PLANNED_SHARDS:,} shards of {EXAMPLES_PER_SHARD} examples",
    )
    axis.legend()
    figure.savefig(measuring.RESULTS / "scaling_plan.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("growth", "workers"))
    {"growth": growth, "workers": workers}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
