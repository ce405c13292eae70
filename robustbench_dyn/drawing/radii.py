"""Certified radii and distances of adversarial examples: how many examples reach which radius."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_dyn.drawing.figures import LOOKS, about, label_eps, new_figure, open_frame
from robustbench_dyn.results.cells import to_plot_text
from robustbench_dyn.results.curves import CORRECT, curve_points, reached
from robustbench_dyn.results.headings import format_eps
from robustbench_dyn.results.summary import count_statuses
from robustbench_dyn.results.telling import title_of
from robustbench_dyn.results.verdicts import Status, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from robustbench_dyn.drawing.evaluated import Evaluated

_BINS = 24
_CERTIFIED, _BROKEN = LOOKS[Status.CERTIFIED], LOOKS[Status.BROKEN]


def plot_radii(evaluation: Evaluated, *, title: str = "") -> Figure:
    """Draw certified radii and distances of adversarial examples of all correct examples.

    Above: the share of all examples that is certified within each radius, and the share of which no
    adversarial example was found within it. Below: how many examples have which radius and
    distance. evaluation: of evaluate_distances, or of evaluate; of the latter, attacks say nothing
    beyond its eps.
    """
    threat_model = evaluation.threat_model
    figure = new_figure(6.4, 5.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    last = _last_of_interest(evaluation.verdicts, threat_model.eps)
    _draw_shares(above, evaluation.verdicts, last, limit=threat_model.eps)
    _draw_histogram(below, evaluation.verdicts, last)
    label_eps(below, threat_model.norm, last)
    below.set_xlabel(f"radius or distance, {threat_model.norm}")
    figure.suptitle(to_plot_text(title or title_of(evaluation.summary)), fontsize=11)
    return figure


def plot_bracket(evaluation: Evaluated, *, title: str = "") -> Figure:
    """Draw the examples of each status as one bar, and below it what plot_radii draws above."""
    threat_model = evaluation.threat_model
    figure = new_figure(6.4, 4.8)
    bar, axes = figure.subplots(2, 1, height_ratios=(1, 5))
    _draw_bar(bar, evaluation)
    last = _last_of_interest(evaluation.verdicts, threat_model.eps)
    last = max(last, 1.1 * threat_model.eps)
    _draw_shares(axes, evaluation.verdicts, last, limit=threat_model.eps)
    axes.axvline(threat_model.eps, color="black", linewidth=0.8, linestyle=":")
    axes.annotate(
        f" eps {format_eps(threat_model.eps)}",
        (threat_model.eps, 100),
        va="top",
        fontsize=8,
    )
    label_eps(axes, threat_model.norm, last)
    axes.set_xlabel(f"radius, {threat_model.norm}")
    figure.suptitle(to_plot_text(title or about(evaluation)), fontsize=11)
    return figure


def _draw_bar(axes: Axes, evaluation: Evaluated) -> None:
    counts, left = count_statuses(evaluation.verdicts), 0
    for status, look in LOOKS.items():
        if counts[status]:
            axes.barh(
                0,
                counts[status],
                left=left,
                label=f"{status} {counts[status]}",
                facecolor=look.colour,
                hatch=look.hatch,
                edgecolor="black",
                linewidth=0.6,
            )
            left += counts[status]
    axes.set(xlim=(0, left), yticks=[])
    axes.set_xlabel("examples", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(
        frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(LOOKS)
    )
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_shares(axes: Axes, verdicts: Sequence[Verdict], last: float, *, limit: float) -> None:
    """Draw both shares as exact steps; limit: attacks were run up to here."""
    proved = {v.certified_radius for v in verdicts if v.certified_radius > 0}
    found = {distance for v in verdicts if math.isfinite(distance := reached(v))}
    end = min(last, limit)
    low = curve_points(verdicts, sorted({0.0, *(r for r in proved if r <= last), last}))
    high = curve_points(verdicts, sorted({0.0, *(d for d in found if d <= end), end}))
    style: dict[str, Any] = {"linewidth": 1.4, "clip_on": False}
    axes.plot(
        [point.eps for point in high],
        [100 * point.empirical_accuracy for point in high],
        color=_BROKEN.colour,
        linestyle="--",
        drawstyle="steps-post",
        label="no adversarial example found within",
        **style,
    )
    axes.plot(
        [point.eps for point in low],
        [100 * point.certified_accuracy for point in low],
        color=_CERTIFIED.colour,
        drawstyle="steps-pre",
        label="certified within",
        **style,
    )
    axes.set(ylim=(0, 100), ylabel="examples in %")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    open_frame(axes)


def _draw_histogram(axes: Axes, verdicts: Sequence[Verdict], last: float) -> None:
    edges = np.linspace(0, last, _BINS + 1).tolist()
    radii = [v.certified_radius for v in verdicts if _is_proved(v)]
    distances = [reached(v) for v in verdicts if v.status is Status.BROKEN]
    axes.hist(
        np.clip(radii, 0, last),
        bins=edges,
        label=f"certified radii ({len(radii)})",
        facecolor=_CERTIFIED.colour,
        alpha=0.4,
    )
    axes.hist(
        np.clip(distances, 0, last),
        bins=edges,
        label=f"distances of adversarial examples ({len(distances)})",
        histtype="step",
        linestyle="--",
        linewidth=1.4,
        edgecolor=_BROKEN.colour,
    )
    left = Counter(_is_proved(v) for v in verdicts if v.status in CORRECT)[False]
    if left:
        axes.plot([], [], linestyle="none", label=f"correct, no radius proved ({left})")
    # Room for the legend above the bars.
    axes.set(ylabel="examples", ylim=(0, 1.5 * axes.get_ylim()[1]))
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    open_frame(axes)


def _is_proved(verdict: Verdict) -> bool:
    return verdict.certified_radius > 0


def _last_of_interest(verdicts: Sequence[Verdict], eps: float) -> float:
    """Return the radius at which the picture ends: hardly an example has a larger one."""
    values = [v.certified_radius for v in verdicts if _is_proved(v)]
    values += [distance for v in verdicts if math.isfinite(distance := reached(v))]
    return float(np.quantile(values, 0.99)) if values else eps
