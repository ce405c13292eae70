"""The names that data sets of the Hugging Face hub give to splits and to columns of labels."""

from __future__ import annotations

from collections.abc import Mapping

from robustbench_dyn.datasets.dataset import Split

# First choice first, as below.
SPLITS: Mapping[Split, tuple[str, ...]] = {
    "test": ("test", "validation", "valid", "val"),
    "train": ("train",),
}
# Of several columns of labels, the one that is meant.
LABELS = ("label", "labels", "fine_label", "target", "class")
