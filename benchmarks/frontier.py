"""Clean and certified accuracy of every set of weights with a certificate that costs a pass.

    python benchmarks/frontier.py [--norm Linf] [--n-examples 10000] [--model lipflow]

All test images of Fashion-MNIST, without attacks, for the weights of one norm. In L2, with the
certifier that follows from the clean pass (max_affine for heads of affine pieces, lipschitz for all
others); in Linf, with interval bounds. Each set of weights is a point on the frontier of its
architecture: a larger margin in training trades clean for certified accuracy. With --model, which
may be repeated, the rows of the other architectures are kept. Small crosses are tries of recipes,
on training images held out of them (benchmarks/recipe_tries.py).
Results: benchmarks/results/frontier.csv and frontier.png; frontier_Linf.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import measuring
import pandas as pd
from matplotlib import pyplot as plt
from torch import nn
from zoo import weights_of

from robustbench_dyn import Evaluation, ThreatModel, evaluate_grid, load_dataset, load_model
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.lipschitz.max_affine import ends_with_pieces
from robustbench_dyn.models.architectures import split_name
from robustbench_dyn.threat_models import Norm, format_eps

mpl.use("agg")
GRID = (0.25, 0.5, 1.0, 1.58)
LINF_GRID = (2 / 255, 8 / 255, 0.1)
BASELINES = ("naive_lipschitz", "orthogonal_cnn", "sll")
MARKERS = "osD^vP*X<>ph8d"


def judged(model: nn.Module, data: Dataset, norm: Norm = "L2") -> list[Evaluation]:
    """Certify a network at each radius by what costs a pass, without attacks."""
    of_l2 = "max_affine" if ends_with_pieces(model) else "lipschitz"
    return evaluate_grid(
        model,
        data,
        [ThreatModel(norm, eps) for eps in (GRID if norm == "L2" else LINF_GRID)],
        attacks="none",
        certifiers=of_l2 if norm == "L2" else "interval",
    )


def results_of(stem: str, norm: Norm) -> Path:
    """Return the file of the results in a norm; L2 has no suffix."""
    return measuring.RESULTS / (f"{stem}.csv" if norm == "L2" else f"{stem}_{norm}.csv")


def accuracies(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Return the clean and the certified accuracies as the columns of a table."""
    certified = {
        f"certified_{format_eps(e.threat_model.eps)}": e.summary["certified_accuracy"]
        for e in evaluations
    }
    return {"clean_accuracy": evaluations[0].summary["clean_accuracy"], **certified}


def points(n_examples: int, chosen: list[str] | None, norm: Norm) -> list[dict[str, Any]]:
    data, rows = load_dataset("fashion_mnist", n_examples=n_examples), []
    for name, weights in weights_of(data.name).items():
        architecture, _ = split_name(name)
        if weights.norm != norm or (chosen and not {architecture, name} & {*chosen}):
            continue
        evaluations = judged(load_model(name), data, norm)
        first = evaluations[0].summary
        if not first["certified_accuracy"]:
            continue
        rows.append(
            {
                "architecture": architecture,
                "model": name,
                "n_examples": len(data),
                "parameters": first["parameters"],
                "training_seconds": weights.training_seconds,
                **accuracies(evaluations),
            }
        )
        print(rows[-1], flush=True)
    return rows


def draw(table: pd.DataFrame, tries: pd.DataFrame) -> None:
    figure, axes = plt.subplots(1, len(GRID), figsize=(13, 4.2), layout="constrained")
    for axis, eps in zip(axes, GRID, strict=True):
        for marker, (name, rows) in zip(MARKERS, table.groupby("architecture"), strict=False):
            ordered = rows.sort_values("clean_accuracy")
            axis.plot(
                100 * ordered["clean_accuracy"],
                100 * ordered[f"certified_{eps:g}"],
                marker=marker,
                color="0.55" if name in BASELINES else "black",
                linestyle=":",
                label=str(name),
            )
        axis.scatter(
            100 * tries["clean_accuracy"],
            100 * tries[f"certified_{eps:g}"],
            marker="+",
            s=14,
            color="0.35",
            label="tries, on held-out images",
        )
        axis.set(title=f"eps {eps:g}", xlabel="clean %")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("certified %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=6, loc="outside lower center")
    figure.savefig(measuring.RESULTS / "frontier.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-examples", type=int, default=10_000)
    known = weights_of("fashion_mnist")
    parser.add_argument(
        "--model",
        action="append",
        choices=sorted({*known, *(split_name(name)[0] for name in known)}),
        metavar="NAME",
        help="an architecture, or NAME/VARIANT; by default all",
    )
    parser.add_argument("--norm", choices=("L2", "Linf"), default="L2")
    options = parser.parse_args()
    norm: Norm = options.norm
    path = results_of("frontier", norm)
    rows = points(options.n_examples, options.model, norm)
    table = pd.DataFrame(rows).assign(machine=measuring.machine())
    if not options.model:
        path.unlink(missing_ok=True)
    key = ("architecture", "model")
    table = measuring.add(path, table, key, order=key)
    if norm == "L2":
        draw(table, pd.read_csv(measuring.RESULTS / "recipe_tries.csv"))


if __name__ == "__main__":
    main()
