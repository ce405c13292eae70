"""Hashes of everything that a verdict depends on: model, code, data and configuration."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_dyn.names import check_name


@dataclass(frozen=True)
class ModelIdentity:
    """The origin of a model; attached to a registered model as `model.identity`."""

    name: str
    family: str = ""
    plugin_version: str = ""
    code_sha256: str = ""
    weights_sha256: str = ""
    state_sha256: str = ""


def registered_identity(model: nn.Module) -> ModelIdentity | None:
    """Return the identity of a registered model; None if it has none or its weights changed."""
    identity: ModelIdentity | None = getattr(model, "identity", None)
    if identity is None or identity.state_sha256 != hash_tensors(model.state_dict()):
        return None
    return identity


def identify(model: nn.Module, logits: Tensor, *, name: str | None = None) -> ModelIdentity:
    """Return an identity for any module: hashes of its weights and of its logits.

    logits: of the model on a few fixed examples, (n, classes); modules with equal weights may
    compute different functions. Raises InputError where the name is none: give `name` then.
    """
    name = name or type(model).__name__
    check_name(name, "model")
    state = hash_tensors(model.state_dict())
    return ModelIdentity(
        name=name,
        code_sha256=hash_tensors({"logits": logits}),
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
