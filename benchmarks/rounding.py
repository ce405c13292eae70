"""What allowing for rounding costs: certified examples without it, with it, and strictly.

Every set of weights of a data set, at the published radii, by the certifiers of `auto` without any
attack. In one run: exactly nothing taken off, the default, and the worst case.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from measuring import write
from soundness import weights_of_the_zoo
from torch import Tensor, nn

from robustbench_dyn import ThreatModel, load_dataset, load_model
from robustbench_dyn.certification import objectives
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.certification.rounding import allowance as rounding
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.models.architectures import full_name
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.precision import full_precision
from robustbench_dyn.threat_models import Norm

RADII = {"L2": (0.25, 0.5, 1.0), "Linf": (2 / 255, 8 / 255, 0.1)}


def certified(
    model: nn.Module, data: Dataset, norm: Norm, eps: float, *, strict: bool = False
) -> Tensor:
    """Return which examples any certifier of `auto` certifies, (n,) bool."""
    with torch.no_grad():
        logits = model(data.x)
    found = torch.zeros(len(data.x), dtype=torch.bool)
    for prepared in resolve_certifiers(
        "auto", model, tuple(data.x.shape[1:]), norm, strict_rounding=strict
    ):
        left = (~found & (logits.argmax(dim=1) == data.y)).nonzero().flatten()
        for rows in left.split(50):
            proof = prepared.prove(data.x[rows], logits[rows], data.y[rows], ThreatModel(norm, eps))
            found[rows] |= radii(proof) >= eps
    return found


@contextmanager
def nothing_taken_off() -> Iterator[None]:
    """Let certifiers take nothing off margins for rounding."""

    def nothing(margins: Tensor, *_: object, **__: object) -> Tensor:
        return torch.zeros_like(margins)

    with (
        patch.object(rounding, "rounding_allowance", nothing),
        patch.object(objectives, "rounding_allowance", nothing),
    ):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--n-examples", type=int, default=200)
    parser.add_argument("--model", action="append", help="NAME or NAME/VARIANT; all by default")
    options = parser.parse_args()
    data = load_dataset(options.dataset, n_examples=options.n_examples)
    names = [
        full_name(architecture.name, weights.variant)
        for architecture, weights in weights_of_the_zoo(options.model, (options.dataset,))
    ]
    for name in names:
        model = load_model(name, dataset=options.dataset)
        rows = []
        with frozen_eval(model), full_precision():
            for norm, several in RADII.items():
                for eps in several:
                    with nothing_taken_off():
                        exact = certified(model, data, norm, eps)
                    default, strict = (
                        certified(model, data, norm, eps, strict=strict) for strict in (False, True)
                    )
                    n = len(data.x)
                    rows.append(
                        {
                            "model": name,
                            "dataset": options.dataset,
                            "norm": norm,
                            "eps": round(eps, 6),
                            "n_examples": n,
                            "without": 100 * float(exact.sum()) / n,
                            "default": 100 * float(default.sum()) / n,
                            "strict": 100 * float(strict.sum()) / n,
                        }
                    )
        write("rounding", rows, key=("model", "dataset", "norm", "eps"))


if __name__ == "__main__":
    main()
