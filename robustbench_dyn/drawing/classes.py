"""Names of classes in pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_dyn.results.cells import to_plot_text
from robustbench_dyn.results.verdicts import ABSTAINED

if TYPE_CHECKING:
    from robustbench_dyn.datasets import Dataset

_NO_CLASS = {ABSTAINED: "abstained", -1: "no class"}


def class_name(data: Dataset | None, k: int) -> str:
    """Return the name of class k for a label of a figure; "class 3" where it has none."""
    if k in _NO_CLASS:
        return _NO_CLASS[k]
    names = data.class_names if data is not None else ()
    return to_plot_text(names[k]) if k < len(names) else f"class {k}"
