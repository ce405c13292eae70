"""A source of models: what it must say, and what it is asked for."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from robustbench_dyn.errors import InputError, RegistryError, one_line, shown

if TYPE_CHECKING:
    from torch import nn

    from robustbench_dyn.threat_models import Norm


OF_TORCH = (".pt", ".pth", ".bin", ".ckpt", ".tar")


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
    the hash of the tensors is taken. code_sha256: of a file of the user's own; empty for a library,
    whose version stands for it. measured: no hash covers all that the network computes with, so
    that its function is measured at each evaluation, as where a file may import others.
    """

    network: nn.Module
    library: str = ""
    preprocessing: Preprocessing = Preprocessing()
    input_shape: tuple[int, ...] | None = None
    n_classes: int | None = None
    weights_sha256: str = ""
    code_sha256: str = ""
    measured: bool = False


class Source(ABC):
    """A library, or a kind of file, from which models are loaded by SOURCE:REFERENCE.

    form: how a user writes it. extra: the optional dependencies of this package that it needs;
    packages: what they are imported as.
    takes_weights: whether the weights can come from a file of the user's own, by --weights.
    only_files: whether references are paths alone, which the name in a table does not tell.
    runs_own_code: whether it runs code of the user's own, and not of an installed library.
    """

    name: ClassVar[str]
    form: ClassVar[str]
    description: ClassVar[str]
    extra: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    takes_weights: ClassVar[bool] = False
    only_files: ClassVar[bool] = False
    runs_own_code: ClassVar[bool] = False

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

    def absolute(self, reference: str) -> str:
        """Return a reference that names the same model from any folder."""
        try:
            return str(Path(reference).resolve()) if Path(reference).exists() else reference
        except (OSError, ValueError):
            return reference

    def check_weights(self, weights: Path | str | None) -> None:
        """Raise InputError where the source takes no file of weights, or the file is none."""
        if weights is None:
            return
        if not self.takes_weights:
            raise InputError(
                f"weights={shown(str(weights))} cannot be used: {self.form} brings its own weights"
            )
        check_file(Path(weights))

    def check_installed(self, model_name: str) -> None:
        """Raise RegistryError, with the pip command, where a package that it needs is absent."""
        for package in self.packages:
            if find_spec(package) is None:
                raise RegistryError(absent(package, model_name, self.install))

    @property
    def install(self) -> str:
        """What pip is told to install the packages that the source needs."""
        return f"'robustbench-dyn[{self.extra}]'" if self.extra else ""

    def defaults(self, reference: str, task: Task) -> Defaults:
        """Return the data set and the threat model that a model was made for."""
        return Defaults()


def absent(package: str, wanted_by: str, install: str) -> str:
    """Say that a package is not installed, and how to install it."""
    return (
        f"{wanted_by} needs the package {package}, which is not installed; "
        f"install it: pip install {install}"
    )


def check_file(path: Path) -> None:
    """Raise InputError where a path is no file of weights by its name, or there is no such file."""
    if path.suffix not in (".safetensors", *OF_TORCH):
        raise InputError(
            f"weights={shown(str(path))} is no file of weights; give a .safetensors, or a "
            "state_dict in a .pt or .pth"
        )
    try:
        reason = "" if path.is_file() else "there is no such file"
    except (OSError, ValueError) as error:
        reason = one_line(str(error))
    if reason:
        raise InputError(f"weights={shown(str(path))} cannot be read: {reason}")


def safe(reference: str) -> str:
    """Return a reference with _ for what may not stand in a name; slashes stay."""
    parts = (re.sub(r"[^A-Za-z0-9_.-]", "_", part) for part in reference.split("/"))
    named = [part if re.match(r"\w", part) else f"_{part}" for part in parts if part]
    return re.sub(r"\.\.+", "_", "/".join(named)) or "_"
