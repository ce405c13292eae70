"""What a verdict depends on, as hashes: the model, its code, the data and the configuration."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelIdentity:
    """Where a model comes from; attached to a registered model as `model.identity`."""

    name: str
    family: str = ""
    plugin_version: str = ""
    code_sha256: str = ""
    weights_sha256: str = ""
    state_sha256: str = ""


def identify(model: nn.Module, x: Tensor, *, name: str | None = None) -> ModelIdentity:
    """Return the model's identity as it is now.

    A registered model keeps its plugin's identity as long as its weights are untouched. Any
    other module is told apart by its weights and by its logits on the first examples, since two
    modules with equal weights can compute different things.
    """
    state = hash_tensors(model.state_dict())
    known: ModelIdentity | None = getattr(model, "identity", None)
    if known is not None and known.state_sha256 == state:
        return known
    with torch.no_grad():
        logits = model(x[:16])
    fingerprint = hash_tensors({"logits": logits, "shape": torch.tensor(x.shape[1:])})
    return ModelIdentity(
        name=name or (known.name if known else type(model).__name__),
        family=known.family if known else "",
        code_sha256=fingerprint,
        weights_sha256=state,
        state_sha256=state,
    )


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and contents."""
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


def identity_columns(identity: ModelIdentity) -> dict[str, str]:
    """Return the identity as plain strings, for a record."""
    return asdict(identity)
