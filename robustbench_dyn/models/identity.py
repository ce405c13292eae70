"""Hashes of everything that a verdict depends on: model, code, data and configuration.

The identity of a registered model is remembered here, not on the model, which could state any.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
import weakref
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.errors import InputError
from robustbench_dyn.models.fingerprint import UnknownContentError, fingerprint
from robustbench_dyn.models.isolated import IsolatedModel
from robustbench_dyn.models.sources import SOURCES
from robustbench_dyn.names import check_name


@dataclass(frozen=True)
class ModelIdentity:
    """The origin of a model, and the hashes by which its verdicts are found again.

    recipe_sha256: of the recipe that its weights were trained by; empty where there is none.
    """

    name: str
    family: str = ""
    plugin_version: str = ""
    code_sha256: str = ""
    weights_sha256: str = ""
    state_sha256: str = ""
    recipe_sha256: str = ""


class _Remembered(NamedTuple):
    """An identity, and the module and the content that it was given for."""

    model: weakref.ref[nn.Module]
    identity: ModelIdentity
    content: str


# By the place in memory: a class may define by itself which modules are equal.
_remembered: dict[int, _Remembered] = {}
_names: set[str] = set()


def remember(model: nn.Module, identity: ModelIdentity, *, measured: bool = False) -> None:
    """Remember a model that was built from a registered plugin or loaded by its name, as it is now.

    A model with content of which no fingerprint can be taken is not remembered; its function is
    measured like that of an unregistered one. measured: the hash of its code does not cover all
    that it computes with, so that its function is measured at each evaluation, under its name.
    """
    _names.add(_folded(identity.name.partition("/")[0]))
    place = id(model)
    try:
        # What another process runs is measured as well.
        content = "" if measured or isinstance(model, IsolatedModel) else fingerprint(model)
    except UnknownContentError:
        _remembered.pop(place, None)
        return
    there = weakref.ref(model, lambda _: _remembered.pop(place, None))
    _remembered[place] = _Remembered(there, identity, content)


def registered_identity(model: nn.Module) -> ModelIdentity | None:
    """Return the identity of a registered model; None if it has none, or is not as it was.

    Its weights, attributes, hooks and classes have to be those that were remembered. Takes no
    forward pass.
    """
    known = _remembered.get(id(model))
    if known is None or known.model() is not model or not known.content:
        return None
    try:
        return known.identity if fingerprint(model) == known.content else None
    except UnknownContentError:
        return None


def measured_identity(model: nn.Module) -> ModelIdentity | None:
    """Return the identity of a model whose function is measured; None for any other.

    Such a model runs in another process, or is the user's own code, with the weights it had.
    """
    known = _remembered.get(id(model))
    if known is None or known.model() is not model or known.content:
        return None
    if isinstance(model, IsolatedModel):
        return known.identity
    same = hash_tensors(model.state_dict()) == known.identity.state_sha256
    return known.identity if same else None


def check_unregistered(name: str, registered: set[str]) -> None:
    """Raise InputError where an unregistered model is called like a registered one.

    registered: the names of the plugins that are in use. The names of sources are taken as well.
    """
    known = _names | {_folded(other) for other in (*registered, *SOURCES)}
    if _folded(name.partition("/")[0]) in known:
        raise InputError(
            f"{name!r} is the name of a registered model, and this is not that model as it was "
            "loaded; give it another name, by name="
        )


def _folded(name: str) -> str:
    """Return a name without what hardly shows: case, spaces around it, forms of one letter."""
    return unicodedata.normalize("NFKC", name).strip().casefold()


def identify(model: nn.Module, logits: Tensor, *, name: str) -> ModelIdentity:
    """Return an identity for any module: hashes of its weights and of its logits.

    A model in another process, or of the user's own file, keeps what it was loaded with, and its
    logits join the hash of its code. logits: of the model on a few fixed examples, (n, classes);
    modules with equal weights may compute different functions. Raises InputError where the name is
    none: give `name` then.
    """
    measured = hash_tensors({"logits": logits})
    loaded = measured_identity(model)
    if loaded is not None:
        code = hashlib.sha256(f"{loaded.code_sha256} {measured}".encode()).hexdigest()
        return replace(loaded, code_sha256=code)
    name = name or type(model).__name__
    check_name(name, "model")
    state = hash_tensors(model.state_dict())
    return ModelIdentity(
        name=name,
        code_sha256=measured,
        weights_sha256=state,
        state_sha256=state,
    )


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        if not isinstance(tensor, Tensor):
            digest.update(f"{name}={tensor!r}".encode())
            continue
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def hash_configuration(configuration: dict[str, Any]) -> str:
    """Return the SHA-256 of a configuration, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()
