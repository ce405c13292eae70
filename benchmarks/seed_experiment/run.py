"""The published comparison of five residual networks, measured by attacks that try and by proofs.

    python benchmarks/seed_experiment/run.py --dataset fashion_mnist [--steps naive] [--margin 0.5]

Trains what is not trained yet (into benchmarks/seed_experiment/trained/; a run that was stopped
goes on), then gives each network, at each eps in L2: the accuracy under the published attack (ten
steps of 0.025 eps, which together move an image by no more than a quarter of eps), that under
AutoAttack, and the certified one, whose bound goes from the pixels to the logits. CIFAR-10 is set
up as published: lifts with free scales and a head with free rows, which are in the bound. For
Fashion-MNIST the networks are smaller, and lifts and head are bound, so that a margin is a
distance; each is trained at several margins, and the figure shows that of the best accuracy under
AutoAttack at eps 0.5, as the published table does by its attack.
Results: benchmarks/results/seed_experiment_DATASET.csv, a network's rows as soon as they are known
beside those of other networks and margins that are there; and .png.
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

from robustbench_dyn import ThreatModel, evaluate_grid, load_dataset
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
import measuring  # noqa: E402  (a script finds its neighbours, not those of the folder above)

STEPS = ("unconstrained", "naive", "nonexpansive", "flexible", "prescribed")
RADII = (36 / 255, 0.3, 0.5, 1.0)
# As published, and what AutoAttack does in a quarter of an hour.
N_EXAMPLES = {"cifar10": 1024, "fashion_mnist": 200}
# CIFAR-10: those published as the best, which the recipes name.
MARGINS = {"cifar10": None, "fashion_mnist": (0.25, 0.5, 1.0)}
BEST_AT = 0.5
WEAK_STEPS, WEAK_STEP = 10, 0.025


def architecture() -> Architecture:
    return discover((HERE,)).get("published_resnet")


def recipe_for(dataset: str, steps: str, margin: float | None = None) -> Recipe:
    """Return the recipe of a network, with another margin than its own where one is given."""
    recipe = read_recipe(HERE / "published_resnet" / "recipes" / f"{dataset}-{steps}.yaml")
    if margin is None:
        return recipe
    return recipe.model_copy(update={"loss": recipe.loss.model_copy(update={"margin": margin})})


def trained(recipe: Recipe, folder: Path, **options: Any) -> tuple[nn.Module, float]:
    """Return the network of a recipe and the seconds of its training, which happens if need be.

    The weights lie in `folder` under the names of data set and steps and the margin, beside the
    recipe they were made by; another recipe trains anew. options: those of train.
    """
    plugin = architecture()
    name = f"{recipe.dataset}_{recipe.options['steps']}_{recipe.loss.margin:g}"
    out, record = folder / f"{name}.safetensors", folder / f"{name}.json"
    known = json.loads(record.read_text()) if record.is_file() and out.is_file() else {}
    if known.get("recipe") == recipe.model_dump_json():
        info = dataset_info(recipe.dataset)
        model = build_model(
            plugin, input_shape=info.input_shape, n_classes=info.n_classes, options=recipe.options
        )
        model.load_state_dict(load_file(out))
        return model, known["seconds"]
    done = train(recipe, plugin, out, progress=_progress(name), **options)
    record.write_text(json.dumps({"recipe": recipe.model_dump_json(), "seconds": done.seconds}))
    return done.model, done.seconds


def _progress(name: str) -> Any:
    def show(report: EpochReport) -> None:
        if report.step * report.epochs % report.steps == 0:
            print(f"{name}: epoch {report.epoch + 1} of {report.epochs}, loss {report.loss:.4f}, "
                  f"{report.seconds:.0f} s", flush=True)  # fmt: skip

    return show


def weak_pgd(model: nn.Module, x: Tensor, y: Tensor, threat_model: ThreatModel) -> Tensor:
    """Return candidates of the published attack: PGD from x on cross-entropy, in L2."""
    x_adv, length = x, WEAK_STEP * threat_model.eps
    for _ in range(WEAK_STEPS):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        size = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        x_adv = project(x_adv.detach() + length * gradient / size, x, threat_model)
    return x_adv


def weak_accuracy(model: nn.Module, data: Dataset, threat_model: ThreatModel) -> float:
    robust, device = 0, next(model.parameters()).device
    with frozen_eval(model):
        for start in range(0, len(data), 128):
            part = data.rows(start, start + 128)
            x, y = part.x.to(device), part.y.to(device)
            found = weak_pgd(model, x, y, threat_model)
            robust += int((~check_candidates(model, found, x, y, threat_model).fooled).sum())
    return robust / len(data)


def measure(
    model: nn.Module, recipe: Recipe, data: Dataset, *, seconds: float, store: Path | None,
    attacks: str | Sequence[str] = "standard",
) -> list[dict[str, Any]]:  # fmt: skip
    """Return a row an eps, that of eps 0 first, which is the clean accuracy three times."""
    threat_models = [ThreatModel("L2", eps) for eps in RADII]
    steps = str(recipe.options["steps"])
    name = f"{data.name}_{steps}_{recipe.loss.margin:g}"
    found = evaluate_grid(model, data, threat_models, attacks=attacks, store=store, name=name)
    about = {
        "steps": steps, "margin": recipe.loss.margin, "n_examples": len(data),
        "parameters": found[0].summary["parameters"],
        "lipschitz_bound": found[0].summary["lipschitz_bound"], "training_seconds": seconds,
        "machine": measuring.machine(),
    }  # fmt: skip
    clean = found[0].summary["clean_accuracy"]
    rows = [about | {"eps": 0.0, "weak_pgd": clean, "autoattack": clean, "certified": clean}]
    for threat_model, evaluation in zip(threat_models, found, strict=True):
        row = {
            "eps": threat_model.eps, "weak_pgd": weak_accuracy(model, data, threat_model),
            "autoattack": evaluation.summary["empirical_accuracy"],
            "certified": evaluation.summary["certified_accuracy"],
        }  # fmt: skip
        rows.append(about | row)
        print(f"{name}: {row}", flush=True)
    return rows


def joined(table: pd.DataFrame, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a table with the rows of a network and margin in the place of those it had."""
    both = measuring.joined(table, pd.DataFrame(rows), ("steps", "margin"))
    order = both["steps"].map(STEPS.index)
    both = both.assign(order=order).sort_values(["order", "margin", "eps"], kind="stable")
    return both.drop(columns="order").reset_index(drop=True)


def at_best_margins(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each network's margin that withstands AutoAttack best at BEST_AT."""
    at = table[table["eps"] == BEST_AT].sort_values(
        ["autoattack", "certified"], ascending=False, kind="stable"
    )
    best = at.drop_duplicates("steps")[["steps", "margin"]]
    return table.merge(best, on=["steps", "margin"])


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw a panel a network: the accuracies over eps, what is between proof and attack hatched."""
    mpl.use("agg")
    kinds = list(dict.fromkeys(table["steps"]))
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(2.9 * len(kinds), 3.6), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axis, kind in zip(axes[0], kinds, strict=True):
        rows = table[table["steps"] == kind]
        eps, weak, strong, proved = (
            100 * rows[c].to_numpy() for c in ("eps", "weak_pgd", "autoattack", "certified")
        )
        eps = eps / 100
        axis.plot(eps, weak, "k:s", fillstyle="none", label="published PGD")
        axis.plot(eps, strong, "k--o", fillstyle="none", label="AutoAttack")
        axis.plot(eps, proved, "k-o", label="certified")
        axis.fill_between(eps, proved, strong, facecolor="none", edgecolor="0.6", hatch="///",
                          linewidth=0)  # fmt: skip
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
    options = parser.parse_args()
    folder, dataset = HERE / "trained", options.dataset
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
