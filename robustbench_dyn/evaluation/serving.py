"""The process of foreign code at work: it loads plugins, and runs their models and certifiers.

Each function takes the state that earlier calls have left, and a message; it returns the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustbench_dyn.attacks import isolated as attacks
from robustbench_dyn.attacks.catalogue import ATTACKS
from robustbench_dyn.attacks.problem import AttackProblem
from robustbench_dyn.certification import isolated as certifiers
from robustbench_dyn.certification.base import PreparedCertifier
from robustbench_dyn.certification.catalogue import CERTIFIERS, select_certifiers
from robustbench_dyn.datasets import DATASETS, RawSplit
from robustbench_dyn.datasets import isolated as datasets
from robustbench_dyn.isolation.channel import Message
from robustbench_dyn.lipschitz.bounds import lipschitz_bound, pairwise_lipschitz
from robustbench_dyn.lipschitz.declared import declared_bounds
from robustbench_dyn.models.counting import surrogates_of
from robustbench_dyn.models.identity import hash_tensors
from robustbench_dyn.models.isolated import IsolatedModel
from robustbench_dyn.models.loading import import_architecture, load_weights
from robustbench_dyn.models.precision import full_precision
from robustbench_dyn.models.serving import State, part_of, serve
from robustbench_dyn.plugins import Kind, Registry, Weights, load_plugins, read_plugin
from robustbench_dyn.threat_models import ThreatModel


def use(_state: State, message: Message) -> Message:
    """Use the plugins in folders, inside this process."""
    load_plugins(*message.content["folders"], trust=True)
    return Message("used")


def describe(_state: State, message: Message) -> Message:
    """Say what the plugin in a folder brings, by kind: the facts, or the problem, of each thing."""
    folder = Path(message.content["folder"])
    registries: dict[Kind, tuple[Registry[Any], Callable[[Any], dict[str, Any]]]] = {
        "attacks": (ATTACKS, attacks.facts_of),
        "certifiers": (CERTIFIERS, certifiers.facts_of),
        "datasets": (DATASETS, datasets.facts_of),
    }
    origin, found = f"the folder {folder}", dict[str, list[dict[str, Any]]]()
    for kind, (registry, facts_of) in registries.items():
        found[kind] = [
            {"name": entry.name, "problem": entry.problem}
            if entry.problem
            else {"facts": facts_of(registry.get(entry.name))}
            for entry in registry.entries().values()
            if entry.origin == origin
        ]
    return Message("described", found)


def load_raw(_state: State, message: Message) -> Message:
    """Read a split of a data set that a plugin brings, or some rows of it, with its hash."""
    about = message.content
    folder = Path(about["data_dir"]) if about["data_dir"] else None
    info, content = DATASETS.get(about["dataset"]), dict[str, Any]()
    if "rows" in about and info.load_rows is not None:
        rows = info.load_rows(about["split"], range(*about["rows"]), folder)
        raw, content["sha256"] = RawSplit(*rows[:3]), rows.sha256
    else:
        raw = info.load_raw(about["split"], folder)
    content["white"] = raw.white
    tensors = {"x": torch.from_numpy(raw.x.copy()), "y": torch.from_numpy(raw.y.copy())}
    return Message("read", content, tensors)


def perturb(state: State, message: Message) -> Message:
    """Run an attack that a plugin brings; it asks the other process for logits and gradients."""
    about, tensors = message.content, message.tensors
    attack = ATTACKS.create(about["attack"], about["settings"])
    surrogates: dict[str, Any] = {name: {} for name in about["surrogates"]}
    torch.set_rng_state(tensors["random_state"])
    candidates = attack.perturb(
        AttackProblem(
            model=IsolatedModel(state["asking"], {"surrogates": surrogates}),
            x=tensors["x"],
            y=tensors["y"],
            threat_model=ThreatModel(about["norm"], about["eps"]),
            seed=about["seed"],
            n_classes=about["n_classes"],
            batch_size=about["batch_size"],
            class_radii=tensors["class_radii"],
        )
    )
    return Message(
        "searched", {}, {"candidates": candidates.detach(), "random_state": torch.get_rng_state()}
    )


def load(state: State, message: Message) -> Message:
    """Import a plugin, build its network, and fill it with weights."""
    about = message.content
    # For as long as the process lives.
    state["settings"] = ExitStack()
    state["settings"].enter_context(full_precision())
    load_plugins(*about["folders"], trust=True)
    architecture = import_architecture(read_plugin(Path(about["plugin"]), about["origin"]))
    model = load_weights(
        architecture,
        Weights.model_validate(about["weights"]),
        input_shape=about.get("input_shape"),
        n_classes=about.get("n_classes"),
    )
    parts = {"": _frozen(model)}
    parts |= {name: _frozen(part) for name, part in surrogates_of(model).items()}
    state.update(serve(parts), selections=[])
    facts = {name: _facts(part) for name, part in parts.items()}
    return Message("loaded", facts.pop("") | {"surrogates": facts})


def bounds(state: State, message: Message) -> Message:
    """Return the Lipschitz constants of all logit differences that certificates rest on."""
    return Message("bounds", {}, {"bounds": pairwise_lipschitz(part_of(state, message))})


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
            "ready": [
                [p.certifier.name, p.certifier.settings(), p.at_once] for p in selection.ready
            ],
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
    if proof.margins is not None:
        found["margins"] = proof.margins
    if proof.gave_up is not None:
        found["gave_up"] = proof.gave_up
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
        "declared_bounds": declared_bounds(model),
        "state_sha256": hash_tensors(model.state_dict()),
        "surrogates": {},
    }
