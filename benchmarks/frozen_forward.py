"""The frozen forward pass of lipflow, compared with a residual network of equal multiply-adds.

    python benchmarks/frozen_forward.py [--rounds 30]

The residual network has a layer x + B relu(A x), with independent matrices, in place of each
gradient step. The passes alternate within one run; ratios are medians. Results:
benchmarks/results/frozen_forward.csv.
"""

from __future__ import annotations

import argparse
import statistics
import time

import measuring
import torch
from torch import Tensor, nn

from robustbench_dyn import load_dataset, load_model
from robustbench_dyn.flows import ConvGradientStep, OrthonormalGradientStep
from robustbench_dyn.models.freezing import frozen_eval


class Residual(nn.Module):
    """x -> x + B relu(A x + a)."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x).relu())


def plain(model: nn.Module) -> nn.Module:
    """Replace each gradient step of a model by a residual block of the same shape."""
    for name, child in model.named_children():
        if isinstance(child, ConvGradientStep):
            terms, channels, size, _ = child.weight.shape
            padding = size // 2
            block = Residual(
                nn.Conv2d(channels, terms, size, padding=padding),
                nn.Conv2d(terms, channels, size, padding=padding, bias=False),
            )
            setattr(model, name, block)
        elif isinstance(child, OrthonormalGradientStep):
            terms, features = child.weight.shape
            block = Residual(nn.Linear(features, terms), nn.Linear(terms, features, bias=False))
            setattr(model, name, block)
        else:
            plain(child)
    return model


def seconds(model: nn.Module, x: Tensor, *, backward: bool) -> float:
    started = time.perf_counter()
    if backward:
        inputs = x.clone().requires_grad_()
        torch.autograd.grad(model(inputs).sum(), inputs)
    else:
        with torch.no_grad():
            model(x)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    models = {
        "plain": plain(load_model("lipflow")),
        "frozen": load_model("lipflow"),
        "not frozen": load_model("lipflow"),
    }
    rows = []
    with frozen_eval(models["plain"]), frozen_eval(models["frozen"]):
        for size in (8, 40, 256):
            x = load_dataset("fashion_mnist", n_examples=size).x
            for backward in (False, True):
                taken: dict[str, list[float]] = {name: [] for name in models}
                for k in range(rounds + 2):
                    for name, model in models.items():
                        elapsed = seconds(model, x, backward=backward)
                        if k >= 2:
                            taken[name].append(elapsed)
                rows += [
                    {
                        "network": name,
                        "batch": size,
                        "backward": backward,
                        "milliseconds": 1e3 * statistics.median(taken[name]),
                        "over_plain": statistics.median(
                            a / b for a, b in zip(taken[name], taken["plain"], strict=True)
                        ),
                    }
                    for name in models
                ]
    measuring.write("frozen_forward", rows)


if __name__ == "__main__":
    main()
