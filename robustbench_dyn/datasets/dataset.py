"""A data set: its facts before loading, its raw arrays, its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args
from weakref import WeakKeyDictionary

from robustbench_dyn.errors import InputError
from robustbench_dyn.threat_models import DEFAULT_EPS, Norm, ThreatModel, check_norm, widest_eps

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Of files that nothing registered: their stem, and the first digits of their SHA-256.
_NAME_OF_FILES = re.compile(rf"{_NAME.pattern}-[0-9a-f]{{8}}")


def is_name_of_files(name: str) -> bool:
    """Say whether a name is one of files or tensors of a user's own: STEM-1a2b3c4d, by content."""
    return bool(_NAME_OF_FILES.fullmatch(name))


Availability = Literal["shipped", "found or fetched", "generated"]


class RawSplit(NamedTuple):
    """A whole split as its source holds it.

    x: (n, C, H, W), uint8 or float32. y: (n,), integers.
    white: the raw value that stands for 1 (255 for bytes); x / white lies in [0, 1].
    """

    x: NDArray[Any]
    y: NDArray[np.integer[Any]]
    white: float


class Rows(NamedTuple):
    """Some examples of a split as its source holds them; x, y and white are as in RawSplit.

    sha256: hex digest of the full split, which does not depend on the rows that were read.
    """

    x: NDArray[Any]
    y: NDArray[np.integer[Any]]
    white: float
    sha256: str


@dataclass(frozen=True, eq=False)
class DatasetInfo:
    """The facts about a data set that are known without loading it.

    name: lower case letters, digits and underscores. input_shape: (C, H, W). sizes and
    availability: one entry a split, of which test is required.
    load_raw(split, data_dir): reads the whole split; imports what is heavy only when called.
    default_eps: by norm, the eps of an evaluation that names none, in raw input units, where it is
    not that of small images (threat_models.DEFAULT_EPS).
    Raises InputError where the facts cannot be true.
    load_rows(split, rows, data_dir): reads some examples, rows a range of their ids; a data set
    that is too large to be read whole has it. Raises InputError where the facts cannot be true.
    """

    name: str
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    sizes: dict[Split, int]
    availability: dict[Split, Availability]
    source: str
    licence: str
    load_raw: Callable[[Split, Path | None], RawSplit]
    default_eps: Mapping[Norm, float] = field(default_factory=dict)
    load_rows: Callable[[Split, range, Path | None], Rows] | None = None

    def __post_init__(self) -> None:
        def require(holds: bool, rule: str) -> None:
            if not holds:
                raise InputError(f"data set {self.name!r}: {rule}")

        require(
            bool(_NAME.fullmatch(self.name)) or self.is_unregistered,
            f"name={self.name!r} must be lower case letters, digits and underscores",
        )
        require(
            len(self.input_shape) == 3 and min(self.input_shape) > 0,
            f"input_shape={self.input_shape} must be (C, H, W), three positive numbers",
        )
        require(
            2 <= len(set(self.class_names)) == len(self.class_names),
            f"class_names={self.class_names} must be two or more different names",
        )
        require(
            "test" in self.sizes
            and set(self.sizes) <= set(SPLITS)
            and min(self.sizes.values()) > 0,
            f"sizes={self.sizes} must give a positive number for test, and may for train",
        )
        require(
            set(self.availability) == set(self.sizes),
            f"availability={self.availability} must have the splits of sizes={self.sizes}",
        )
        for norm, eps in self.default_eps.items():
            check_norm(norm)
            ThreatModel(norm, eps).check_input_shape(self.input_shape)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def eps_for(self, norm: Norm) -> float:
        """Return the eps of an evaluation in this norm that names none, in raw input units.

        It is the data set's own, or else that of small images, or an eighth of the widest that the
        inputs allow where that is less, as for points in the plane.
        """
        if norm in self.default_eps:
            return self.default_eps[norm]
        widest = widest_eps(norm, self.input_shape)
        return DEFAULT_EPS[norm] if DEFAULT_EPS[norm] <= widest else float(f"{widest / 8:.1g}")

    @property
    def is_unregistered(self) -> bool:
        """Say whether the name is one of files, STEM-DIGITS, which no registry may hold."""
        return is_name_of_files(self.name)


# Tensors have no single truth value for ==, so data sets compare by identity.
@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples of a split; as it is loaded, the first n.

    x: (n, C, H, W), float32 in [0, 1]. y: (n,), int64. ids: (n,), int64, index in the full split.
    sha256: hex digest of the raw x, then of y as bytes, of the full split, so that it does not
    depend on n. Of a Dataset that you make or change yourself, leave it empty: an evaluation
    computes it of the tensors, and refuses one that belongs to others.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    name: str
    split: Split
    class_names: tuple[str, ...]
    sha256: str = ""

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def rows(self, start: int, stop: int) -> Dataset:
        """Return the examples at positions start ... stop - 1."""
        kept = slice(start, stop)
        part = replace(self, x=self.x[kept], y=self.y[kept], ids=self.ids[kept])
        return mark_verified(part) if is_verified(self) else part

    def __len__(self) -> int:
        return int(self.y.shape[0])

    def __getstate__(self) -> tuple[dict[str, Any], bool]:
        return vars(self), is_verified(self)

    def __setstate__(self, state: tuple[dict[str, Any], bool]) -> None:
        fields, verified = state
        self.__dict__.update(fields)
        if verified:
            mark_verified(self)


# How often the tensors of a data set had been written into when its sha256 was known to be theirs.
# No field, so that a changed copy is checked anew.
_VERIFIED = WeakKeyDictionary[Dataset, tuple[int, ...]]()


def mark_verified(dataset: Dataset) -> Dataset:
    """Return the dataset, marked as one whose sha256 belongs to its tensors as they are now."""
    _VERIFIED[dataset] = _versions(dataset)
    return dataset


def is_verified(dataset: Dataset) -> bool:
    """Say whether sha256 is known to belong to the tensors, which nothing has changed since."""
    return dataset in _VERIFIED and _VERIFIED[dataset] == _versions(dataset)


def _versions(dataset: Dataset) -> tuple[int, ...]:
    tensors = (dataset.x, dataset.y, dataset.ids)
    # Those of torch.inference_mode do not count.
    return tuple(0 if tensor.is_inference() else tensor._version for tensor in tensors)
