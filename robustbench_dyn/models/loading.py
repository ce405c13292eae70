"""Architectures by name, and networks with their trained weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_dyn.errors import InputError, IntegrityError, RegistryError, shown
from robustbench_dyn.limited_yaml import read_text
from robustbench_dyn.models.architectures import (
    Architecture,
    full_name,
    split_name,
    weights_for,
)
from robustbench_dyn.models.sources import is_from_source, is_source, source_of
from robustbench_dyn.plugins import (
    Card,
    Entry,
    Lazy,
    Plugin,
    Registry,
    Weights,
    find_plugins,
    hash_code,
    import_plugin,
    is_trusted,
)

if TYPE_CHECKING:
    from torch import nn

    from robustbench_dyn.strict_yaml import Option
    from robustbench_dyn.threat_models import Norm


def discover(plugin_folders: tuple[Path, ...] = ()) -> Registry[Architecture]:
    """Return the architectures of the plugins in use, and of those in plugin_folders.

    A plugin's code is imported when its architecture is got. Of two plugins with one name, the
    first keeps it: a shipped one, then one in a folder. Raises RegistryError where a folder does
    not exist.
    """
    registry = Registry[Architecture](
        "model", from_plugins=partial(_entries, plugin_folders), error=RegistryError
    )
    registry.entries()
    return registry


def _entries(plugin_folders: tuple[Path, ...]) -> Iterator[Entry]:
    for plugin in find_plugins(*plugin_folders):
        if plugin.provides("architecture"):
            yield architecture_entry(plugin)


def plugins_of_models() -> list[Plugin]:
    """Return the plugins that provide an architecture, those with a taken name as broken ones."""
    entries = {(entry.origin, entry.problem) for entry in discover().entries().values()}
    problems = {origin: problem for origin, problem in entries if problem}
    return [
        replace(plugin, problem=problems.get(plugin.origin, ""))
        for plugin in find_plugins()
        if plugin.provides("architecture")
    ]


def architecture_entry(plugin: Plugin) -> Entry:
    """Return the entry of a plugin that provides an architecture, whose target imports it."""
    card = plugin.card
    taken = f"{plugin.name} is the name of a source of models; give the plugin another name"
    return Entry(
        name=plugin.name,
        target=Lazy(partial(import_architecture, plugin)) if card else None,
        description=card.summary if card else "",
        origin=plugin.origin,
        problem=plugin.problem or (taken if is_source(plugin.name) else ""),
    )


def import_architecture(plugin: Plugin) -> Architecture:
    """Import a plugin with a card; raises RegistryError, with the reason alone."""
    module, card = import_plugin(plugin), plugin.card
    if card is None:
        raise RegistryError("it has no card.yaml")
    build = getattr(module, "build", None)
    if not callable(build):
        raise RegistryError(
            "its __init__.py must define build(input_shape, n_classes, **options) -> nn.Module"
        )
    return Architecture(
        card=card,
        build=build,
        folder=plugin.folder,
        origin=plugin.origin,
        code_sha256=hash_code(plugin.folder),
        claims=getattr(module, "properties", lambda _model: ()),
    )


def find_architecture(name: str, plugin_folders: tuple[Path, ...] = ()) -> tuple[Plugin, Card]:
    """Return the plugin whose architecture has this name, and its card, without importing it.

    Raises RegistryError, with the nearest name, where there is none or it is broken.
    """
    entry = discover(plugin_folders).entry(name)
    for plugin in find_plugins(*plugin_folders):
        broken = entry.problem or plugin.problem
        if plugin.name == name and plugin.card is not None and not broken:
            return plugin, plugin.card
    raise RegistryError(f"model {name!r} from {entry.origin} is broken: {entry.problem}")


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
    from torch import nn  # noqa: PLC0415  (torch is imported only for real work)

    try:
        model = architecture.build(
            input_shape=tuple(input_shape), n_classes=n_classes, **(options or {})
        )
    # It is a plugin's code.
    except (Exception, SystemExit) as error:
        raise RegistryError(
            f"model {architecture.name!r} from {architecture.origin} cannot be built for inputs "
            f"{tuple(input_shape)} and {n_classes} classes: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise RegistryError(
            f"model {architecture.name!r} from {architecture.origin} is broken: build() returned "
            f"{type(model).__name__}; it must return a torch.nn.Module"
        )
    return model.eval()


def load_model(
    model_name: str,
    *,
    dataset: str | None = None,
    norm: Norm | None = None,
    threat_model: Norm | None = None,
    plugins: tuple[Path, ...] = (),
    weights: Path | str | None = None,
) -> nn.Module:
    """Return a model with its trained weights, in eval mode, on the CPU.

    Maps (batch, C, H, W) in [0, 1] to logits (batch, K). model_name: of an architecture, NAME or
    NAME/VARIANT where it has several sets of weights; or SOURCE:REFERENCE for a model of another
    library or of a file of one's own (models.sources), as timm:resnet18. dataset: the one that the
    weights are for, a name or files in a form such as npz:FILE, fashion_mnist by default; a model
    of a source is held to it where it is given.
    threat_model is another name of norm, which RobustBench uses. plugins: folders of plugins,
    beside those in use. weights: a file of weights for a model of a source that takes one. The code
    of a plugin that is not trusted runs in a process of its own, within limits; what is returned
    stands in for the network, and has no parameters (models.isolated.IsolatedModel). Raises
    RegistryError for an unknown or broken plugin or package, InputError where there are no weights
    for dataset, IntegrityError where the weights file is not the one that the card names or fits
    no such network, DataUnavailableError where weights cannot be downloaded.
    """
    if not isinstance(model_name, str):
        raise InputError(f"model_name={shown(model_name)} is no name; give one, such as 'lipflow'")
    if is_from_source(model_name):
        from robustbench_dyn.models.sources.assembly import load_from_source  # noqa: PLC0415

        wanted = norm or threat_model
        return load_from_source(model_name, dataset=dataset, norm=wanted, weights=weights).model
    refuse_weights(model_name, weights)
    from robustbench_dyn.datasets import dataset_name  # noqa: PLC0415

    dataset = dataset_name(dataset or "fashion_mnist")
    name, variant = split_name(model_name)
    plugin, card = find_architecture(name, plugins)
    if is_trusted(plugin):
        architecture = discover(plugins).get(name)
        trained = architecture.weights_for(dataset, norm or threat_model, variant)
        return load_weights(architecture, trained)
    from robustbench_dyn.models.identity import ModelIdentity, remember  # noqa: PLC0415
    from robustbench_dyn.models.isolated import load_isolated  # noqa: PLC0415

    trained = weights_for(card, dataset, norm or threat_model, variant)
    model = load_isolated(plugin, model_name, trained, plugins=plugins)
    identity = ModelIdentity(
        name=full_name(name, trained.variant),
        family=card.family,
        plugin_version=card.version,
        code_sha256=hash_code(plugin.folder),
        weights_sha256=trained.sha256,
        state_sha256=model.facts["state_sha256"],
        recipe_sha256=hash_recipe(plugin.folder, trained),
    )
    remember(model, identity)
    return model


def check_model(
    model_name: str,
    *,
    dataset: str,
    norm: Norm | None = None,
    plugins: tuple[Path, ...] = (),
    weights: Path | str | None = None,
) -> None:
    """Raise what load_model would raise for these arguments, as far as it is seen without torch.

    No weights are read, and no code of a plugin or of another library runs.
    """
    if is_from_source(model_name):
        source = source_of(model_name).source
        source.check_weights(weights)
        source.check_installed(model_name)
        return
    refuse_weights(model_name, weights)
    name, variant = split_name(model_name)
    _, card = find_architecture(name, plugins)
    weights_for(card, dataset, norm, variant)


def refuse_weights(model_name: str, weights: Path | str | None) -> None:
    """Raise InputError where a file of weights is given to a plugin."""
    if weights is not None:
        raise InputError(
            f"weights={shown(str(weights))} cannot be used: {model_name!r} names a plugin, whose "
            "card names its weights; give a file to a model of your own, by "
            "module:FILE.py:FUNCTION"
        )


def load_weights(
    architecture: Architecture,
    weights: Weights,
    *,
    input_shape: Sequence[int] | None = None,
    n_classes: int | None = None,
) -> nn.Module:
    """Build the network of a set of weights and fill it, in eval mode, on the CPU.

    input_shape, (C, H, W), and n_classes: those of the data set, unless its name says them. Raises
    IntegrityError where the file is not the one that the card names, or fits no such network.
    """
    from robustbench_dyn.datasets import dataset_info  # noqa: PLC0415
    from robustbench_dyn.models.identity import (  # noqa: PLC0415
        ModelIdentity,
        hash_tensors,
        remember,
    )
    from robustbench_dyn.models.weights import fill  # noqa: PLC0415

    path = architecture.folder / weights.file
    if not path.is_file():
        raise IntegrityError(f"the weights file {path} is missing; reinstall the plugin")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise IntegrityError(
            f"the weights file {path} is not the one that card.yaml names (its SHA-256 differs); "
            "it is corrupted or was replaced: restore it, or train it again"
        )
    if input_shape is None or n_classes is None:
        info = dataset_info(weights.dataset)
        input_shape, n_classes = info.input_shape, info.n_classes
    channels, height, width = input_shape
    model = build_model(
        architecture,
        input_shape=(channels, height, width),
        n_classes=n_classes,
        options=weights.options,
    )
    try:
        fill(model, content)
    except IntegrityError as error:
        raise IntegrityError(f"{path} does not fit model {architecture.name!r}: {error}") from error
    identity = ModelIdentity(
        name=full_name(architecture.name, weights.variant),
        family=architecture.card.family,
        plugin_version=architecture.card.version,
        code_sha256=architecture.code_sha256,
        weights_sha256=weights.sha256,
        state_sha256=hash_tensors(model.state_dict()),
        recipe_sha256=hash_recipe(architecture.folder, weights),
    )
    remember(model, identity)
    return model


def hash_recipe(folder: Path, weights: Weights) -> str:
    """Return the SHA-256 of the recipe that a card names for weights; empty where it has none.

    folder: of the plugin. A file outside of it is none, nor is one too long for a recipe.
    """
    if not weights.recipe.isprintable():
        return ""
    path = (folder / weights.recipe).resolve()
    if not path.is_relative_to(folder.resolve()):
        return ""
    try:
        return hashlib.sha256(read_text(path).encode()).hexdigest()
    except InputError:
        return ""
