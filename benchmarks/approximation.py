"""Alternating gradient and sphere-preserving flows approximate a map that neither can alone.

    python benchmarks/approximation.py [--seeds 3] [--iterations 300]

Presnov's decomposition splits a continuous field into a gradient and a field tangent to spheres,
f = grad U + X_S; alternating flows of the two kinds are dense in the continuous maps on compact
sets (Celledoni et al., arXiv 2210.02373, section 3). The theorem allows any potential; here the
steps are those of the plugin gradient_sphere, whose gradient steps are nonexpansive. The benchmark
fits one smooth map of the square [-1, 1]^2 into the plane with 1 to 8 pairs of steps at a fixed
width, and, as negative controls, with as many gradient steps alone and sphere steps alone. The
controls have known lower bounds: the error of a norm-preserving map is at least
abs(|f(x)| - |x|) at x, that of a nonexpansive map at least half of |f(x) - f(y)| - |x - y| at x or
y. Errors on a fine grid, root mean square and maximum; best and median over seeds. Results:
benchmarks/results/approximation.csv and .png.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from typing import Any

import measuring
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from robustbench_dyn.flows import DenseGradientStep, SphereStep

TERMS, RANK = 8, 3
DEPTHS = (1, 2, 4, 8)
LEARNING_RATE = 0.02
N_TRAIN = 256
STYLES = {
    "gradient and sphere": {"color": "black", "marker": "o", "linestyle": "-"},
    "gradient": {"color": "0.45", "marker": "s", "linestyle": "--"},
    "sphere": {"color": "0.25", "marker": "^", "linestyle": ":"},
}


def target(x: Tensor) -> Tensor:
    """Return f(x), (n, 2), for x (n, 2): a map that stretches, shears and bends."""
    a, b = x.unbind(dim=1)
    return torch.stack([1.3 * a + 0.5 * torch.sin(2.5 * b), b * torch.cos(a) - 0.4 * a**2], dim=1)


def flow(kind: str, depth: int) -> nn.Module:
    """Return `depth` pairs of steps; for a control, both steps are of one kind."""
    layers = list[nn.Module]()
    for _ in range(depth):
        first, second = DenseGradientStep(2, TERMS), SphereStep(2, RANK)
        if kind == "gradient":
            layers += [first, DenseGradientStep(2, TERMS)]
        elif kind == "sphere":
            layers += [SphereStep(2, RANK), second]
        else:
            layers += [first, second]
    return nn.Sequential(*layers)


def fit(kind: str, depth: int, seed: int, iterations: int) -> nn.Module:
    """Fit a flow to the target by least squares, at fixed random points."""
    torch.manual_seed(seed)
    model = flow(kind, depth)
    x = 2 * torch.rand(N_TRAIN, 2, generator=torch.Generator().manual_seed(0)) - 1
    y = target(x)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=iterations)
    for _ in range(iterations):
        optimizer.zero_grad()
        (model(x) - y).square().sum(dim=1).mean().backward()
        optimizer.step()
        schedule.step()
    return model


def grid() -> Tensor:
    ticks = torch.linspace(-1, 1, 41)
    return torch.cartesian_prod(ticks, ticks)


@torch.no_grad()
def errors(model: nn.Module) -> tuple[float, float]:
    """Return the root mean square error and the maximal error on the grid."""
    error = (model(grid()) - target(grid())).norm(dim=1)
    return float(error.square().mean().sqrt()), float(error.max())


def lower_bounds() -> dict[str, tuple[float, float]]:
    """Return lower bounds of the controls' errors on the grid: (root mean square or 0, maximum)."""
    x = grid()
    radial = (target(x).norm(dim=1) - x.norm(dim=1)).abs()
    stretched = torch.cdist(target(x), target(x)) - torch.cdist(x, x)
    return {
        "sphere": (float(radial.square().mean().sqrt()), float(radial.max())),
        "gradient": (0.0, float(stretched.max()) / 2),
    }


def check(rows: list[dict[str, Any]]) -> None:
    """Raise RuntimeError where the error of a control lies below its lower bound."""
    for row, (mean, largest) in ((r, lower_bounds().get(r["flow"], (0.0, 0.0))) for r in rows):
        # The slack covers the rounding errors of float32.
        if row["l2_best"] < mean - 1e-4 or row["max_best"] < largest - 1e-4:
            raise RuntimeError(f"{row} lies below its lower bound {(mean, largest)}")


def draw(results: list[dict[str, Any]]) -> None:
    """Draw the errors over the depth: the medians, and the range down to the best."""
    table, figure = pd.DataFrame(results), Figure(figsize=(9, 3.8), layout="constrained")
    panels = zip(figure.subplots(1, 2), ("l2", "max"), ("L2 mean", "largest"), strict=True)
    for k, (axes, column, title) in enumerate(panels):
        for kind, style in STYLES.items():
            rows = table[table["flow"] == kind]
            depth, median, best = (
                rows[c].to_numpy() for c in ("pairs", f"{column}_median", f"{column}_best")
            )
            axes.plot(
                depth,
                median,
                label=f"{kind}{'' if ' ' in kind else ' steps alone'}",
                markersize=5,
                **style,
            )
            axes.fill_between(depth, best, median, color=style["color"], alpha=0.2, linewidth=0)
            bound = lower_bounds().get(kind, (0.0, 0.0))[k]
            if bound:
                axes.axhline(
                    bound, color=style["color"], linestyle=style["linestyle"], linewidth=0.8
                )
        axes.set(xscale="log", xlabel="pairs of steps", ylabel=f"{title} error")
        axes.set_xticks(DEPTHS, labels=DEPTHS)
        axes.minorticks_off()
        axes.set_title("thin lines: lower bounds for steps of one kind", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(measuring.RESULTS / "approximation.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=300)
    options, rows = parser.parse_args(), list[dict[str, Any]]()
    for kind, depth in itertools.product(STYLES, DEPTHS):
        started = time.process_time()
        all_errors = [
            errors(fit(kind, depth, seed, options.iterations)) for seed in range(options.seeds)
        ]
        l2, largest = zip(*all_errors, strict=True)
        rows.append(
            {
                "flow": kind,
                "pairs": depth,
                "seeds": options.seeds,
                "l2_best": min(l2),
                "l2_median": statistics.median(l2),
                "max_best": min(largest),
                "max_median": statistics.median(largest),
                "cpu_seconds": round(time.process_time() - started, 2),
            }
        )
        print(rows[-1], flush=True)
    measuring.write("approximation", rows)
    check(rows)
    draw(rows)
    both = [row["l2_best"] for row in rows if row["flow"] == "gradient and sphere"]
    print("falls with depth:", all(a > b for a, b in itertools.pairwise(both)))


if __name__ == "__main__":
    main()
