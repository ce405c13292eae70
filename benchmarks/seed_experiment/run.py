"""A published comparison of five residual networks, repeated with AutoAttack and certificates.

    python benchmarks/seed_experiment/run.py --dataset fashion_mnist [--steps naive] [--margin 0.5]

Trains the missing networks (into --trained, by default benchmarks/seed_experiment/trained/;
resumes a stopped training), then measures for each network and each eps in L2: the accuracy under
the published attack (ten steps of 0.025 eps, which together move an image by at most a quarter of
eps), the accuracy under AutoAttack, and the certified accuracy, whose Lipschitz bound covers all
layers from pixels to logits. CIFAR-10 is set up as published: lifts with free scales and a head
with free rows. For Fashion-MNIST, and for the JPEG copies of CIFAR-10, the networks are smaller,
and lifts and heads have norm one, so that a margin is a distance. On the copies the margins are
those that were published as the best; on Fashion-MNIST each network is trained with several, and
the figure shows the one with the best accuracy under AutoAttack at eps 0.5, as the published table
does for its attack.
Results: benchmarks/results/seed_experiment_DATASET.csv and .png; the rows of a network replace its
earlier ones, and the file keeps those of other networks and margins.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib import pyplot as plt
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn import ThreatModel, evaluate_grid, load_dataset, load_plugins
from robustbench_dyn.datasets import Dataset, dataset_info
from robustbench_dyn.evaluation.candidates import check_candidates
from robustbench_dyn.models.architectures import Architecture
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.loading import build_model, discover
from robustbench_dyn.threat_models import project
from robustbench_dyn.training.loop import EpochReport, train
from robustbench_dyn.training.recipes import Recipe, read_recipe

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import measuring  # noqa: E402  (a module of the parent folder)

STEPS = ("unconstrained", "naive", "nonexpansive", "flexible", "prescribed")
RADII = (36 / 255, 0.3, 0.5, 1.0)
# CIFAR-10: as published. The others: a quarter of an hour of AutoAttack.
N_EXAMPLES = {"cifar10": 1024, "cifar10_jpeg": 200, "fashion_mnist": 200}
# None: the recipes have the margins that were published as the best.
MARGINS = {"cifar10": None, "cifar10_jpeg": None, "fashion_mnist": (0.25, 0.5, 1.0)}
BEST_AT = 0.5
WEAK_STEPS, WEAK_STEP = 10, 0.025


def architecture() -> Architecture:
    load_plugins(HERE, trust=True)
    return discover((HERE,)).get("published_resnet")


def recipe_for(dataset: str, steps: str, margin: float | None = None) -> Recipe:
    """Return the recipe of a network, with the given margin if there is one."""
    recipe = read_recipe(HERE / "published_resnet" / "recipes" / f"{dataset}-{steps}.yaml")
    if margin is None:
        return recipe
    return recipe.model_copy(update={"loss": recipe.loss.model_copy(update={"margin": margin})})


def trained(recipe: Recipe, folder: Path, **options: Any) -> tuple[nn.Module, float]:
    """Return the network of a recipe and the seconds of its training; trains it if needed.

    `folder` holds the weights, named by data set, steps and margin, with the recipe that they were
    trained by; a changed recipe trains again. options: of train.
    """
    plugin = architecture()
    name = f"{recipe.dataset}_{recipe.options['steps']}_{recipe.loss.margin:g}"
    out, record = folder / f"{name}.safetensors", folder / f"{name}.json"
    cached = json.loads(record.read_text()) if record.is_file() and out.is_file() else {}
    if cached.get("recipe") == recipe.model_dump_json():
        info = dataset_info(recipe.dataset)
        model = build_model(
            plugin, input_shape=info.input_shape, n_classes=info.n_classes, options=recipe.options
        )
        model.load_state_dict(load_file(out))
        return model, cached["seconds"]
    result = train(recipe, plugin, out, progress=_progress(name), **options)
    record.write_text(json.dumps({"recipe": recipe.model_dump_json(), "seconds": result.seconds}))
    return result.model, result.seconds


def _progress(name: str) -> Any:
    def show(report: EpochReport) -> None:
        if report.step * report.epochs % report.steps == 0:
            print(
                f"{name}: epoch {report.epoch + 1} of {report.epochs}, loss {report.loss:.4f}, "
                f"{report.seconds:.0f} s",
                flush=True,
            )

    return show


def weak_pgd(model: nn.Module, x: Tensor, y: Tensor, threat_model: ThreatModel) -> Tensor:
    """Return the candidates of the published attack: PGD on cross-entropy in L2, starting at x."""
    x_adv, step_size = x, WEAK_STEP * threat_model.eps
    for _ in range(WEAK_STEPS):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        size = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        x_adv = project(x_adv.detach() + step_size * gradient / size, x, threat_model)
    return x_adv


def weak_accuracy(model: nn.Module, data: Dataset, threat_model: ThreatModel) -> float:
    robust, device = 0, next(model.parameters()).device
    with frozen_eval(model):
        for start in range(0, len(data), 128):
            part = data.rows(start, start + 128)
            x, y = part.x.to(device), part.y.to(device)
            candidates = weak_pgd(model, x, y, threat_model)
            robust += int((~check_candidates(model, candidates, x, y, threat_model).fooled).sum())
    return robust / len(data)


def measure(
    model: nn.Module,
    recipe: Recipe,
    data: Dataset,
    *,
    seconds: float,
    store: Path | None,
    attacks: str | Sequence[str] = "standard",
    certifiers: str | Sequence[str] = "auto",
) -> list[dict[str, Any]]:
    """Return one row per eps; the first one, eps 0, holds the clean accuracy three times."""
    threat_models = [ThreatModel("L2", eps) for eps in RADII]
    steps = str(recipe.options["steps"])
    name = f"{data.name}_{steps}_{recipe.loss.margin:g}"
    evaluations = evaluate_grid(
        model,
        data,
        threat_models,
        attacks=attacks,
        certifiers=certifiers,
        store=store,
        name=name,
    )
    about = {
        "steps": steps,
        "margin": recipe.loss.margin,
        "n_examples": len(data),
        "parameters": evaluations[0].summary["parameters"],
        "lipschitz_bound": evaluations[0].summary["lipschitz_bound"],
        "training_seconds": seconds,
        "machine": measuring.machine(),
    }
    clean = evaluations[0].summary["clean_accuracy"]
    rows = [about | {"eps": 0.0, "weak_pgd": clean, "autoattack": clean, "certified": clean}]
    for threat_model, evaluation in zip(threat_models, evaluations, strict=True):
        row = {
            "eps": threat_model.eps,
            "weak_pgd": weak_accuracy(model, data, threat_model),
            "autoattack": evaluation.summary["empirical_accuracy"],
            "certified": evaluation.summary["certified_accuracy"],
        }
        rows.append(about | row)
        print(f"{name}: {row}", flush=True)
    return rows


def joined(table: pd.DataFrame, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the table with `rows` in place of those of the same network and margin."""
    merged = measuring.joined(table, pd.DataFrame(rows), ("steps", "margin"))
    order = merged["steps"].map(STEPS.index)
    merged = merged.assign(order=order).sort_values(["order", "margin", "eps"], kind="stable")
    return merged.drop(columns="order").reset_index(drop=True)


def at_best_margins(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each network at its margin with the best AutoAttack accuracy."""
    ranked = table[table["eps"] == BEST_AT].sort_values(
        ["autoattack", "certified"], ascending=False, kind="stable"
    )
    best = ranked.drop_duplicates("steps")[["steps", "margin"]]
    return table.merge(best, on=["steps", "margin"])


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw one panel per network: the accuracies over eps, with the gap hatched."""
    mpl.use("agg")
    kinds = list(dict.fromkeys(table["steps"]))
    figure, axes = plt.subplots(
        1,
        len(kinds),
        figsize=(2.9 * len(kinds), 3.6),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for axis, kind in zip(axes[0], kinds, strict=True):
        rows = table[table["steps"] == kind]
        eps, weak, strong, proved = (
            100 * rows[c].to_numpy() for c in ("eps", "weak_pgd", "autoattack", "certified")
        )
        eps = eps / 100
        axis.plot(eps, weak, "k:s", fillstyle="none", label="published PGD")
        axis.plot(eps, strong, "k--o", fillstyle="none", label="AutoAttack")
        axis.plot(eps, proved, "k-o", label="certified")
        axis.fill_between(
            eps, proved, strong, facecolor="none", edgecolor="0.6", hatch="///", linewidth=0
        )
        margin, bound = rows["margin"].iloc[0], rows["lipschitz_bound"].iloc[0]
        axis.set_title(f"{kind}\nmargin {margin:g}, Lipschitz bound {bound:.3g}", fontsize=9)
        axis.set(xlabel="eps, L2", xlim=(-0.03, 1.03 * max(RADII)), ylim=(-3, 100))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("accuracy in %")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=sorted(N_EXAMPLES), default="fashion_mnist")
    parser.add_argument("--n-examples", type=int, help="the first test images")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--margin", nargs="+", type=float, help="of the hinge loss")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", default="cpu", help="of the training and the attacks")
    parser.add_argument(
        "--trained", type=Path, default=HERE / "trained", help="folder of weights and verdicts"
    )
    options = parser.parse_args()
    folder, dataset = options.trained, options.dataset
    folder.mkdir(parents=True, exist_ok=True)
    n_examples = options.n_examples or N_EXAMPLES[dataset]
    data = load_dataset(dataset, n_examples=n_examples, data_dir=options.data_dir)
    path = measuring.RESULTS / f"seed_experiment_{dataset}.csv"
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    for steps in options.steps:
        for margin in options.margin or MARGINS[dataset] or [None]:
            recipe = recipe_for(dataset, steps, margin)
            model, seconds = trained(
                recipe, folder, data_dir=options.data_dir, device=options.device
            )
            store = folder / f"{dataset}.sqlite"
            rows = measure(model.to(options.device), recipe, data, seconds=seconds, store=store)
            table = joined(table, rows)
            table.to_csv(path, index=False, lineterminator="\n")
            draw(at_best_margins(table), path.with_suffix(".png"))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
