"""Figures: the look that all pictures share, and how they are written.

Colours are told apart by readers with any colour vision, and in black and white: models also have
markers, statuses also have hatches.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from robustbench_dyn.errors import InputError
from robustbench_dyn.files import check_writable, replacing
from robustbench_dyn.results.headings import format_eps
from robustbench_dyn.results.telling import threat_model_of, title_of
from robustbench_dyn.results.verdicts import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from robustbench_dyn.drawing.evaluated import Evaluated

SUFFIXES: Final = (".png", ".svg", ".pdf")
# The colours of Okabe and Ito, without the yellow, which is too pale for a line
# (https://jfly.uni-koeln.de/color).
COLOURS: Final = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
GREY: Final = "0.55"
_SIDES: Final = ("top", "right")


class Look(NamedTuple):
    """The colour and the hatch of a status."""

    colour: str
    hatch: str


# In the order of a bar: certified, up to here proved; undecided, up to here robust so far. The
# colours are the high-contrast scheme of Paul Tol, whose greys differ
# (https://sronpersonalpages.nl/~pault).
LOOKS: Final = {
    Status.CERTIFIED: Look("#004488", ""),
    Status.UNDECIDED: Look("#DDAA33", "///"),
    Status.BROKEN: Look("#BB5566", "xxx"),
    Status.MISCLASSIFIED: Look("#EEEEEE", ""),
    Status.ERROR: Look("#777777", "..."),
}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; width and height: in inches."""
    from robustbench_dyn.drawing.shown import ShownFigure  # noqa: PLC0415  (slow to import)

    return ShownFigure(figsize=(width, height), layout="constrained")


def about(evaluation: Evaluated) -> str:
    """Name the model, the examples and the threat model of an evaluation, for a title."""
    return f"{title_of(evaluation.summary)}, {threat_model_of(evaluation)}"


def style_of_model(k: int) -> dict[str, Any]:
    """Return the colour and the marker of the model number k of a picture."""
    return {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}


def open_frame(axes: Axes) -> None:
    """Leave out the upper and the right line of the frame."""
    axes.spines[[*_SIDES]].set_visible(False)


def label_eps(axes: Axes, norm: str, last: float) -> None:
    """Label the horizontal axis as radii from 0 to last; those of Linf in 255ths.

    Where the axis is not wide enough for two 255ths, they are decimals.
    """
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415  (slow to import)

    axes.set(xlabel=f"eps, {norm}", xlim=(0, last))
    if norm != "Linf":
        return
    levels = MaxNLocator(nbins=8, integer=True).tick_values(0, 255 * last)
    ticks = [level / 255 for level in levels if 0 <= level <= 255 * last]
    if len(ticks) > 2:
        axes.set_xticks(ticks, [format_eps(tick, digits=3) for tick in ticks])


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, SVG or PDF file as a whole.

    Raises InputError for another suffix, OutputError where the file cannot be written.
    """
    from matplotlib import rc_context  # noqa: PLC0415

    check_plot_path(path)
    # No date, and fixed ids: the same picture gives the same bytes.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
    with replacing(path) as partial, rc_context({"svg.hashsalt": "robustbench-dyn"}):
        figure.savefig(partial, dpi=150, metadata=cast(Any, metadata))


def check_plot_path(path: Path) -> None:
    """Raise, before anything is computed, where no picture can be written to path.

    InputError: it does not end in .png, .svg or .pdf; OutputError: the disk refuses.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    check_writable(path)
