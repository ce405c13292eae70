"""Rules about logits: their number, types and values, and that they belong to the input alone."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_dyn.evaluation.contract.rules import ModelRule, Subject, difference
from robustbench_dyn.models.forward import call_without_graph, writes_into_input
from robustbench_dyn.models.validation import are_probabilities, probes
from robustbench_dyn.plugins.contract import Outcome

# A batch may be computed by other kernels than an example: so many units in the last place.
_BATCH_SLACK = 1e-4


def _classes(subject: Subject) -> Outcome:
    logits = call_without_graph(subject.model, subject.x)
    if not isinstance(logits, Tensor):
        return Outcome(False, f"the network returns {type(logits).__name__}")
    wanted = (len(subject.x), subject.data.n_classes)
    shape = tuple(logits.shape)
    if logits.dim() != 2 or len(logits) != len(subject.x):
        return Outcome(False, f"shape {shape} for {len(subject.x)} examples")
    n = f"{shape[1]} outputs for {wanted[1]} classes"
    return Outcome(shape == wanted, n)


def _batches(subject: Subject) -> Outcome:
    few = torch.cat([subject.x] * 2)[:7]
    alone = torch.cat([call_without_graph(subject.model, example[None]) for example in few])
    worst = 0.0
    for size in (2, 3, len(few)):
        together = torch.cat(
            [call_without_graph(subject.model, part) for part in torch.split(few, size)]
        )
        if together.shape != alone.shape:
            return Outcome(False, f"shape {tuple(together.shape)} in batches of {size}")
        worst = max(worst, difference(together, alone))
    found = f"relative difference {worst:.1e} between an example alone and in batches"
    return Outcome(worst <= _BATCH_SLACK, found)


def _types(subject: Subject) -> Outcome:
    state = subject.model.state_dict()
    odd = [
        f"{name} is {tensor.dtype}"
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
        and tensor.is_floating_point()
        and tensor.dtype != torch.float32
    ]
    dtype = call_without_graph(subject.model, subject.x).dtype
    if dtype != torch.float32:
        odd.append(f"the logits are {dtype}")
    return Outcome(not odd, "; ".join(odd[:3]) or "float32 throughout")


def _finite(subject: Subject) -> Outcome:
    inputs = torch.cat([subject.x, probes(tuple(subject.x.shape[1:]), subject.x.dtype)])
    rows = ~call_without_graph(subject.model, inputs).isfinite().all(dim=1)
    n = len(inputs)
    found = f"finite at {n - int(rows.sum())} of {n} inputs: data, noise, even images"
    return Outcome(not bool(rows.any()), found)


def _logits(subject: Subject) -> Outcome:
    probabilities = are_probabilities(call_without_graph(subject.model, subject.x))
    return Outcome(
        not probabilities, "probabilities that sum to 1" if probabilities else "no probabilities"
    )


def _input_kept(subject: Subject) -> Outcome:
    writes = writes_into_input(subject.model, subject.x)
    return Outcome(not writes, "forward() writes into x" if writes else "x is left as it was")


RULES = (
    ModelRule(
        "classes",
        "logits of shape (batch, classes), one for each class of the data set",
        "make the last layer with the n_classes that build(input_shape, n_classes) is given",
        _classes,
        needed=True,
    ),
    ModelRule(
        "types",
        "weights, buffers and logits in float32",
        "leave out .double() and .half(); cast inside forward() back to x.dtype",
        _types,
        needed=True,
    ),
    ModelRule(
        "batches",
        "batches of any size, each example with the same logits as alone",
        "use nothing that mixes a batch in eval mode: x.mean(dim=0), batch statistics, a step size "
        "chosen for the whole batch, view() with a fixed batch size",
        _batches,
    ),
    ModelRule(
        "finite",
        "finite logits at every input in [0, 1]",
        "look for divisions by 0, logarithms and roots of 0, and weights that ran away",
        _finite,
        needed=True,
    ),
    ModelRule(
        "logits",
        "logits, not probabilities, whose gradients vanish",
        "leave out the softmax at the end",
        _logits,
    ),
    ModelRule(
        "input",
        "an input that forward() leaves as it is",
        "write x = x + y instead of x += y, and no inplace=True on x itself",
        _input_kept,
    ),
)
