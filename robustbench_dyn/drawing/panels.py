"""Panels of one example: images, a point of the plane, the values of other inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from robustbench_dyn.drawing.arrays import Array, adversarial_array
from robustbench_dyn.drawing.classes import class_name
from robustbench_dyn.drawing.figures import COLOURS, GREY, open_frame
from robustbench_dyn.drawing.plane import ball, draw_balls, draw_points, draw_regions
from robustbench_dyn.results.cells import to_plot_text
from robustbench_dyn.results.headings import format_eps
from robustbench_dyn.results.verdicts import Status, Verdict
from robustbench_dyn.threat_models import Norm, ThreatModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from robustbench_dyn.datasets import Dataset

# Grey, or red, green and blue.
_CHANNELS = (1, 3)


def is_image(shape: Sequence[int]) -> bool:
    """Say whether inputs of a shape are images: (C, H, W) of one or three channels."""
    return len(shape) == 3 and shape[0] in _CHANNELS and min(shape[1:]) > 1


def draw_original(axes: Axes, verdict: Verdict, x: Array, data: Dataset, norm: Norm) -> None:
    """Draw an image with its id and class, and below it what is known of it."""
    _draw_image(axes, x)
    axes.set_title(f"{verdict.example_id}: {class_name(data, verdict.label)}", fontsize=8)
    told = str(verdict.status)
    if verdict.prediction != verdict.label:
        told = f"predicted {class_name(data, verdict.prediction)}"
    elif verdict.status is Status.CERTIFIED:
        told = f"certified within {norm} {format_radius(verdict.certified_radius)}"
    axes.set_xlabel(told, fontsize=8)


def draw_images(
    panels: Sequence[Axes], verdict: Verdict, x: Array, data: Dataset, norm: Norm, *, other: str
) -> None:
    """Draw an image, its perturbation and its adversarial example in three panels.

    other: the class of the adversarial example.
    """
    original, middle, right = panels
    draw_original(original, verdict, x, data, norm)
    x_adv = adversarial_array(verdict, data)
    assert x_adv is not None, "only examples with one have three panels"
    difference = x_adv - x
    largest = float(np.abs(difference).max()) or 1.0
    # Grey is no change.
    _draw_image(middle, 0.5 + difference / (2 * largest))
    middle.set_title(f"change, at most {format_radius(largest)}", fontsize=8)
    middle.set_xlabel(f"{norm} {format_radius(verdict.adversarial_distance)}", fontsize=8)
    _draw_image(right, x_adv)
    right.set_title(f"predicted {other}", fontsize=8)
    right.set_xlabel(to_plot_text(verdict.attack), fontsize=8)


def format_radius(radius: float) -> str:
    """Write a radius or a distance with three digits."""
    return format_eps(radius, digits=3)


def draw_point(
    axes: Axes, verdict: Verdict, data: Dataset, threat_model: ThreatModel, model: nn.Module | None
) -> None:
    """Draw a point of the plane, its balls, and its adversarial example, in the regions of model.

    data: the point alone.
    """
    if model is not None:
        draw_regions(axes, model, data)
    centre: list[float] = data.x.flatten().tolist()
    dotted: dict[str, Any] = {"facecolor": "none", "edgecolor": "black", "linestyle": ":"}
    axes.add_patch(ball(centre, threat_model.eps, threat_model.norm, **dotted))
    axes.plot([], [], color="black", linestyle=":", label=f"eps {format_eps(threat_model.eps)}")
    draw_balls(axes, [verdict], data, threat_model.norm)
    draw_points(axes, [verdict], data)
    axes.set(aspect="equal", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False, fontsize=8)


def draw_features(axes: Axes, x: Array, x_adv: Array | None) -> None:
    """Draw the values of an input that is no image, in their order."""
    places = np.arange(x.size)
    common: dict[str, Any] = {"linestyle": "none", "fillstyle": "none", "markersize": 5}
    axes.plot(places, x.flatten(), marker="o", color=COLOURS[0], label="original", **common)
    if x_adv is not None:
        axes.vlines(places, x.flatten(), x_adv.flatten(), color=GREY, linewidth=0.8)
        look: dict[str, Any] = {"marker": "x", "color": COLOURS[2]}
        axes.plot(places, x_adv.flatten(), label="adversarial example", **look, **common)
    axes.set(xlabel="feature", ylabel="value", ylim=(-0.05, 1.05))
    axes.legend(frameon=False, fontsize=8)
    open_frame(axes)


def _draw_image(axes: Axes, x: Array) -> None:
    axes.set(xticks=[], yticks=[])
    pixels = x[0] if len(x) == 1 else x.transpose(1, 2, 0)
    axes.imshow(np.clip(pixels, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
