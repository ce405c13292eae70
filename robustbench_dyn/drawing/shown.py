"""A figure that notebooks show, also where matplotlib's own display is not set up."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A figure of matplotlib that is the result of a cell of a notebook.

    IPython shows figures as pictures only once pyplot was imported, which this package does not.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100)
        return file.getvalue()
