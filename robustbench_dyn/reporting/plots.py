"""Pictures: a flow in the plane, and brackets over eps; readable in black and white."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.api import Evaluation
from robustbench_dyn.evaluation.distances import CurveEvaluation, evaluate_distances
from robustbench_dyn.lipschitz.bounds import Classifier
from robustbench_dyn.reporting.curves import curve
from robustbench_dyn.results.verdicts import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
_GRID = 240
# Radii at which circles are proved: more of them come nearer to what cannot be decided, which is
# where certifiers take longest.
_CIRCLES = 13
# One for each class, and one for each model: told apart without any colour.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_SHADES = ("0.0", "0.45", "0.25", "0.6", "0.15", "0.5", "0.35", "0.65", "0.1", "0.55")
_HATCHES = ("///", "\\\\\\", "...", "xxx", "+++")


def plot_flow(model: nn.Module, data: Dataset, *, title: str = "") -> Figure:
    """Draw the points' ways through the layers, and the plane that the network makes of it.

    data: points of the plane, x (n, 2, 1, 1). Left: each point's states from layer to layer, seen
    in their first two principal directions. Right: the regions of the classes, the balls in which
    no adversarial example exists, and the nearest ones found. Raises InputError for data of
    another shape, and for a model that is not a Classifier with its layers in a row.
    """
    if tuple(data.x.shape[1:]) != (2, 1, 1):
        raise InputError(
            f"{data.name} has inputs {tuple(data.x.shape[1:])}; a flow is drawn of points in the "
            "plane: moons or spirals"
        )
    ways, share = _in_the_plane(_states(model, data.x))
    evaluation = evaluate_distances(model, data, "L2", n_radii=_CIRCLES)
    figure = _figure(10, 4.6)
    left, right = figure.subplots(1, 2)
    _draw_ways(left, ways, data.y)
    left.set_title(f"{title} as time goes".strip())
    left.set(xlabel=f"first two principal directions ({share:.0%} of the variance)")
    _draw_regions(right, model, data)
    _draw_evidence(right, evaluation, data)
    right.set_title("regions, certified balls, adversarial examples")
    return figure


def plot_curves(evaluations: Mapping[str, CurveEvaluation], *, title: str = "") -> Figure:
    """Draw certified and empirical accuracy over eps, a bracket for each model.

    evaluations: of curves.evaluate_distances, by the name that the legend shows. Between two radii
    nothing was proved and nothing attacked: there the certified accuracy drawn is that of the
    larger radius, and the empirical one that of the smaller radius, so that the truth lies between.
    """
    figure = _figure(6.4, 4.4)
    axes = figure.subplots()
    last = max(evaluation.radii[-1] for evaluation in evaluations.values())
    norm = next(iter(evaluations.values())).threat_model.norm
    for k, (name, evaluation) in enumerate(evaluations.items()):
        table = curve(evaluation, sorted({*evaluation.radii, last}))
        shade, marker = _SHADES[k % len(_SHADES)], _MARKERS[k % len(_MARKERS)]
        eps, low, high = (
            table[c].to_numpy() for c in ("eps", "certified_accuracy", "empirical_accuracy")
        )
        style: dict[str, Any] = {"color": shade, "marker": marker, "markevery": (k % 6, 6),
                                 "markersize": 5, "linewidth": 1.2}  # fmt: skip
        axes.plot(eps, 100 * high, linestyle="--", fillstyle="none", drawstyle="steps-post",
                  **style)  # fmt: skip
        axes.plot(eps, 100 * low, linestyle="-", label=name, drawstyle="steps-pre", **style)
        axes.fill_between(
            eps.repeat(2)[1:-1], 100 * low[1:].repeat(2), 100 * high[:-1].repeat(2),
            facecolor="none", edgecolor=shade, alpha=0.35,
            hatch=_HATCHES[k % len(_HATCHES)], linewidth=0,
        )  # fmt: skip
    axes.set(xlabel=f"eps, {norm}", ylabel="accuracy in %", xlim=(0, last), ylim=(0, 100))
    axes.set_title(title or "solid: certified; dashed: empirical; the truth lies between")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write PNG or SVG, as the path ends; raises InputError for another ending."""
    from matplotlib import rc_context  # noqa: PLC0415

    check_plot_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a date and with names that do not change: the same picture is the same file.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with rc_context({"svg.hashsalt": "robustbench-dyn"}):
        figure.savefig(path, dpi=150, metadata=cast(Any, metadata))


def check_plot_path(path: Path) -> None:
    """Raise InputError where a picture cannot be written under this name."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} must end in {' or '.join(SUFFIXES)}")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow, and wanted only here)

    return Figure(figsize=(width, height), layout="constrained")


def _states(model: nn.Module, x: Tensor) -> Tensor:
    """Return the states between lift and head, (times, batch, dimensions), in float32."""
    if not isinstance(model, Classifier) or not isinstance(model.features, nn.Sequential):
        raise InputError(
            f"{type(model).__name__} is no Classifier(nn.Sequential(...), head), whose layers "
            "could be followed one by one"
        )
    states = list[Tensor]()
    with torch.no_grad():
        for layer in model.features:
            for x in _through(layer, x):  # noqa: B020, PLR1704  (the state goes on)
                states.append(x.flatten(1))
    # A lift before and a hidden layer behind the flow have other dimensions than the flow has.
    sizes = [state.shape[1] for state in states]
    most = max(set(sizes), key=sizes.count)
    return torch.stack([state for state in states if state.shape[1] == most])


def _through(layer: nn.Module, x: Tensor) -> Iterator[Tensor]:
    trajectory = getattr(layer, "trajectory", None)
    if trajectory is None:
        yield layer(x)
    else:
        yield from trajectory(x)


def _in_the_plane(states: Tensor) -> tuple[Tensor, float]:
    """Return the states in their first two principal directions, and what these explain."""
    flat = states.flatten(0, 1).double()
    centred = flat - flat.mean(dim=0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    seen = (centred @ directions[:2].T).reshape(*states.shape[:2], -1)
    return seen, float(values[:2].square().sum() / values.square().sum().clamp_min(1e-300))


def _draw_ways(axes: Axes, ways: Tensor, y: Tensor) -> None:
    for k in sorted(set(y.tolist())):
        mine = ways[:, y == k].numpy()
        shade = _SHADES[k % len(_SHADES)]
        axes.plot(mine[..., 0], mine[..., 1], color=shade, linewidth=0.5, alpha=0.6)
        for at, fill, label in ((0, "none", "start"), (-1, "full", "end")):
            axes.plot(mine[at, :, 0], mine[at, :, 1], linestyle="none", color=shade, markersize=4,
                      marker=_MARKERS[k % len(_MARKERS)], fillstyle=cast(Any, fill),
                      label=f"class {k}, {label}")  # fmt: skip
    axes.legend(frameon=False, fontsize=8)
    axes.set(xticks=[], yticks=[])


def _draw_regions(axes: Axes, model: nn.Module, data: Dataset) -> None:
    ticks = np.linspace(0, 1, _GRID, dtype=np.float32)
    plane = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2, 1, 1)
    with torch.no_grad():
        logits = torch.cat([model(part) for part in torch.split(torch.from_numpy(plane), 4096)])
    classes = logits.argmax(dim=1).reshape(_GRID, _GRID).numpy()
    levels = np.arange(data.n_classes + 1) - 0.5
    axes.contourf(ticks, ticks, classes, levels=levels, cmap="Greys", vmin=-1,
                  vmax=3 * data.n_classes)  # fmt: skip
    axes.contour(ticks, ticks, classes, levels=levels[1:-1], colors="black", linewidths=0.8)
    axes.set(aspect="equal", xlim=(0, 1), ylim=(0, 1))


def _draw_evidence(axes: Axes, evaluation: Evaluation, data: Dataset) -> None:
    from matplotlib.patches import Circle  # noqa: PLC0415

    for k, verdict in enumerate(evaluation.verdicts):
        x, y = data.x[k].flatten().tolist()
        shade = _SHADES[verdict.label % len(_SHADES)]
        axes.plot(x, y, marker=_MARKERS[verdict.label % len(_MARKERS)], color=shade, markersize=3)
        if verdict.certified_radius > 0:
            axes.add_patch(Circle((x, y), verdict.certified_radius, fill=False, edgecolor=shade,
                                  linewidth=0.5))  # fmt: skip
        if verdict.status is Status.BROKEN and verdict.x_adv is not None:
            there = np.frombuffer(verdict.x_adv, dtype=np.float32)
            axes.plot([x, there[0]], [y, there[1]], color="black", linewidth=0.4)
            axes.plot(*there, marker="x", color="black", markersize=3.5, markeredgewidth=0.8)
