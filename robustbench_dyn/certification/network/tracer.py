"""Trace a network while it runs on two inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from robustbench_dyn.certification.escapes import (
    RefuseEscapes,
    operation_name,
    refuse_data_dependence,
)
from robustbench_dyn.certification.network.circular_padding import CircularPadding
from robustbench_dyn.certification.network.trace import (
    N_EXAMPLES,
    DerivedRef,
    DifferentiableTrace,
    NodeRef,
    Operation,
    Trace,
    with_leaves,
)
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.models.freezing import frozen_eval, trainable_eval
from robustbench_dyn.models.machine_errors import is_machine_error

# Their results depend on the input's shape alone.
_SHAPE_ONLY = frozenset(
    {
        "empty_like",
        "full_like",
        "new_empty",
        "new_full",
        "new_ones",
        "new_zeros",
        "ones_like",
        "zeros_like",
    }
)


def trace(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype) -> Trace:
    """Run model in eval mode on two inputs of `dtype` and return the operations on them.

    Values that depend on the parameters alone are computed by the model, and become constants.
    Raises CertificateError where the model cannot run so, or decides by its values.
    """
    with frozen_eval(model):
        found = _trace(model, input_shape, dtype, ()).trace
    # A parameter among the constants requires a gradient again, after frozen_eval.
    return with_leaves(found, lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf)


def differentiable_trace(
    model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype
) -> DifferentiableTrace:
    """Trace model as `trace` does, and also how its weights are derived from its parameters.

    Raises CertificateError where `trace` does, and where a parameter's value is read as a number.
    """
    # While parameters are frozen, weights that are derived from them may be kept.
    with trainable_eval(model):
        return _trace(model, input_shape, dtype, tuple(model.parameters()))


def _trace(
    model: nn.Module,
    input_shape: tuple[int, ...],
    dtype: torch.dtype,
    parameters: tuple[nn.Parameter, ...],
) -> DifferentiableTrace:
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(N_EXAMPLES, *input_shape, generator=generator, dtype=dtype).to(device)
    with torch.inference_mode(False), torch.no_grad():
        tracer = _Tracer(x, parameters)
        try:
            with RefuseEscapes(tracer.depends), CircularPadding(), tracer:
                logits = model(x)
        except CertificateError:
            raise
        # A user's forward, which may need a graph or anything else that is not here.
        except Exception as error:
            if is_machine_error(error):
                raise
            raise CertificateError(
                f"the network cannot be traced: {type(error).__name__}: {error}"
            ) from error
    tracer.check_memory([logits])
    last = tracer.reference(logits)
    if not isinstance(last, NodeRef) or logits.dim() != 2 or len(logits) != N_EXAMPLES:
        raise CertificateError(
            "the network's logits (batch, classes) cannot be traced back to its input"
        )
    operations = tuple(tracer.operations[: last.index])
    found = Trace(input_shape, operations, dtype, device)
    return DifferentiableTrace(found, parameters, tuple(tracer.parameter_ops))


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, x: Tensor, parameters: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Kept alive, so that no identity is given twice.
        self.values = [x, *parameters]
        self.references: dict[int, NodeRef | DerivedRef] = {id(x): NodeRef(0)}
        self.references |= {id(weight): DerivedRef(k) for k, weight in enumerate(parameters)}
        self.n_parameters = len(parameters)
        self.operations = list[Operation]()
        self.parameter_ops = list[Operation]()
        # The traced values in each storage, and those that were overwritten through another one.
        self.memory = {_storage(x): [id(x)]}
        self.overwritten = set[int]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch imports its compiler, for seconds, to keep it away from here.
        return False

    def depends(self, leaf: object) -> bool:
        """Say whether a tensor depends on the input."""
        return isinstance(self.reference(leaf), NodeRef)

    def reference(self, leaf: object) -> NodeRef | DerivedRef | None:
        return self.references.get(id(leaf)) if isinstance(leaf, Tensor) else None

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves, _ = tree_flatten((args, kwargs))
        refuse_data_dependence(function, args, kwargs, self.depends)
        self.check_memory(leaves)
        traced = [found for leaf in leaves if (found := self.reference(leaf)) is not None]
        name = operation_name(function)
        if not traced or name in _SHAPE_ONLY:
            return function(*args, **kwargs)
        depends_on_input = any(isinstance(found, NodeRef) for found in traced)
        if name == "_local_scalar_dense":
            raise CertificateError(
                "the network's course depends on the values of its parameters (a comparison, or "
                "item()); a relaxation needs one that is the same for all of them"
            )

        def refer(leaf: Any) -> Any:
            return self.reference(leaf) or leaf

        # Before the call, which may write into its arguments.
        referred_args, referred_kwargs = tree_map(refer, args), tree_map(refer, kwargs)
        result = function(*args, **kwargs)
        several = isinstance(result, (tuple, list))
        for k, value in enumerate(result if several else [result]):
            if not isinstance(value, Tensor):
                continue
            operation = Operation(
                name=name.rstrip("_"),
                function=function,
                args=referred_args,
                kwargs=referred_kwargs,
                result=k if several else None,
                shape=tuple(value.shape[1:]),
                batched=value.dim() > 0 and len(value) == N_EXAMPLES,
                whole_shape=tuple(value.shape),
            )
            self.values.append(value)
            if depends_on_input:
                self._note_memory(value, name)
                self.operations.append(operation)
                self.references[id(value)] = NodeRef(len(self.operations))
            else:
                self.parameter_ops.append(operation)
                index = self.n_parameters + len(self.parameter_ops) - 1
                self.references[id(value)] = DerivedRef(index)
        return result

    def check_memory(self, leaves: Sequence[Any]) -> None:
        """Refuse values that were changed, or made, through memory instead of an operation."""
        for leaf in leaves:
            if not isinstance(leaf, Tensor) or not leaf.numel():
                continue
            hidden = _storage(leaf) in self.memory and not self.depends(leaf)
            if hidden or id(leaf) in self.overwritten:
                raise CertificateError(
                    "the network writes into a part of a tensor that it reads as a whole, or "
                    "through another view of it; bounds cannot follow that"
                )

    def _note_memory(self, value: Tensor, name: str) -> None:
        if value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
            raise CertificateError(
                f"the network computes in {value.dtype}, by {name}; bounds do not cover its "
                "rounding"
            )
        if not value.is_floating_point() and name in ("view", "view_copy"):
            raise CertificateError("the network reads its numbers as bits, by view(dtype)")
        others = self.memory.setdefault(_storage(value), [])
        if self.depends(value):
            # Written in place: other values in that memory are no longer those that were traced.
            self.overwritten.update(key for key in others if key != id(value))
        elif id(value) not in others:
            others.append(id(value))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
