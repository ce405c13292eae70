"""A flow in the plane: trajectories through the layers, decision regions, balls and attacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.drawing.classes import class_name
from robustbench_dyn.drawing.figures import COLOURS, MARKERS, new_figure
from robustbench_dyn.drawing.plane import SHAPE, draw_balls, draw_points, draw_regions
from robustbench_dyn.errors import InputError
from robustbench_dyn.lipschitz.bounds import Classifier
from robustbench_dyn.results.cells import to_plot_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from robustbench_dyn.drawing.evaluated import Evaluated

# Trajectories of more points of a class hide one another.
_MOST_TRAJECTORIES = 15


def plot_flow(model: nn.Module, data: Dataset, evaluation: Evaluated, *, title: str = "") -> Figure:
    """Draw the trajectories of points through the layers, and the decision regions in the plane.

    data: points of the plane, x (n, 2, 1, 1). evaluation: of the model on data in L2, as
    evaluate_distances returns it. Left: the states of each point from layer to layer, projected on
    their first two principal components; of each class the first points alone. Right: the decision
    regions, the certified balls, and the nearest adversarial examples found. Raises what check_flow
    raises.
    """
    trajectories, share = _principal_plane(_states(check_flow(model, data), data.x))
    figure = new_figure(10, 5.8)
    left, right = figure.subplots(1, 2)
    _draw_trajectories(left, trajectories, data)
    left.set_title(to_plot_text(f"{title} layer by layer".strip()), fontsize=11)
    left.set(
        xlabel="first principal component of the states",
        ylabel=f"second; both have {100 * share:.0f} % of the variance",
        xticks=[],
        yticks=[],
    )
    draw_regions(right, model, data)
    draw_balls(right, evaluation.verdicts, data, "L2")
    draw_points(right, evaluation.verdicts, data)
    proved = any(verdict.certified_radius > 0 for verdict in evaluation.verdicts)
    balls = "certified balls" if proved else "no certified ball"
    right.set_title(f"decision regions, {balls}, adversarial examples", fontsize=11)
    for axes in (left, right):
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False, fontsize=8
        )
    return figure


def check_flow(model: nn.Module, data: Dataset) -> list[nn.Module]:
    """Return the layers of the model; raises InputError where plot_flow cannot draw it on data.

    The inputs must be points of the plane, (2, 1, 1), and the model a Classifier whose features
    are an nn.Sequential. A head with a `trajectory` of its own is the last layer.
    """
    if tuple(data.x.shape[1:]) != SHAPE:
        raise InputError(
            f"{data.name} has inputs {tuple(data.x.shape[1:])}, but a flow is drawn in the plane; "
            "choose moons or spirals"
        )
    if not isinstance(model, Classifier) or not isinstance(model.features, nn.Sequential):
        raise InputError(
            f"{type(model).__name__} is no Classifier(nn.Sequential(...), head), whose layers can "
            "be drawn one by one"
        )
    return [*model.features, *([model.head] if hasattr(model.head, "trajectory") else [])]


def _states(layers: list[nn.Module], x: Tensor) -> Tensor:
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


def _draw_trajectories(axes: Axes, trajectories: Tensor, data: Dataset) -> None:
    for k in sorted(set(data.y.tolist())):
        paths = trajectories[:, data.y == k][:, :_MOST_TRAJECTORIES].numpy()
        colour = COLOURS[k % len(COLOURS)]
        axes.plot(paths[..., 0], paths[..., 1], color=colour, linewidth=0.5, alpha=0.5)
        axes.plot([], [], color=colour, linewidth=1, label=f"{class_name(data, k)}, states between")
        for time, fill, label in ((0, "none", "first state"), (-1, "full", "last state")):
            axes.plot(
                paths[time, :, 0],
                paths[time, :, 1],
                linestyle="none",
                color=colour,
                markersize=4.5,
                marker=MARKERS[k % len(MARKERS)],
                fillstyle=cast(Any, fill),
                label=f"{class_name(data, k)}, {label}",
            )
