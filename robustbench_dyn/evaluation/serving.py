"""The process of foreign code at work: it loads plugins, and runs their models and certifiers.

Each function takes the state that earlier calls have left, and a message; it returns the answer.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_dyn.certification.base import PreparedCertifier
from robustbench_dyn.certification.catalogue import CERTIFIERS, select_certifiers
from robustbench_dyn.isolation.channel import Message
from robustbench_dyn.lipschitz.bounds import lipschitz_bound
from robustbench_dyn.models.counting import surrogates_of
from robustbench_dyn.models.identity import hash_tensors
from robustbench_dyn.models.loading import import_architecture, load_weights
from robustbench_dyn.models.precision import full_precision
from robustbench_dyn.models.serving import State, part_of, serve
from robustbench_dyn.plugins import Weights, load_plugins, read_plugin
from robustbench_dyn.threat_models import ThreatModel


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
    state.update(serve(parts), selections=[])
    facts = {name: _facts(part) for name, part in parts.items()}
    return Message("loaded", facts.pop("") | {"surrogates": facts})


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
