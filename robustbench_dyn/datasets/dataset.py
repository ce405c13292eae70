"""What a data set is: its facts before loading, its raw arrays, its tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

Availability = Literal["shipped", "found or fetched", "generated"]


class RawSplit(NamedTuple):
    """A whole split as its source holds it.

    x: (n, C, H, W), uint8 or float32. y: (n,), integers.
    white: the raw value that stands for 1 (255 for bytes); x / white lies in [0, 1].
    """

    x: NDArray[Any]
    y: NDArray[np.integer[Any]]
    white: float


@dataclass(frozen=True, eq=False)
class DatasetInfo:
    """The facts about a data set that are known without loading it.

    input_shape: (C, H, W). sizes and availability: one entry a split.
    load_raw(split, data_dir): reads the whole split; imports what is heavy only when called.
    """

    name: str
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    sizes: dict[Split, int]
    availability: dict[Split, Availability]
    source: str
    licence: str
    load_raw: Callable[[Split, Path | None], RawSplit]

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


# Tensors have no single truth value for ==, so data sets compare by identity.
@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples of a split; as it is loaded, the first n.

    x: (n, C, H, W), float32 in [0, 1]. y: (n,), int64. ids: (n,), int64, index in the full split.
    sha256: hex digest of the raw x, then of y as bytes, of the full split, so that it does not
    depend on n.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    name: str
    split: Split
    class_names: tuple[str, ...]
    sha256: str

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def rows(self, start: int, stop: int) -> Dataset:
        """Return the examples at positions start ... stop - 1."""
        kept = slice(start, stop)
        return replace(self, x=self.x[kept], y=self.y[kept], ids=self.ids[kept])

    def __len__(self) -> int:
        return int(self.y.shape[0])
