"""A source of models: what it must say, and what it is asked for."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustbench_dyn.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from robustbench_dyn.threat_models import Norm


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image in [0, 1] before the network sees it; by default nothing.

    size: (H, W) to which images of another size are resized, whole; None where they stay as they
    are. interpolation: nearest, bilinear or bicubic. flipped: the channels are put in the reverse
    order (BGR). mean, std: of each channel, in units of [0, 1]; subtracted and divided by.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    flipped: bool = False


@dataclass(frozen=True)
class Task:
    """What a model is wanted for, as far as it is known.

    dataset: its name. input_shape, n_classes: of its examples; (C, H, W).
    """

    dataset: str | None = None
    norm: Norm | None = None
    input_shape: tuple[int, ...] | None = None
    n_classes: int | None = None


@dataclass(frozen=True)
class Defaults:
    """The data set and the threat model that a model was made for; None where it says nothing.

    eps: in raw input units.
    """

    dataset: str | None = None
    norm: Norm | None = None
    eps: float | None = None


@dataclass(frozen=True)
class Loaded:
    """A network as its library gives it, and what that library says of it.

    input_shape: (C, H, W); n_classes: both None where they are not stated. library: its name and
    version. weights_sha256: of the checkpoint, where it is one file that was read here; otherwise
    the hash of the tensors is taken. code_sha256: of a file of the user's own; its function is
    measured as well, since it may import others. Empty for a library, whose version stands for it.
    """

    network: nn.Module
    library: str = ""
    preprocessing: Preprocessing = Preprocessing()
    input_shape: tuple[int, ...] | None = None
    n_classes: int | None = None
    weights_sha256: str = ""
    code_sha256: str = ""


class Source(ABC):
    """A library, or a kind of file, from which models are loaded by SOURCE:REFERENCE.

    form: how a user writes it. extra: the optional dependencies of this package that it needs.
    takes_weights: whether the weights can come from a file of the user's own, by --weights.
    """

    name: ClassVar[str]
    form: ClassVar[str]
    description: ClassVar[str]
    extra: ClassVar[str] = ""
    takes_weights: ClassVar[bool] = False

    @abstractmethod
    def load(self, reference: str, task: Task, weights: Path | None, *, local: bool) -> Loaded:
        """Load a network.

        reference: what follows the colon. weights: a file of weights of the user's own. local:
        whether the reference may be a path; that of a table's row never is.
        Raises InputError for a reference that is none, DataUnavailableError where what it names is
        neither here nor can be downloaded, RegistryError where it cannot be loaded.
        """

    def table_name(self, reference: str) -> str:
        """Return the name of a model in stores and tables; it begins with the source's name."""
        return f"{self.name}/{safe(reference)}"

    def check(self, reference: str) -> None:
        """Raise InputError for what is seen to be no reference before anything is imported."""
        if not reference:
            raise InputError(f"{self.name}: names no model; give {self.form}")

    def defaults(self, reference: str, task: Task) -> Defaults:
        """Return the data set and the threat model that a model was made for."""
        return Defaults()


def safe(reference: str) -> str:
    """Return a reference with _ for what may not stand in a name; slashes stay."""
    parts = (re.sub(r"[^A-Za-z0-9_.-]", "_", part) for part in reference.split("/"))
    named = [part if re.match(r"\w", part) else f"_{part}" for part in parts if part]
    return re.sub(r"\.\.+", "_", "/".join(named)) or "_"
