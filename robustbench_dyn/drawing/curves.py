"""Certified and empirical accuracy over eps: one panel, or one for each model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustbench_dyn.drawing.figures import (
    COLOURS,
    GREY,
    label_eps,
    new_figure,
    open_frame,
    style_of_model,
)
from robustbench_dyn.results.cells import to_plot_text
from robustbench_dyn.results.curves import CurvePoint, curve_points
from robustbench_dyn.results.headings import heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from robustbench_dyn.drawing.evaluated import EvaluatedCurve

# The brackets of more models hide one another in one panel.
_MOST_IN_A_PANEL = 3
_PANELS_IN_A_ROW = 4


def plot_curves(
    evaluations: Mapping[str, EvaluatedCurve], *, title: str = "", bands: bool = False
) -> Figure:
    """Draw certified and empirical accuracy over eps, one bracket per model.

    evaluations: as evaluate_distances returns them, by the name in the legend; of one norm. Up to
    three models share a panel; of more, each has one, with the others in grey. bands: fill the
    brackets in a shared panel, too. Between two radii the certified accuracy is that of the larger
    radius and the empirical accuracy that of the smaller one, so that the true accuracy lies
    between the two lines at every eps. The default title names the data set, the examples and the
    attack.
    """
    last = max(evaluation.radii[-1] for evaluation in evaluations.values())
    norm = next(iter(evaluations.values())).threat_model.norm
    curves = {
        to_plot_text(name): curve_points(one.verdicts, sorted({*one.radii, last}))
        for name, one in evaluations.items()
    }
    shared = len(curves) <= _MOST_IN_A_PANEL
    figure, panels = _panels(1 if shared else len(curves))
    for place, axes in enumerate(panels):
        for k, (name, points) in enumerate(curves.items()):
            if shared:
                filled = bands or len(curves) == 1
                look = style_of_model(k) | {"markevery": (k % 6, 6), "markersize": 4.5}
                _draw_bracket(axes, points, look, name, filled=filled)
            elif k == place:
                _draw_bracket(axes, points, {"color": COLOURS[1]}, name, filled=True)
                axes.set_title(name, fontsize=10)
            else:
                _draw_behind(axes, points)
        label_eps(axes, norm, last)
        axes.set(ylabel="accuracy in %", ylim=(0, 100))
        open_frame(axes)
        if shared:
            axes.legend(frameon=False, loc="upper right")
        else:
            axes.label_outer()
    certified, empirical = map(heading, ("certified_accuracy", "empirical_accuracy"))
    reading = f"solid: {certified}; dashed: {empirical}; true robust accuracy in between"
    about = to_plot_text(title or title_of([*evaluations.values()]))
    figure.suptitle(f"{about}\n{reading}", fontsize=10)
    return figure


def title_of(evaluations: Sequence[EvaluatedCurve]) -> str:
    """Name the data set, the norm, the number of examples and the attack of curves."""
    rows = [evaluation.summary for evaluation in evaluations]
    counts = sorted({row["n_examples"] for row in rows})
    examples = "–".join(str(count) for count in {counts[0]: None, counts[-1]: None})
    attacks = ", ".join(sorted({name for row in rows for name in row["attacks"].split("+")}))
    first = rows[0]
    return f"{first['dataset']}, {examples} examples, {first['norm']}; attack: {attacks}"


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    if n == 1:
        figure = new_figure(6.4, 4.6)
        return figure, [figure.subplots()]
    columns = min(n, _PANELS_IN_A_ROW)
    rows = math.ceil(n / columns)
    figure = new_figure(3.1 * columns, 2.6 * rows + 0.5)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = [*grid.flat]
    for axes in panels[n:]:
        axes.set_visible(False)
    return figure, panels[:n]


def _draw_bracket(
    axes: Axes, points: Sequence[CurvePoint], look: dict[str, Any], name: str, *, filled: bool
) -> None:
    eps, low, high = _columns(points)
    # The line at 100 % is as thick as the others.
    style: dict[str, Any] = look | {"linewidth": 1.2, "clip_on": False}
    axes.plot(eps, high, linestyle="--", fillstyle="none", drawstyle="steps-post", **style)
    axes.plot(eps, low, linestyle="-", label=name, drawstyle="steps-pre", **style)
    if filled:
        axes.fill_between(
            [x for x in eps for _ in range(2)][1:-1],
            [y for y in low[1:] for _ in range(2)],
            [y for y in high[:-1] for _ in range(2)],
            facecolor=look["color"],
            alpha=0.15,
            linewidth=0,
        )


def _draw_behind(axes: Axes, points: Sequence[CurvePoint]) -> None:
    """Draw the bracket of another model in grey, for comparison."""
    eps, low, high = _columns(points)
    style: dict[str, Any] = {"color": GREY, "linewidth": 0.6, "alpha": 0.6, "zorder": 1}
    axes.plot(eps, high, linestyle="--", drawstyle="steps-post", **style)
    axes.plot(eps, low, linestyle="-", drawstyle="steps-pre", **style)


def _columns(points: Sequence[CurvePoint]) -> tuple[list[float], list[float], list[float]]:
    return (
        [point.eps for point in points],
        [100 * point.certified_accuracy for point in points],
        [100 * point.empirical_accuracy for point in points],
    )
