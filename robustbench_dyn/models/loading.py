"""Architectures by name, and networks with their trained weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_dyn.errors import IntegrityError, RegistryError
from robustbench_dyn.models.architectures import Architecture, full_name, split_name
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
)

if TYPE_CHECKING:
    from torch import nn

    from robustbench_dyn.strict_yaml import Option
    from robustbench_dyn.threat_models import Norm


def discover(plugin_folders: tuple[Path, ...] = ()) -> Registry[Architecture]:
    """Return the architectures of the plugins in use, and of those in plugin_folders.

    A plugin's code is imported when its architecture is got. Raises RegistryError where a folder
    does not exist or a name is taken twice.
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


def architecture_entry(plugin: Plugin) -> Entry:
    """Return the entry of a plugin that provides an architecture, whose target imports it."""
    card = plugin.card
    return Entry(
        name=plugin.name,
        target=Lazy(partial(_import_architecture, plugin, card)) if card else None,
        description=card.summary if card else "",
        origin=plugin.origin,
        problem=plugin.problem,
    )


def _import_architecture(plugin: Plugin, card: Card) -> Architecture:
    module = import_plugin(plugin)
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
    an architecture has several sets of weights. threat_model is another name of norm, which
    RobustBench uses. plugins: folders of plugins, beside those in use. Raises RegistryError for an
    unknown or broken plugin, InputError where it has no weights for dataset, IntegrityError where
    the weights file is not the one that the card names.
    """
    name, variant = split_name(model_name)
    architecture = discover(plugins).get(name)
    weights = architecture.weights_for(dataset, norm or threat_model, variant)
    return load_weights(architecture, weights)


def load_weights(architecture: Architecture, weights: Weights) -> nn.Module:
    """Build the network of a set of weights and fill it, in eval mode, on the CPU.

    Raises IntegrityError where the file is not the one that the card names, or fits no such
    network.
    """
    from safetensors.torch import load  # noqa: PLC0415  (torch is imported only for real work)

    from robustbench_dyn.datasets import dataset_info  # noqa: PLC0415
    from robustbench_dyn.models.identity import (  # noqa: PLC0415
        ModelIdentity,
        hash_tensors,
        remember,
    )

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
    identity = ModelIdentity(
        name=full_name(architecture.name, weights.variant),
        family=architecture.card.family,
        plugin_version=architecture.card.version,
        code_sha256=architecture.code_sha256,
        weights_sha256=weights.sha256,
        state_sha256=hash_tensors(model.state_dict()),
    )
    remember(model, identity)
    return model
