"""Rules about the module: gradients, modes, types, devices, and weights that can be saved."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from safetensors.torch import save
from torch import Tensor, nn

from robustbench_dyn.errors import InputError, IntegrityError, one_line
from robustbench_dyn.evaluation.contract.rules import ModelRule, Subject, difference
from robustbench_dyn.models.forward import call_without_graph
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.validation import check_frozen
from robustbench_dyn.models.weights import fill
from robustbench_dyn.plugins.contract import Outcome

_DIRECTIONS = 4
_STEP = 1e-5
# Two differences agree, or a derivative with them, to this share of the largest derivative.
_SLOPE_SLACK = 1e-3
# Of logits in float64 and on another device, relative to the largest.
_ROUNDING = 1e-3


def _gradients(subject: Subject) -> Outcome:
    """Compare the derivative along random directions with differences, in float64."""
    model, x = copy.deepcopy(subject.model).double(), subject.x.double()
    generator = torch.Generator().manual_seed(0)
    wrong = compared = 0
    steepest = worst = 0.0
    for _ in range(_DIRECTIONS):
        v = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        w = torch.randn(subject.data.n_classes, generator=generator, dtype=x.dtype)
        leaf = x.clone().requires_grad_()
        with torch.enable_grad():
            total = (model(leaf) * w).sum()
            if not total.requires_grad:
                return Outcome(False, "the logits have no gradient with respect to the input")
            (gradient,) = torch.autograd.grad(total, leaf, materialize_grads=True)
        slope = (gradient * v).flatten(1).sum(dim=1)
        with torch.no_grad():
            wide, narrow = (
                ((model(x + h * v) - model(x - h * v)) @ w) / (2 * h) for h in (_STEP, _STEP / 8)
            )
        if wide.any() and not gradient.any():
            return Outcome(False, "the gradient at the input is 0 where the logits change")
        size = max(float(wide.abs().max()), float(slope.abs().max()))
        steepest = max(steepest, size)
        # A kink within the step says nothing of the gradient.
        smooth = (wide - narrow).abs() <= _SLOPE_SLACK * size
        off = (slope - narrow).abs()
        compared += int(smooth.sum())
        wrong += int((off[smooth] > _SLOPE_SLACK * size).sum())
        worst = max(worst, float(off[smooth].max()) / size if smooth.any() and size else 0.0)
    if not steepest > 0:
        return Outcome(False, "the logits do not change with the input, or their gradient is NaN")
    found = f"{wrong} of {compared} slopes are wrong, by up to {worst:.1e} of the largest"
    return Outcome(2 * wrong <= compared and compared > 0, found)


def _without_graph(subject: Subject) -> Outcome:
    with torch.enable_grad():
        usual = subject.model(subject.x.clone().requires_grad_()).detach()
    with torch.no_grad():
        bare = subject.model(subject.x.clone())
    off = difference(usual, bare)
    return Outcome(off <= _ROUNDING, f"relative difference {off:.1e} with and without a graph")


def _modes(subject: Subject) -> Outcome:
    model = copy.deepcopy(subject.model).requires_grad_(True)
    for train in (False, True):
        model.train(train)
        before = {name: part.training for name, part in model.named_modules()}
        flags = {name: p.requires_grad for name, p in model.named_parameters()}
        state = {name: t.clone() for name, t in model.state_dict().items() if _is_tensor(t)}
        with torch.no_grad():
            model(torch.cat([subject.x] * 2))
        after = {name: part.training for name, part in model.named_modules()}
        changed = [name or "the network" for name in before if before[name] != after.get(name)]
        if changed:
            return Outcome(False, f"forward() changes the mode of {changed[0]}")
        if flags != {name: p.requires_grad for name, p in model.named_parameters()}:
            return Outcome(False, "forward() changes requires_grad of a parameter")
        now = model.state_dict()
        written = [name for name, t in state.items() if not torch.equal(t, now[name])]
        if not train and written:
            return Outcome(False, f"forward() changes {written[0]} in eval mode")
    return Outcome(True, "a forward pass changes neither modes nor, in eval mode, the state")


def _frozen(subject: Subject) -> Outcome:
    with frozen_eval(subject.model), torch.no_grad():
        try:
            check_frozen(subject.model, subject.x, call_without_graph(subject.model, subject.x))
        except InputError as error:
            return Outcome(False, one_line(str(error).partition(";")[0]))
    return Outcome(True, "the same logits with frozen and with trainable parameters")


def _double(subject: Subject) -> Outcome:
    model = copy.deepcopy(subject.model).double()
    with torch.no_grad():
        logits, usual = model(subject.x.double()), call_without_graph(subject.model, subject.x)
    if logits.dtype != torch.float64:
        return Outcome(False, f"its logits are {logits.dtype} after .double()")
    off = difference(logits, usual.double())
    return Outcome(off <= _ROUNDING, f"relative difference {off:.1e} from those in float32")


def _device(subject: Subject) -> Outcome:
    model = copy.deepcopy(subject.model).to("meta")
    left = [name for name, tensor in _tensors_of(model) if not tensor.is_meta]
    if left:
        return Outcome(False, f"{left[0]} stays behind when the network moves")
    if torch.cuda.is_available():
        there = copy.deepcopy(subject.model).cuda()
        with torch.no_grad():
            off = difference(
                there(subject.x.cuda()).cpu(), call_without_graph(subject.model, subject.x)
            )
        return Outcome(off <= _ROUNDING, f"relative difference {off:.1e} on cuda")
    try:
        with torch.no_grad():
            model(subject.x.to("meta"))
    # Values are missing there: a network that looks at one cannot be run, and may be right.
    except Exception as error:
        text = str(error)
        if "device" in text and "cpu" in text:
            return Outcome(False, one_line(text.partition("\n")[0]))
        return Outcome(True, "all its tensors move (not run: its code reads values)")
    return Outcome(True, "all its tensors move, and forward() makes none on another device")


def _saved(subject: Subject) -> Outcome:
    state = subject.model.state_dict()
    content = save({name: tensor.contiguous() for name, tensor in state.items()})
    other = subject.build_another()
    try:
        fill(other, content)
    except IntegrityError as error:
        return Outcome(False, one_line(str(error)))
    with torch.no_grad():
        off = difference(
            call_without_graph(other, subject.x), call_without_graph(subject.model, subject.x)
        )
    found = f"relative difference {off:.1e} after saving, building and loading"
    return Outcome(off <= 1e-5, found)


def _tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that modules keep, also those outside of parameters and buffers."""
    for name, module in model.named_modules():
        own = [*module._parameters.items(), *module._buffers.items(), *vars(module).items()]
        for attribute, value in own:
            if attribute in ("_parameters", "_buffers", "_modules", "_cache"):
                continue
            values = value.values() if isinstance(value, Mapping) else value
            inside = values if isinstance(value, (list, tuple, Mapping)) else [value]
            for one in inside:
                if isinstance(one, Tensor):
                    yield f"{name}.{attribute}".lstrip("."), one


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


RULES = (
    ModelRule(
        "gradients",
        "gradients at the input that agree with differences of logits",
        "leave out round(), detach(), no_grad() and .data on the way from x to the logits, and "
        "check backward() of your autograd functions",
        _gradients,
    ),
    ModelRule(
        "no_grad",
        "the same logits under torch.no_grad()",
        "put what differentiates inside forward() under torch.enable_grad()",
        _without_graph,
    ),
    ModelRule(
        "modes",
        "a forward() that changes no mode, no flag and, in eval mode, no parameter and no buffer",
        "leave eval(), train() and requires_grad_() to the caller; update buffers only where "
        "self.training is true",
        _modes,
    ),
    ModelRule(
        "frozen",
        "the same logits with frozen parameters as in training",
        "derive tensors from parameters in CachedParametrization.compute(), not in a cache of your "
        "own",
        _frozen,
    ),
    ModelRule(
        "float64",
        "the same logits up to rounding after .double()",
        "make tensors with the dtype of x, and register constants as buffers",
        _double,
    ),
    ModelRule(
        "device",
        "every tensor on the device after .to(device)",
        "register constants by register_buffer(), and make tensors with device=x.device",
        _device,
    ),
    ModelRule(
        "saved weights",
        "a state dict that holds all that the logits depend on",
        "keep random constants in buffers, draw none in forward(), and share no tensor under two "
        "names",
        _saved,
    ),
)
