"""The cost of a verdict: the whole pipeline and plain AutoAttack on the same model and examples.

    python benchmarks/verdict_cost.py [--n-examples 1000] [--model lipflow] [--repeats 3]

AutoAttack is the authors' release, standard version, on the frozen network and at its fastest batch
size; it also attacks the first examples without freezing. Ratios are AutoAttack's cost divided by
that of the pipeline. Both are measured in one run, the pipeline between the parts of AutoAttack
(with --repeats 3 also before and after them; the median counts), so that a change in the speed of
the machine affects both.
Results: benchmarks/results/verdict_cost_MODEL.csv.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from typing import Any

import measuring
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.models.counting import CountingModel
from robustbench_dyn.models.freezing import frozen_eval

EPS = 0.5
PART = 125


def plain(model: nn.Module, data: Dataset, batch_size: int, *, freeze: bool) -> dict[str, Any]:
    """Run pyautoattack's standard version on every example."""
    counting = CountingModel(model)
    started = time.perf_counter()
    with frozen_eval(model) if freeze else nullcontext():
        attack = AutoAttack(counting, norm="L2", eps=EPS, version="standard", seed=0, device="cpu")
        x_adv, _ = attack.run_standard_evaluation(data.x, data.y, batch_size=batch_size)
        robust = int((logits(model, x_adv).argmax(dim=1) == data.y).sum())
    return {
        "examples": len(data),
        "robust_accuracy": robust / len(data),
        "forward_passes": counting.forward_passes,
        "seconds": time.perf_counter() - started,
    }


def pipeline(model: nn.Module, data: Dataset, attacks: str, certifiers: str) -> dict[str, Any]:
    """Run the whole pipeline."""
    started = time.perf_counter()
    row = evaluate(
        model, data, ThreatModel("L2", EPS), attacks=attacks, certifiers=certifiers
    ).summary
    return {
        "examples": len(data),
        "robust_accuracy": row["empirical_accuracy"],
        "forward_passes": row["forward_passes"],
        "seconds": time.perf_counter() - started,
    }


def interleaved(
    model: nn.Module, data: Dataset, batch_size: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Run AutoAttack in parts, and both pipelines in between; return the cost of each."""
    parts = [data.rows(k, k + PART) for k in range(0, len(data), PART)]
    runs: dict[str, list[dict[str, Any]]] = {
        suite: [] for suite in ("standard", "standard-full", "autoattack")
    }
    costs = list[dict[str, Any]]()
    for k in range(len(parts) + 1):
        half_way = k == len(parts) // 2
        if half_way or (repeats == 3 and k in (0, len(parts))):
            for attacks, taken in runs.items():
                taken.append(pipeline(model, data, attacks, "auto"))
                print(f"  pipeline, {attacks}: {taken[-1]}", flush=True)
        if k < len(parts):
            costs.append(plain(model, parts[k], batch_size, freeze=True))
            print(f"  AutoAttack: {costs[-1]}", flush=True)
    whole = {
        what: sum(cost[what] for cost in costs)
        for what in ("examples", "forward_passes", "seconds")
    }
    robust = sum(cost["robust_accuracy"] * cost["examples"] for cost in costs)
    native, full, official = (
        sorted(r, key=lambda run: run["seconds"])[len(r) // 2] for r in runs.values()
    )
    return {
        "pipeline, native attacks": native,
        "pipeline, native attacks on all survivors": full,
        "pipeline, official attacks": official,
        "AutoAttack": {**whole, "robust_accuracy": robust / len(data)},
    }


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in x.split(250)])


def fastest_batch(model: nn.Module, data: Dataset) -> int:
    """Return the batch size at which AutoAttack's first attack is fastest."""
    taken = {}
    for size in (50, 100, 250):
        with frozen_eval(model):
            attack = AutoAttack(
                model,
                norm="L2",
                eps=EPS,
                version="custom",
                seed=0,
                device="cpu",
                attacks=["apgd-ce"],
            )
            started = time.perf_counter()
            part = data.rows(0, 250)
            attack.run_standard_evaluation(part.x, part.y, batch_size=size)
            taken[size] = time.perf_counter() - started
    return min(taken, key=lambda size: taken[size])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-examples", type=int, default=1000)
    parser.add_argument("--model", action="append")
    parser.add_argument("--repeats", type=int, choices=(1, 3), default=1)
    options = parser.parse_args()
    data = load_dataset("fashion_mnist", n_examples=options.n_examples)
    for name in options.model or ["lipflow", "euler_resnet"]:
        model = load_model(name)
        batch_size = fastest_batch(model, data)
        print(f"{name}: AutoAttack in batches of {batch_size}", flush=True)
        # A part of the examples suffices to measure the effect of freezing.
        few = data.rows(0, min(100, len(data)))
        measured = interleaved(model, data, batch_size, options.repeats)
        measured["AutoAttack, not frozen"] = plain(model, few, batch_size, freeze=False)
        against, rows = measured["AutoAttack"], []
        for what, row in measured.items():
            share = row["examples"] / against["examples"]
            rows.append(
                {
                    "model": name,
                    "eps": EPS,
                    "what": what,
                    **row,
                    "times_fewer_forwards": share
                    * against["forward_passes"]
                    / row["forward_passes"],
                    "times_faster": share * against["seconds"] / row["seconds"],
                }
            )
        measuring.write(f"verdict_cost_{name}", rows)


if __name__ == "__main__":
    main()
