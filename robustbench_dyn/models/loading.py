"""One door for all architectures: shipped folders, folders that the user names, entry points."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_dyn.errors import DynbenchError, IntegrityError, RegistryError
from robustbench_dyn.models.architectures import (
    Architecture,
    Card,
    Weights,
    full_name,
    split_name,
)
from robustbench_dyn.resources import shipped
from robustbench_dyn.strict_yaml import read_yaml

if TYPE_CHECKING:
    from torch import nn

    from robustbench_dyn.strict_yaml import Option
    from robustbench_dyn.threat_models import Norm

ENTRY_POINT_GROUP = "robustbench_dyn.architectures"


@dataclass(frozen=True)
class Listing:
    """A plugin as found, before its code is imported: a card, or the reason why there is none."""

    name: str
    folder: Path
    origin: str
    card: Card | None = None
    problem: str = ""


@dataclass
class Registry:
    """All plugins that can be seen from here, by name; code is imported only by `load`."""

    listings: dict[str, Listing] = field(default_factory=dict)

    def add(self, listing: Listing) -> None:
        """Take a plugin in; raises RegistryError, naming both origins, where its name is taken."""
        other = self.listings.get(listing.name)
        if other is not None and other.folder != listing.folder:
            raise RegistryError(
                f"two plugins are called {listing.name!r}: one from {other.origin}, "
                f"one from {listing.origin}; rename one of them in its card.yaml"
            )
        self.listings[listing.name] = listing

    def load(self, name: str) -> Architecture:
        """Import one plugin; raises RegistryError where it is unknown or cannot be imported."""
        listing = self.listings.get(name)
        if listing is None:
            near = get_close_matches(name, self.listings, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "see: dynbench list models"
            raise RegistryError(f"no model is called {name!r}; {hint}")
        if listing.card is None:
            raise RegistryError(
                f"model {name!r} from {listing.origin} is broken: {listing.problem}"
            )
        module = _import_plugin(listing)
        build = getattr(module, "build", None)
        if not callable(build):
            raise RegistryError(
                f"model {name!r} from {listing.origin} is broken: its __init__.py must define "
                "build(input_shape, n_classes, **options) -> nn.Module"
            )
        return Architecture(
            card=listing.card,
            build=build,
            folder=listing.folder,
            origin=listing.origin,
            code_sha256=hash_code(listing.folder),
            claims=getattr(module, "properties", lambda _model: ()),
        )

    def probe(self, name: str) -> str:
        """Return why the plugin cannot be loaded, or an empty string where it can."""
        try:
            self.load(name)
        except RegistryError as error:
            return str(error)
        return ""


def discover(plugin_folders: tuple[Path, ...] = ()) -> Registry:
    """Find the shipped plugins, those under plugin_folders, and those of installed packages.

    A folder is one plugin where it holds card.yaml, and otherwise a folder of plugins. Raises
    RegistryError where a folder does not exist or a name is taken twice.
    """
    registry = Registry()
    for origin, folder in _plugin_folders(plugin_folders):
        registry.add(_read_listing(folder, origin))
    return registry


def build_model(
    architecture: Architecture,
    *,
    input_shape: tuple[int, ...],
    n_classes: int,
    options: dict[str, Option] | None = None,
) -> nn.Module:
    """Build the network with fresh weights, in eval mode.

    Raises RegistryError, naming the plugin, where its build function fails.
    """
    try:
        model = architecture.build(
            input_shape=tuple(input_shape), n_classes=n_classes, **(options or {})
        )
    except Exception as error:
        raise RegistryError(
            f"model {architecture.name!r} from {architecture.origin} cannot be built for inputs "
            f"{tuple(input_shape)} and {n_classes} classes: {type(error).__name__}: {error}"
        ) from error
    return model.eval()


def load_model(
    model_name: str,
    *,
    dataset: str = "fashion_mnist",
    norm: Norm | None = None,
    threat_model: Norm | None = None,
    plugins: tuple[Path, ...] = (),
) -> nn.Module:
    """Return a registered architecture with its trained weights, in eval mode, on the CPU.

    Maps (batch, C, H, W) in [0, 1] to logits (batch, K). model_name: NAME, or NAME/VARIANT where
    an architecture has several sets of weights. threat_model is norm by the name that RobustBench
    gives it. Raises RegistryError for an unknown or broken plugin, InputError where
    it has no weights for dataset, IntegrityError where the weights file is not the one that the
    card names.
    """
    name, variant = split_name(model_name)
    architecture = discover(plugins).load(name)
    weights = architecture.weights_for(dataset, norm or threat_model, variant)
    return load_weights(architecture, weights)


def load_weights(architecture: Architecture, weights: Weights) -> nn.Module:
    """Build the network that `weights` belongs to and fill it; checks the file's SHA-256."""
    from safetensors.torch import load  # noqa: PLC0415  (torch is imported only for real work)

    from robustbench_dyn.datasets import dataset_info  # noqa: PLC0415
    from robustbench_dyn.models.identity import ModelIdentity, hash_tensors  # noqa: PLC0415

    path = architecture.folder / weights.file
    if not path.is_file():
        raise IntegrityError(f"the weights file {path} is missing; reinstall the plugin")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise IntegrityError(
            f"the weights file {path} is not the one that card.yaml names (its SHA-256 differs); "
            "it is corrupted or was replaced: restore it, or train it again"
        )
    info = dataset_info(weights.dataset)
    model = build_model(
        architecture,
        input_shape=info.input_shape,
        n_classes=info.n_classes,
        options=weights.options,
    )
    try:
        model.load_state_dict(load(content))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(
            f"{path} does not fit model {architecture.name!r}: {reason}"
        ) from error
    model.identity = ModelIdentity(  # type: ignore[assignment]
        name=full_name(architecture.name, weights.variant),
        family=architecture.card.family,
        plugin_version=architecture.card.version,
        code_sha256=architecture.code_sha256,
        weights_sha256=weights.sha256,
        state_sha256=hash_tensors(model.state_dict()),
    )
    return model


def hash_code(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of a plugin's Python files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _plugin_folders(extra: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    for root in (shipped("plugins"), *extra):
        if not root.is_dir():
            raise RegistryError(f"the plugin folder {root} does not exist; give a folder")
        if (root / "card.yaml").is_file():
            yield f"the folder {root}", root.resolve()
            continue
        for folder in sorted(root.iterdir()):
            if (folder / "card.yaml").is_file() or (folder / "__init__.py").is_file():
                yield f"the folder {folder}", folder.resolve()
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        yield _entry_origin(entry), _entry_folder(entry)


def _entry_origin(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist else "an installed package"
    return f"the package {package} (entry point {entry.name} = {entry.value})"


def _entry_folder(entry: EntryPoint) -> Path:
    try:
        spec = importlib.util.find_spec(entry.module)
    except (ImportError, AttributeError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        # Named so that the listing says what is missing instead of hiding the entry point.
        return Path(f"<module {entry.module} not found>") / entry.name
    return Path(spec.origin).resolve().parent


def _read_listing(folder: Path, origin: str) -> Listing:
    try:
        card = read_yaml(folder / "card.yaml", Card)
    except DynbenchError as error:
        return Listing(folder.name, folder, origin, problem=str(error))
    missing = [package for package in card.requires if not _installed(package)]
    if missing:
        # Known without importing the plugin, which a list of all models must not do.
        problem = (
            f"it needs {' and '.join(missing)}, which is not installed: "
            f"pip install {' '.join(missing)}"
        )
        return Listing(card.name, folder, origin, problem=problem)
    return Listing(card.name, folder, origin, card=card)


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _import_plugin(listing: Listing) -> Any:
    return _import_folder(listing.folder, listing.name, listing.origin)


@cache
def _import_folder(folder: Path, name: str, origin: str) -> Any:
    # A name of its own in sys.modules: a plugin must not shadow an installed package.
    module_name = f"_dynbench_plugin_{name}_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(
        module_name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise RegistryError(f"model {name!r} from {origin} is broken: it has no __init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    # A plugin is somebody else's code: whatever it raises must break nobody else.
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise RegistryError(
            f"model {name!r} from {origin} is broken: it cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    return module
