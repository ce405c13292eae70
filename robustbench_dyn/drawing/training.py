"""A picture of a training: the loss, and the accuracy on held-out examples, over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_training(
    epochs: Sequence[int], losses: Sequence[float], accuracies: Sequence[float], *, title: str
) -> Figure:
    """Draw the mean loss of each epoch, and below it the clean accuracy after it.

    epochs: the number of each epoch, from 1; a training that was resumed begins later. accuracies:
    fractions in [0, 1]. title: plain text.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import, wanted only here)

    figure = Figure(figsize=(6, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    # Points show where an epoch is alone, as in a training of one.
    marker = "o" if len(epochs) < 20 else ""
    above.plot(epochs, losses, color="0.0", marker=marker, markersize=3)
    above.set(ylabel="mean loss of the epoch", title=title)
    below.plot(
        epochs,
        [100 * accuracy for accuracy in accuracies],
        color="0.3",
        linestyle="--",
        marker=marker,
        markersize=3,
    )
    below.set(ylabel="clean %, held-out examples", xlabel="epoch", ylim=(0, 102))
    for axes in (above, below):
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
    return figure
