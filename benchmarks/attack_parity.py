"""Each native attack against the same attack of pyautoattack and of torchattacks.

    python benchmarks/attack_parity.py [--n-examples 1000] [--seeds 10] [--model feedforward]

Every attack is run by itself, with the budget that AutoAttack's standard version gives it.
Certified examples are left out for all alike. An attack is weaker than another by
the points of robust accuracy that it leaves above the other's. That of apgd-ce is the mean over
seeds: one random start more or less decides a few examples of a thousand. The others, with nine
targets or 5,000 queries an example, are run once.
Results: benchmarks/results/attack_parity_MODEL.csv. Ends with exit code 1 where a native attack is
weaker by more than 0.2 points.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import measuring
import torch
import torchattacks
from torch import Tensor, nn

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model
from robustbench_dyn.attacks import ATTACKS, Attack, AutoAttackAPGD
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.evaluation.candidates import check_candidates
from robustbench_dyn.models.counting import CountingModel
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.results.verdicts import Status

THREAT_MODELS = (ThreatModel("L2", 0.5), ThreatModel("Linf", 8 / 255))
ALLOWED = 0.002
BATCH = 250
# Native attacks, and what torchattacks calls the same.
NATIVE = {"apgd-ce": "APGD", "apgd-t": "APGDT", "fab-t": "FAB", "square": "Square"}


@dataclass(frozen=True)
class Undecided:
    """The examples that neither the clean pass nor a certificate decided, of `total` in all."""

    data: Dataset
    certified: int
    total: int


def undecided(model: nn.Module, data: Dataset, threat_model: ThreatModel) -> Undecided:
    found = evaluate(model, data, threat_model, attacks="none", certifiers="lipschitz")
    left = {v.example_id for v in found.verdicts if v.status is Status.UNDECIDED}
    rows = torch.tensor([k for k, i in enumerate(data.ids.tolist()) if i in left])
    part = Dataset(
        x=data.x[rows],
        y=data.y[rows],
        ids=data.ids[rows],
        name=data.name,
        split=data.split,
        class_names=data.class_names,
    )
    certified = sum(v.status is Status.CERTIFIED for v in found.verdicts)
    return Undecided(part, certified, len(data))


def by_this_package(
    model: nn.Module, left: Undecided, threat_model: ThreatModel, attack: Attack, seed: int
) -> dict[str, float]:
    """Search with an attack of this package, without certificates that would rule out classes."""
    counting, started = CountingModel(model), time.perf_counter()
    x, y = left.data.x, left.data.y
    with frozen_eval(model):
        found = attack.search(
            counting, x, y, threat_model, seed=seed, batch_size=BATCH, n_classes=left.data.n_classes
        )
        robust = int((~check_candidates(model, found, x, y, threat_model).fooled).sum())
    return {
        "robust": robust,
        "forward_passes": counting.forward_passes,
        "seconds": time.perf_counter() - started,
    }


def by_torchattacks(
    model: nn.Module, left: Undecided, threat_model: ThreatModel, name: str, seed: int
) -> dict[str, float]:
    """Run torchattacks' own class with AutoAttack's settings, and check its candidates."""
    kind, options = NATIVE[name], {"norm": threat_model.norm, "eps": threat_model.eps, "seed": seed}
    settings: dict[str, dict[str, Any]] = {
        "apgd-ce": {"steps": 100, "n_restarts": 1, "loss": "ce"},
        "apgd-t": {"steps": 100, "n_restarts": 1, "n_classes": 10},
        "fab-t": {"steps": 100, "n_restarts": 1, "n_classes": 10, "multi_targeted": True},
        "square": {"n_queries": 5000, "n_restarts": 1, "resc_schedule": False},
    }
    counting, robust, started = CountingModel(model), 0, time.perf_counter()
    with frozen_eval(model):
        attack = getattr(torchattacks, kind)(counting, **options, **settings[name])
        for x, y in zip(left.data.x.split(BATCH), left.data.y.split(BATCH), strict=True):
            candidates: Tensor = attack(x.clone(), y)
            robust += int((~check_candidates(model, candidates, x, y, threat_model).fooled).sum())
    return {
        "robust": robust,
        "forward_passes": counting.forward_passes,
        "seconds": time.perf_counter() - started,
    }


def official(name: str) -> Attack:
    """Return pyautoattack's attack as AutoAttack's standard version has it."""
    return AutoAttackAPGD(n_restarts=1) if name == "apgd-ce" else ATTACKS.create(f"aa-{name}")


def mean(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}


def compare(
    name: str, model: nn.Module, data: Dataset, threat_model: ThreatModel, seeds: int
) -> list[dict[str, Any]]:
    left, rows = undecided(model, data, threat_model), list[dict[str, Any]]()
    for attack in NATIVE:
        repeats = seeds if attack == "apgd-ce" else 1
        searches: dict[str, Callable[[int], dict[str, float]]] = {
            "robustbench-dyn": partial(
                by_this_package, model, left, threat_model, ATTACKS.create(attack)
            ),
            "pyautoattack": partial(by_this_package, model, left, threat_model, official(attack)),
            "torchattacks": partial(by_torchattacks, model, left, threat_model, attack),
        }
        runs = {
            library: mean([search(seed) for seed in range(repeats)])
            for library, search in searches.items()
        }
        left_by_native = runs["robustbench-dyn"]["robust"]
        for library, run in runs.items():
            robust = run.pop("robust")
            rows.append(
                {
                    "model": name,
                    "norm": threat_model.norm,
                    "eps": threat_model.eps,
                    "attack": attack,
                    "library": library,
                    "seeds": repeats,
                    "n_examples": left.total,
                    "attacked": len(left.data),
                    "robust_accuracy": (left.certified + robust) / left.total,
                    "ours_weaker_by": (left_by_native - robust) / left.total,
                    **run,
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-examples", type=int, default=1000)
    parser.add_argument("--model", action="append")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    data = load_dataset("fashion_mnist", n_examples=options.n_examples)
    weaker = list[dict[str, Any]]()
    for name in options.model or ["lipflow", "feedforward"]:
        model = load_model(name)
        rows = list[dict[str, Any]]()
        for threat_model in THREAT_MODELS:
            rows += compare(name, model, data, threat_model, options.seeds)
            measuring.write(f"attack_parity_{name}", rows)
        weaker += [row for row in rows if row["ours_weaker_by"] > ALLOWED]
    if weaker:
        sys.exit(f"weaker by more than {100 * ALLOWED} points: {weaker}")


if __name__ == "__main__":
    main()
