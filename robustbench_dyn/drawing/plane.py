"""Points of the plane: decision regions, certified balls, adversarial examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.drawing.arrays import adversarial_array, on_device_of
from robustbench_dyn.drawing.classes import class_name
from robustbench_dyn.drawing.figures import COLOURS, MARKERS
from robustbench_dyn.results.verdicts import Status, Verdict
from robustbench_dyn.threat_models import Norm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

# Of an input that is a point of the plane.
SHAPE: Final = (2, 1, 1)
_GRID = 240
_CROSS: Final[dict[str, Any]] = {
    "linestyle": "none",
    "marker": "x",
    "color": "black",
    "markersize": 4,
    "markeredgewidth": 0.8,
    "zorder": 4,
}


def draw_regions(axes: Axes, model: nn.Module, data: Dataset) -> None:
    """Fill the decision regions of a model on points of the plane, each with its boundary."""
    ticks = np.linspace(0, 1, _GRID, dtype=np.float32)
    plane = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, *SHAPE)
    with torch.no_grad():
        x = on_device_of(model, torch.from_numpy(plane).to(data.x.dtype))
        logits = torch.cat([model(part) for part in torch.split(x, 4096)]).float().cpu()
    for k in range(logits.shape[1]):
        others = torch.cat([logits[:, :k], logits[:, k + 1 :]], dim=1).amax(dim=1)
        # A margin is 0 at the boundary itself; classes jump between two points of the grid.
        margin = (logits[:, k] - others).reshape(_GRID, _GRID).numpy()
        if not (margin > 0).any():
            continue
        shade = str(0.95 - 0.15 * k / max(logits.shape[1] - 1, 1))
        axes.contourf(ticks, ticks, margin, levels=[0, np.inf], colors=[shade])
        _legend(axes, f"region of {class_name(data, k)}", "s", facecolor=shade)
        if (margin < 0).any():
            axes.contour(ticks, ticks, margin, levels=[0], colors="black", linewidths=0.9)
    axes.set(
        aspect="equal",
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="first coordinate",
        ylabel="second coordinate",
    )


def draw_balls(axes: Axes, verdicts: Iterable[Verdict], data: Dataset, norm: Norm) -> None:
    """Draw around each point the largest ball in which no adversarial example exists."""
    drawn = False
    for verdict, (x, y) in zip(verdicts, _points(data), strict=True):
        if verdict.certified_radius > 0:
            colour = COLOURS[verdict.label % len(COLOURS)]
            ball_style = {"edgecolor": colour, "linewidth": 0.5, "facecolor": "none", "alpha": 0.7}
            axes.add_patch(ball((x, y), verdict.certified_radius, norm, **ball_style))
            drawn = True
    if drawn:
        marker = {"L2": "o", "Linf": "s", "L1": "D"}[norm]
        _legend(axes, "certified ball", marker, facecolor="none", s=90)


def draw_points(axes: Axes, verdicts: Iterable[Verdict], data: Dataset) -> None:
    """Draw the points by their class, and a line to the adversarial example of each."""
    shown = list(zip(verdicts, _points(data), strict=True))
    for k in sorted({verdict.label for verdict, _ in shown}):
        of_class = [point for verdict, point in shown if verdict.label == k]
        axes.scatter(
            [x for x, _ in of_class],
            [y for _, y in of_class],
            marker=MARKERS[k % len(MARKERS)],
            color=COLOURS[k % len(COLOURS)],
            s=14,
            zorder=3,
            label=f"point of {class_name(data, k)}",
        )
    label = "nearest adversarial example"
    for verdict, (x, y) in shown:
        x_adv = adversarial_array(verdict, data)
        if verdict.status is Status.BROKEN and x_adv is not None:
            end = x_adv.flatten().tolist()
            axes.plot([x, end[0]], [y, end[1]], color="black", linewidth=0.4)
            axes.plot(*end, label=label, **_CROSS)
            # One entry of the legend is enough.
            label = ""


def ball(centre: Sequence[float], radius: float, norm: Norm, **style: Any) -> Patch:
    """Return the ball of a norm in the plane: a circle, a square, or a diamond."""
    from matplotlib.patches import Circle, RegularPolygon  # noqa: PLC0415  (slow to import)

    x, y = centre
    if norm == "L2":
        return Circle((x, y), radius, **style)
    # The polygon is given by the distance of its corners, which turn from the top.
    corner = radius * np.sqrt(2) if norm == "Linf" else radius
    turn = np.pi / 4 if norm == "Linf" else 0.0
    return RegularPolygon((x, y), 4, radius=float(corner), orientation=float(turn), **style)


def _points(data: Dataset) -> list[list[float]]:
    return data.x.flatten(1).tolist()


def _legend(axes: Axes, label: str, marker: str, *, facecolor: str, s: float = 50) -> None:
    """Add a symbol to the legend that stands for something drawn otherwise."""
    look: dict[str, Any] = {"facecolor": facecolor, "edgecolor": "black", "linewidth": 0.7, "s": s}
    axes.scatter([], [], marker=marker, label=label, **look)
