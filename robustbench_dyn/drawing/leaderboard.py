"""Tables of models as pictures: the bracket of each model as a bar, best first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from robustbench_dyn.drawing.figures import GREY, LOOKS, new_figure
from robustbench_dyn.results.cells import to_plot_text
from robustbench_dyn.results.headings import heading
from robustbench_dyn.results.verdicts import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_IN_A_ROW = 3
# Inches a model, and above and below the models.
_LINE, _AROUND = 0.24, 1.0


class Bracket(NamedTuple):
    """What is drawn of one model; accuracies are fractions.

    empirical: None where no attack was run. low, high: the 95 % interval. ranked: whether the table
    ranks the model; others are drawn paler.
    """

    label: str
    certified: float
    empirical: float | None
    clean: float
    low: float
    high: float
    ranked: bool


class Table(NamedTuple):
    """One data set and threat model, with its models from the first line on."""

    title: str
    brackets: Sequence[Bracket]


def plot_leaderboard(tables: Sequence[Table]) -> Figure:
    """Draw a panel for each table: of each model a bar from certified to empirical accuracy."""
    columns = min(len(tables), _MOST_IN_A_ROW)
    rows = -(-len(tables) // columns)
    most = max(len(table.brackets) for table in tables)
    figure = new_figure(4.4 * columns + 0.6, rows * (_LINE * most + _AROUND) + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(tables) :]:
        axes.set_visible(False)
    for axes, table in zip(grid.flat, tables, strict=False):
        _draw(axes, table, lines=most)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    figure.legend(
        shown.values(),
        shown.keys(),
        loc="outside lower center",
        ncols=2 if columns == 1 else len(shown),
        frameon=False,
        fontsize=8,
    )
    return figure


def _draw(axes: Axes, table: Table, *, lines: int) -> None:
    from matplotlib.patheffects import withStroke  # noqa: PLC0415  (slow to import)

    certified, empirical, clean = (
        heading(column) for column in ("certified_accuracy", "empirical_accuracy", "clean_accuracy")
    )
    proved, open_ = LOOKS[Status.CERTIFIED], LOOKS[Status.UNDECIDED]
    for line, bracket in enumerate(table.brackets):
        high = bracket.clean if bracket.empirical is None else bracket.empirical
        bar: dict[str, Any] = {
            "height": 0.62,
            "edgecolor": "black",
            "linewidth": 0.5,
            "alpha": 1.0 if bracket.ranked else 0.45,
        }
        axes.barh(
            line,
            100 * bracket.certified,
            facecolor=proved.colour,
            label=f"up to {certified}",
            **bar,
        )
        axes.barh(
            line,
            100 * (high - bracket.certified),
            left=100 * bracket.certified,
            facecolor=open_.colour,
            hatch=open_.hatch,
            label=f"from {certified} to {empirical}",
            **bar,
        )
        axes.plot(
            [100 * bracket.low, 100 * bracket.high],
            [line, line],
            color="black",
            linewidth=1,
            marker="|",
            markersize=5,
            path_effects=[withStroke(linewidth=2.6, foreground="white")],
            label="95 % interval",
        )
        axes.plot(
            100 * bracket.clean,
            line,
            marker="D",
            color=GREY,
            markeredgecolor="black",
            markersize=4,
            linestyle="none",
            label=clean,
        )
    labels = [to_plot_text(one.label + ("" if one.ranked else " *")) for one in table.brackets]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    # The first line is on top, and lines are equally wide in all panels.
    axes.set(xlim=(0, 100), ylim=(lines - 0.4, -0.6), xlabel="accuracy in %")
    axes.set_title(to_plot_text(table.title), fontsize=10)
    axes.grid(axis="x", linewidth=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if any(not one.ranked for one in table.brackets):
        axes.set_xlabel("accuracy in %   (* not ranked)")
