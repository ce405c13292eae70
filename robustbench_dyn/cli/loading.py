"""The data and the network of a command, read and loaded while the terminal says so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_dyn.cli.arguments import Target
from robustbench_dyn.progress.loading import say

if TYPE_CHECKING:
    from torch import nn

    from robustbench_dyn.datasets import Dataset


def read_data(target: Target, *, first: int = 0, data_dir: Path | None = None) -> Dataset:
    """Return the test examples of a target, from `first` on; raises what load_dataset raises."""
    from robustbench_dyn.datasets import load_dataset

    say(f"reading {target.dataset}")
    return load_dataset(
        target.dataset, first=first, n_examples=target.n_examples, data_dir=data_dir
    )


def load_network(
    target: Target, plugins: list[Path] | None, weights: Path | None = None
) -> nn.Module:
    """Return the network of a target; raises what load_model raises."""
    from robustbench_dyn.models.loading import load_model

    say(f"loading {target.model}")
    return load_model(
        target.model,
        dataset=target.dataset,
        norm=target.norm,
        plugins=tuple(plugins or ()),
        weights=weights,
    )
