"""Plots of evaluations: a flow in the plane, and brackets over eps; readable in black and white."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.distances import CurveEvaluation
from robustbench_dyn.files import check_writable, replacing
from robustbench_dyn.lipschitz.bounds import Classifier
from robustbench_dyn.reporting.cells import to_plot_text
from robustbench_dyn.reporting.curves import curve
from robustbench_dyn.results.headings import format_eps, heading
from robustbench_dyn.results.verdicts import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from robustbench_dyn.evaluation.api import Evaluation

SUFFIXES = (".png", ".svg")
_GRID = 240
# One per class, and one per model: distinguishable without colour.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_SHADES = ("0.0", "0.45", "0.25", "0.6", "0.15", "0.5", "0.35", "0.65", "0.1", "0.55")
_HATCHES = ("///", "\\\\\\", "...", "xxx", "+++")


def plot_flow(
    model: nn.Module, data: Dataset, evaluation: Evaluation, *, title: str = ""
) -> Figure:
    """Draw the trajectories of points through the layers, and the decision regions in the plane.

    data: points of the plane, x (n, 2, 1, 1). evaluation: of the model on data in L2, as
    evaluate_distances returns it. Left: the states of each point from layer to layer, projected on
    their first two principal components. Right: the decision regions, the certified balls, and the
    nearest adversarial examples found. Raises what check_flow raises.
    """
    trajectories, share = _principal_plane(_states(check_flow(model, data), data.x))
    figure = _figure(10, 4.6)
    left, right = figure.subplots(1, 2)
    _draw_trajectories(left, trajectories, data.y)
    left.set_title(to_plot_text(f"{title} layer by layer".strip()))
    left.set(xlabel=f"first two principal components ({share:.0%} of the variance)")
    _draw_regions(right, model, data)
    _draw_evidence(right, evaluation, data)
    right.set_title("regions, certified balls, adversarial examples")
    return figure


def check_flow(model: nn.Module, data: Dataset) -> nn.Sequential:
    """Return the layers of the model; raises InputError where plot_flow cannot draw it on data.

    The inputs must be points of the plane, (2, 1, 1), and the model a Classifier whose features
    are an nn.Sequential.
    """
    if tuple(data.x.shape[1:]) != (2, 1, 1):
        raise InputError(
            f"{data.name} has inputs {tuple(data.x.shape[1:])}, but a flow is drawn in the plane; "
            "choose moons or spirals"
        )
    if not isinstance(model, Classifier) or not isinstance(model.features, nn.Sequential):
        raise InputError(
            f"{type(model).__name__} is no Classifier(nn.Sequential(...), head), whose layers can "
            "be drawn one by one"
        )
    return model.features


def plot_curves(evaluations: Mapping[str, CurveEvaluation], *, title: str = "") -> Figure:
    """Draw certified and empirical accuracy over eps, one bracket per model.

    evaluations: as evaluate_distances returns them, by the name in the legend. Between two radii
    the certified accuracy is that of the larger radius and the empirical accuracy that of the
    smaller one, so that the true accuracy lies between the two lines at every eps.
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
        style: dict[str, Any] = {
            "color": shade,
            "marker": marker,
            "markevery": (k % 6, 6),
            "markersize": 5,
            "linewidth": 1.2,
        }
        axes.plot(
            eps, 100 * high, linestyle="--", fillstyle="none", drawstyle="steps-post", **style
        )
        axes.plot(
            eps, 100 * low, linestyle="-", label=to_plot_text(name), drawstyle="steps-pre", **style
        )
        axes.fill_between(
            eps.repeat(2)[1:-1],
            100 * low[1:].repeat(2),
            100 * high[:-1].repeat(2),
            facecolor="none",
            edgecolor=shade,
            alpha=0.35,
            hatch=_HATCHES[k % len(_HATCHES)],
            linewidth=0,
        )
    axes.set(xlabel=f"eps, {norm}", ylabel="accuracy in %", xlim=(0, last), ylim=(0, 100))
    if norm == "Linf":
        _mark_grey_levels(axes, last)
    certified, empirical = map(heading, ("certified_accuracy", "empirical_accuracy"))
    title = title or f"solid: {certified}; dashed: {empirical}; true accuracy in between"
    axes.set_title(to_plot_text(title))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _mark_grey_levels(axes: Axes, last: float) -> None:
    """Label the eps axis of Linf in 255ths, where it is wide enough for two of them."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415  (slow to import)

    levels = MaxNLocator(nbins=8, integer=True).tick_values(0, 255 * last)
    ticks = [level / 255 for level in levels if 0 <= level <= 255 * last]
    if len(ticks) > 2:
        axes.set_xticks(ticks, [format_eps(tick, digits=3) for tick in ticks])


def save(figure: Figure, path: Path) -> None:
    """Write a PNG or SVG file as a whole.

    Raises InputError for another suffix, OutputError where the file cannot be written.
    """
    from matplotlib import rc_context  # noqa: PLC0415

    check_plot_path(path)
    # No date, and fixed ids: the same picture gives the same bytes.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with replacing(path) as partial, rc_context({"svg.hashsalt": "robustbench-dyn"}):
        figure.savefig(partial, dpi=150, metadata=cast(Any, metadata))


def check_plot_path(path: Path) -> None:
    """Raise, before anything is computed, where no picture can be written to path.

    InputError: it does not end in .png or .svg; OutputError: the disk refuses.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} must end in {' or '.join(SUFFIXES)}")
    check_writable(path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)

    return Figure(figsize=(width, height), layout="constrained")


def _states(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Return the states of the flow, (times, batch, dimensions), in float32."""
    states = list[Tensor]()
    with torch.no_grad():
        for layer in layers:
            for x in _layer_states(layer, x):  # noqa: B020, PLR1704  (the next layer's input)
                states.append(x.flatten(1))
    # Drop the layers before and after the flow, whose dimension differs from the flow's.
    sizes = [state.shape[1] for state in states]
    dimension = max(set(sizes), key=sizes.count)
    return torch.stack([state for state in states if state.shape[1] == dimension])


def _layer_states(layer: nn.Module, x: Tensor) -> Iterator[Tensor]:
    trajectory = getattr(layer, "trajectory", None)
    if trajectory is None:
        yield layer(x)
    else:
        yield from trajectory(x)


def _principal_plane(states: Tensor) -> tuple[Tensor, float]:
    """Project the states on their first two principal components; also return their variance."""
    flat = states.flatten(0, 1).double()
    centred = flat - flat.mean(dim=0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    projected = (centred @ directions[:2].T).reshape(*states.shape[:2], -1)
    return projected, float(values[:2].square().sum() / values.square().sum().clamp_min(1e-300))


def _draw_trajectories(axes: Axes, trajectories: Tensor, y: Tensor) -> None:
    for k in sorted(set(y.tolist())):
        paths = trajectories[:, y == k].numpy()
        shade = _SHADES[k % len(_SHADES)]
        axes.plot(paths[..., 0], paths[..., 1], color=shade, linewidth=0.5, alpha=0.6)
        for time, fill, label in ((0, "none", "start"), (-1, "full", "end")):
            axes.plot(
                paths[time, :, 0],
                paths[time, :, 1],
                linestyle="none",
                color=shade,
                markersize=4,
                marker=_MARKERS[k % len(_MARKERS)],
                fillstyle=cast(Any, fill),
                label=f"class {k}, {label}",
            )
    axes.legend(frameon=False, fontsize=8)
    axes.set(xticks=[], yticks=[])


def _draw_regions(axes: Axes, model: nn.Module, data: Dataset) -> None:
    ticks = np.linspace(0, 1, _GRID, dtype=np.float32)
    plane = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2, 1, 1)
    with torch.no_grad():
        logits = torch.cat([model(part) for part in torch.split(torch.from_numpy(plane), 4096)])
    classes = logits.argmax(dim=1).reshape(_GRID, _GRID).numpy()
    levels = np.arange(data.n_classes + 1) - 0.5
    axes.contourf(
        ticks, ticks, classes, levels=levels, cmap="Greys", vmin=-1, vmax=3 * data.n_classes
    )
    axes.contour(ticks, ticks, classes, levels=levels[1:-1], colors="black", linewidths=0.8)
    axes.set(aspect="equal", xlim=(0, 1), ylim=(0, 1))


def _draw_evidence(axes: Axes, evaluation: Evaluation, data: Dataset) -> None:
    from matplotlib.patches import Circle  # noqa: PLC0415

    for k, verdict in enumerate(evaluation.verdicts):
        x, y = data.x[k].flatten().tolist()
        shade = _SHADES[verdict.label % len(_SHADES)]
        axes.plot(x, y, marker=_MARKERS[verdict.label % len(_MARKERS)], color=shade, markersize=3)
        if verdict.certified_radius > 0:
            axes.add_patch(
                Circle((x, y), verdict.certified_radius, fill=False, edgecolor=shade, linewidth=0.5)
            )
        if verdict.status is Status.BROKEN and verdict.x_adv is not None:
            x_adv = np.frombuffer(verdict.x_adv, dtype=np.float32)
            axes.plot([x, x_adv[0]], [y, x_adv[1]], color="black", linewidth=0.4)
            axes.plot(*x_adv, marker="x", color="black", markersize=3.5, markeredgewidth=0.8)
