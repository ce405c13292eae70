"""Semidefinite Lipschitz bounds in L2, compared with norm bounds and linear relaxations.

    python benchmarks/lipsdp.py

Plugins on the two moons, and dense networks with two hidden layers on the digits, trained within
seconds. Each certifier runs on all examples; `bound` is the mean Lipschitz bound of the logit
differences, where the bound is global. Results: benchmarks/results/lipsdp.csv.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from measuring import write
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn import ThreatModel, load_dataset, load_model
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.models.freezing import frozen_eval

_CERTIFIERS = ("lipschitz", "lipsdp", "linear_relaxation", "local_lipsdp")
_MODELS = ("feedforward", "euler_resnet", "naive_lipschitz", "gradient_flow")


def dense_digits(width: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a trained network with two hidden layers, and the test digits."""
    train, test = load_dataset("digits", split="train"), load_dataset("digits")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(600):
        rows = torch.randint(0, len(train.x), (128,))
        noisy = (train.x[rows] + 0.1 * torch.randn(128, 1, 8, 8)).clamp(0, 1)
        optimizer.zero_grad()
        F.cross_entropy(model(noisy), train.y[rows]).backward()
        optimizer.step()
    return model.eval(), test.x, test.y


def mean_bound(bounds: Tensor) -> float:
    """Return the mean over the pairs of different classes."""
    return float(bounds.sum() / (bounds.numel() - len(bounds)))


def measure(
    name: str, model: nn.Module, x: Tensor, y: Tensor, grid: tuple[float, ...]
) -> list[dict[str, Any]]:
    """Return one row per certifier and eps."""
    rows = []
    with frozen_eval(model), torch.no_grad():
        logits = model(x)
        for certifier in _CERTIFIERS:
            started = time.perf_counter()
            try:
                (ready,) = resolve_certifiers(certifier, model, tuple(x.shape[1:]), "L2")
            except CertificateError:
                continue
            prepared = time.perf_counter() - started
            for eps in grid:
                started = time.perf_counter()
                proof = ready.prove(x, logits, y, ThreatModel("L2", eps))
                seconds = (time.perf_counter() - started) / len(x)
                certified = float((radii(proof) >= eps).float().mean())
                bound = mean_bound(ready.state) if isinstance(ready.state, Tensor) else None
                rows.append(
                    {
                        "network": name,
                        "certifier": certifier,
                        "eps": eps,
                        "n_examples": len(x),
                        "clean": float((logits.argmax(dim=1) == y).float().mean()),
                        "certified": certified,
                        "bound": bound,
                        "prepare_seconds": round(prepared, 3),
                        "seconds_an_example": round(seconds, 5),
                    }
                )
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure and write benchmarks/results/lipsdp.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-examples", type=int, default=200)
    n = parser.parse_args().n_examples
    rows = []
    for name in _MODELS:
        data = load_dataset("moons", n_examples=n)
        model = load_model(name, dataset="moons", norm="L2")
        rows += measure(f"{name} moons", model, data.x, data.y, (0.05, 0.1, 0.15))
    for width in (32, 64):
        model, x, y = dense_digits(width)
        rows += measure(f"dense {width} digits", model, x[:n], y[:n], (0.25, 0.5, 0.75))
    write("lipsdp", rows)


if __name__ == "__main__":
    main()
