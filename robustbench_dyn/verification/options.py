"""The options of a replay, with the files that a row does not tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ReplayOptions:
    """How a row is replayed.

    sample: so many examples at most, None for all. seed: of the sample and of the attacks. plugins:
    folders of plugins beside those in use. keep: the folder of counterexamples. model: the model of
    the rows by its source, as module:FILE.py:FUNCTION, since a row does not tell from which file
    its model came; weights: the file of its weights. Rows of other models are loaded by their name.
    """

    sample: int | None = 50
    seed: int = 0
    plugins: tuple[Path, ...] = ()
    data_dir: Path | None = None
    device: str | torch.device | None = None
    keep: Path | None = None
    model: str = ""
    weights: Path | None = None
