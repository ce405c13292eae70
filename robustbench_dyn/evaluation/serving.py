"""The process of a foreign model at work: it loads, passes, differentiates, proves.

models.isolated and certification.isolated ask for it.

Each function takes the state that earlier calls have left, and a message; it returns the answer.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_dyn.certification.base import PreparedCertifier
from robustbench_dyn.certification.catalogue import CERTIFIERS, select_certifiers
from robustbench_dyn.errors import InputError
from robustbench_dyn.isolation.channel import Message
from robustbench_dyn.lipschitz.bounds import lipschitz_bound
from robustbench_dyn.models.counting import surrogates_of
from robustbench_dyn.models.forward import call
from robustbench_dyn.models.forward import writes_into_input as writes_into
from robustbench_dyn.models.identity import hash_tensors
from robustbench_dyn.models.loading import import_architecture, load_weights
from robustbench_dyn.models.precision import full_precision
from robustbench_dyn.models.validation import check_frozen
from robustbench_dyn.plugins import Weights, load_plugins, read_plugin
from robustbench_dyn.threat_models import ThreatModel

# What earlier calls have left for later ones.
State = dict[str, Any]


def load(state: State, message: Message) -> Message:
    """Import a plugin, build its network, and fill it with weights."""
    about = message.content
    # For as long as the process lives.
    state["settings"] = ExitStack()
    state["settings"].enter_context(full_precision())
    load_plugins(*about["folders"], trust=True)
    architecture = import_architecture(read_plugin(Path(about["plugin"]), about["origin"]))
    model = load_weights(architecture, Weights.model_validate(about["weights"]))
    parts = {"": _frozen(model)}
    parts |= {name: _frozen(part) for name, part in surrogates_of(model).items()}
    state.update(parts=parts, graphs={}, n_graphs=0, unchecked=True, selections=[])
    facts = {name: _facts(part) for name, part in parts.items()}
    return Message("loaded", facts.pop("") | {"surrogates": facts})


def forward(state: State, message: Message) -> Message:
    """Return the logits of one pass; where `recorded` says so, keep its graph."""
    model, x = part_of(state, message), message.tensors["x"].to(message.content["device"])
    if state["unchecked"]:
        _check_once(state, model, x)
    if not message.content["recorded"]:
        with torch.no_grad():
            return Message("passed", tensors={"logits": _logits(call(model, x))})
    with torch.enable_grad():
        x.requires_grad_()
        logits = _logits(call(model, x))
    if not logits.requires_grad:
        return Message("passed", {"graph": None}, {"logits": logits})
    state["n_graphs"] += 1
    number = state["n_graphs"]
    state["graphs"][number] = x, logits
    return Message("passed", {"graph": number}, {"logits": logits})


def backward(state: State, message: Message) -> Message:
    """Return the gradient of a pass' input for a gradient of its logits."""
    part_of(state, message)
    x, logits = state["graphs"][message.content["graph"]]
    gradient = message.tensors["gradient"].to(logits)
    # Kept: attacks ask for the gradient of one class after the other.
    (of_input,) = torch.autograd.grad(logits, x, gradient, retain_graph=True, allow_unused=True)
    if of_input is None:
        of_input = torch.zeros_like(x)
    return Message("passed", tensors={"gradient": of_input})


def writes_into_input(state: State, message: Message) -> Message:
    """Say whether the forward writes into its input."""
    model, x = part_of(state, message), message.tensors["x"].to(message.content["device"])
    return Message("tried", {"writes": writes_into(model, x)})


def select(state: State, message: Message) -> Message:
    """Prepare certifiers for the network; see certification.isolated."""
    model, about = part_of(state, message), message.content
    given = [CERTIFIERS.create(name, settings) for name, settings in about["certifiers"]]
    selection = select_certifiers(
        [*(["auto"] if about["auto"] else []), *given] or "none",
        model,
        tuple(about["input_shape"]),
        about["norm"],
        strict_rounding=about["strict_rounding"],
    )
    # A run may select twice: each selection stays.
    state["selections"].append({p.certifier.name: p for p in selection.ready})
    return Message(
        "selected",
        {
            "selection": len(state["selections"]) - 1,
            "ready": [[p.certifier.name, p.certifier.settings()] for p in selection.ready],
            "not_applicable": selection.not_applicable,
            "crashed": selection.crashed,
        },
    )


def prove(state: State, message: Message) -> Message:
    """Run one of the prepared certifiers; see certification.isolated."""
    part_of(state, message)
    about, tensors = message.content, message.tensors
    prepared: PreparedCertifier = state["selections"][about["selection"]][about["certifier"]]
    x, logits = (tensors[name].to(about["device"]) for name in ("x", "logits"))
    threat_model = ThreatModel(about["norm"], about["eps"])
    proof = prepared.prove(x, logits, logits.argmax(dim=1), threat_model)
    found = {"class_radii": proof.class_radii}
    if proof.candidates is not None:
        found["candidates"] = proof.candidates
    if proof.within_rounding is not None:
        found["within_rounding"] = proof.within_rounding
    return Message("proved", {"forward_passes": proof.forward_passes}, found)


def part_of(state: State, message: Message) -> nn.Module:
    """Return the network that a message is about, on its device, with all generators seeded."""
    about = message.content
    for number in about["unused"]:
        state["graphs"].pop(number, None)
    _reseed(state, about["seed"])
    model: nn.Module = state["parts"][about["part"]]
    return model.to(about["device"])


def _reseed(state: State, seed: int) -> None:
    """Seed all global generators; the same seed as in the last call lets them go on.

    The seed is a digest of the other process' generator: where that was seeded anew, or has drawn,
    so have these been; a model that draws at random draws the same in identical runs.
    """
    if state.get("seed") == seed:
        return
    state["seed"] = seed
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (a model may draw from this stream)
    random.seed(seed)


def _check_once(state: State, model: nn.Module, x: Tensor) -> None:
    """Refuse a network that keeps something stale while frozen; see models.validation."""
    state["unchecked"] = False
    with torch.no_grad():
        try:
            logits = call(model, x)
        except RuntimeError:  # it differentiates inside its forward
            return
        if isinstance(logits, Tensor):
            check_frozen(model, x, logits)


def _logits(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise InputError(
            f"the model must return logits (batch, classes); it returned {type(output).__name__}"
        )
    return output


def _frozen(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)


def _facts(model: nn.Module) -> dict[str, Any]:
    try:
        bound = float(lipschitz_bound(model))
    # The model's own method may raise anything; the certifier tells what.
    except Exception:
        bound = None
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "lipschitz_bound": bound,
        "state_sha256": hash_tensors(model.state_dict()),
        "surrogates": {},
    }
