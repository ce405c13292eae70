"""A network that serves another process: passes, and gradients of passes.

models.isolated.IsolatedModel asks for them. Each function takes the state that earlier calls have
left, and a message; it returns the answer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_dyn.errors import InputError
from robustbench_dyn.isolation.channel import Message
from robustbench_dyn.models.forward import call
from robustbench_dyn.models.forward import writes_into_input as writes_into
from robustbench_dyn.models.validation import check_frozen

# So many passes may wait for their gradients at once.
_MOST_GRAPHS = 64
# What earlier calls have left for later ones.
State = dict[str, Any]


def serve(parts: Mapping[str, nn.Module]) -> State:
    """Return the state for networks in eval mode, frozen; "" is the name of the main one."""
    return {"parts": dict(parts), "graphs": {}, "n_graphs": 0, "devices": {}, "unchecked": True}


def serve_attack(parts: Mapping[str, nn.Module], like: Tensor, most: int) -> State:
    """Return the state for questions of an attack about networks of this process; see answer.

    like: inputs of the shape, type and device that it may ask about, at most `most` at once.
    """
    served = serve(parts)
    devices = dict.fromkeys(parts, str(like.device))
    return served | {"unchecked": False, "devices": devices, "like": like[:0], "most": most}


def answer(state: State, question: Message) -> Message:
    """Answer what foreign code asks of a network of this process: passes and gradients alone.

    Raises InputError for any other question.
    """
    known = {"models.serving:forward": forward, "models.serving:backward": backward}
    what = question.content.get("what")
    if what not in known:
        raise InputError(f"{what!r} is no question that is answered")
    part, graph = question.content.get("part"), question.content.get("graph")
    if part not in state["parts"] or (graph is not None and graph not in state["graphs"]):
        raise InputError("there is no such network, or no such pass")
    like: Tensor = state["like"]
    x = question.tensors.get("x")
    if what.endswith("forward") and not (
        x is not None
        and x.shape[1:] == like.shape[1:]
        and x.dtype == like.dtype
        and len(x) <= state["most"]
    ):
        raise InputError(
            f"an attack may ask about at most {state['most']} inputs of shape "
            f"{tuple(like.shape[1:])} and type {like.dtype} at once"
        )
    for number in question.content.get("unused", ()):
        state["graphs"].pop(number if isinstance(number, int) else None, None)
    if len(state["graphs"]) >= _MOST_GRAPHS and what.endswith("forward"):
        raise InputError(f"an attack may keep the graphs of at most {_MOST_GRAPHS} passes")
    # The networks stay where they are, and only their own process seeds generators.
    device = like.device
    content = {**question.content, "seed": None, "device": str(device), "unused": []}
    return known[what](state, Message(question.name, content, question.tensors))


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
    # A gradient that is given as such makes torch import sympy, for half a second.
    with torch.enable_grad():
        total = (logits * gradient).sum()
    # Kept: attacks ask for the gradient of one class after the other.
    (of_input,) = torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)
    if of_input is None:
        of_input = torch.zeros_like(x)
    return Message("passed", tensors={"gradient": of_input})


def writes_into_input(state: State, message: Message) -> Message:
    """Say whether the forward writes into its input."""
    model, x = part_of(state, message), message.tensors["x"].to(message.content["device"])
    return Message("tried", {"writes": writes_into(model, x)})


def part_of(state: State, message: Message) -> nn.Module:
    """Return the network that a message is about, on its device, with all generators seeded."""
    about = message.content
    for number in about["unused"]:
        state["graphs"].pop(number, None)
    reseed(state, about["seed"])
    model: nn.Module = state["parts"][about["part"]]
    # To look at every parameter takes as long as a small pass.
    if state["devices"].get(about["part"]) != about["device"]:
        model.to(about["device"])
        state["devices"][about["part"]] = about["device"]
    return model


def reseed(state: State, seed: int | None) -> None:
    """Seed all global generators; None, or the seed of the last call, lets them go on.

    The seed is a digest of the other process' generator: where that was seeded anew, or has drawn,
    so have these been; a model that draws at random draws the same in identical runs.
    """
    if seed is None or state.get("seed") == seed:
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
