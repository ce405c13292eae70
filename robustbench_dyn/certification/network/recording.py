"""What a network computes, written down operation by operation while it runs on two inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from robustbench_dyn.certification.network.escapes import (
    RefuseEscapes,
    check_operation,
    name_of,
)
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.models.freezing import frozen_eval, trainable_eval

# Their results depend on the input's shape alone.
_SHAPE_ONLY = frozenset({
    "empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones_like",
    "zeros_like",
})  # fmt: skip
_EXAMPLES = 2


@dataclass(frozen=True)
class Ref:
    """Stands in an operation's arguments for the value of this index; 0 is the input."""

    index: int


@dataclass(frozen=True)
class Made:
    """Stands for a tensor made of parameters alone: parameters in their order, then makings."""

    index: int


class Operation(NamedTuple):
    """One operation: function(*args, **kwargs), of which `output` is taken where it gives several.

    name: without its namespace and the underscore of an operation in place. shape: that of one
    example's value, where the first dimension counts the examples (batched).
    """

    name: str
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    output: int | None
    shape: tuple[int, ...]
    batched: bool

    @property
    def inputs(self) -> tuple[int, ...]:
        """The indices of the values that it reads."""
        leaves, _ = tree_flatten((self.args, self.kwargs))
        return tuple(leaf.index for leaf in leaves if isinstance(leaf, Ref))


class Recording(NamedTuple):
    """A network as operations; value k + 1 is what operation k gives, the last one the logits."""

    input_shape: tuple[int, ...]
    operations: tuple[Operation, ...]
    dtype: torch.dtype
    device: torch.device


class LiveRecording(NamedTuple):
    """A recording whose weights follow the parameters; makings: what is made of them alone."""

    recording: Recording
    parameters: tuple[nn.Parameter, ...]
    makings: tuple[Operation, ...]

    def now(self) -> Recording:
        """Return the recording with the weights of this moment, differentiable in the parameters.

        In training this is done at each step: it costs as much as the model's own derivation of
        its weights.
        """
        made: list[Tensor] = [*self.parameters]

        def put(leaf: Any) -> Any:
            return made[leaf.index] if isinstance(leaf, Made) else leaf

        for making in self.makings:
            args, kwargs = (tree_map(put, part) for part in (making.args, making.kwargs))
            result = making.function(*args, **kwargs)
            made.append(result if making.output is None else result[making.output])
        return _with_leaves(self.recording, put)


def _with_leaves(recording: Recording, change: Callable[[Any], Any]) -> Recording:
    operations = (
        operation._replace(
            args=tree_map(change, operation.args), kwargs=tree_map(change, operation.kwargs)
        )
        for operation in recording.operations
    )
    return recording._replace(operations=tuple(operations))


def record(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype) -> Recording:
    """Run model in eval mode on two inputs of `dtype` and write down what depends on them.

    What depends on the parameters alone is computed, as the model does it, and stands as a
    constant. Raises CertificateError where the model cannot run so, or decides by its values.
    """
    with frozen_eval(model):
        recording = _record(model, input_shape, dtype, ()).recording
    # A parameter that stands in it asks for a gradient again, now that it is trainable_eval.
    return _with_leaves(recording, lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf)


def record_live(
    model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype
) -> LiveRecording:
    """Record model as `record` does, and also how its weights are made of its parameters.

    Raises CertificateError where `record` does, and where a parameter's value is read as a number.
    """
    # While parameters are frozen, weights that are made of them may be kept instead of made.
    with trainable_eval(model):
        return _record(model, input_shape, dtype, tuple(model.parameters()))


def _record(
    model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype,
    parameters: tuple[nn.Parameter, ...],
) -> LiveRecording:  # fmt: skip
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(_EXAMPLES, *input_shape, generator=generator, dtype=dtype).to(device)
    with torch.inference_mode(False), torch.no_grad():
        recorder = _Recorder(x, parameters)
        try:
            with RefuseEscapes(recorder.depends), recorder:
                logits = model(x)
        except CertificateError:
            raise
        # Somebody's forward, which may want a graph or anything else that is not here.
        except Exception as error:
            raise CertificateError(
                f"the network cannot be recorded: {type(error).__name__}: {error}"
            ) from error
    recorder.check_memory([logits])
    last = recorder.stand_in(logits)
    if not isinstance(last, Ref) or logits.dim() != 2 or len(logits) != _EXAMPLES:
        raise CertificateError(
            "the network's logits (batch, classes) cannot be traced back to its input"
        )
    operations = tuple(recorder.operations[: last.index])
    return LiveRecording(
        Recording(input_shape, operations, dtype, device), parameters, tuple(recorder.makings)
    )


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, x: Tensor, parameters: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Kept alive, so that no identity is given twice.
        self.values = [x, *parameters]
        self.stand_ins: dict[int, Ref | Made] = {id(x): Ref(0)}
        self.stand_ins |= {id(weight): Made(k) for k, weight in enumerate(parameters)}
        self.n_parameters = len(parameters)
        self.operations = list[Operation]()
        self.makings = list[Operation]()
        # Where recorded values lie, and which of them were overwritten through another one.
        self.memory = {_place(x): [id(x)]}
        self.overwritten = set[int]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch imports its compiler, for seconds, to keep it away from here.
        return False

    def depends(self, leaf: object) -> bool:
        """Say whether a tensor depends on the input."""
        return isinstance(self.stand_in(leaf), Ref)

    def stand_in(self, leaf: object) -> Ref | Made | None:
        return self.stand_ins.get(id(leaf)) if isinstance(leaf, Tensor) else None

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves, _ = tree_flatten((args, kwargs))
        check_operation(function, args, kwargs, self.depends)
        self.check_memory(leaves)
        known = [found for leaf in leaves if (found := self.stand_in(leaf)) is not None]
        name = name_of(function)
        if not known or name in _SHAPE_ONLY:
            return function(*args, **kwargs)
        of_input = any(isinstance(found, Ref) for found in known)
        if name == "_local_scalar_dense":
            raise CertificateError(
                "the network's course depends on the values of its parameters (a comparison, or "
                "item()); a relaxation needs one that is the same for all of them"
            )

        def refer(leaf: Any) -> Any:
            return self.stand_in(leaf) or leaf

        # Before the call, which may write into its arguments.
        referred = tree_map(refer, args), tree_map(refer, kwargs)
        result = function(*args, **kwargs)
        several = isinstance(result, (tuple, list))
        for k, value in enumerate(result if several else [result]):
            if not isinstance(value, Tensor):
                continue
            operation = Operation(
                name.rstrip("_"), function, *referred, k if several else None,
                tuple(value.shape[1:]), value.dim() > 0 and len(value) == _EXAMPLES,
            )  # fmt: skip
            self.values.append(value)
            if of_input:
                self._note_memory(value, name)
                self.operations.append(operation)
                self.stand_ins[id(value)] = Ref(len(self.operations))
            else:
                self.makings.append(operation)
                self.stand_ins[id(value)] = Made(self.n_parameters + len(self.makings) - 1)
        return result

    def check_memory(self, leaves: Sequence[Any]) -> None:
        """Refuse values that changed, or came to be, through memory instead of an operation."""
        for leaf in leaves:
            if not isinstance(leaf, Tensor) or not leaf.numel():
                continue
            hidden = _place(leaf) in self.memory and not self.depends(leaf)
            if hidden or id(leaf) in self.overwritten:
                raise CertificateError(
                    "the network writes into a part of a tensor that it reads as a whole, or "
                    "through another view of it (padding that is not with zeros does so); bounds "
                    "cannot follow that"
                )

    def _note_memory(self, value: Tensor, name: str) -> None:
        if value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
            raise CertificateError(
                f"the network computes in {value.dtype}, by {name}; bounds do not cover what that "
                "rounds"
            )
        if not value.is_floating_point() and name in ("view", "view_copy"):
            raise CertificateError("the network reads its numbers as bits, by view(dtype)")
        others = self.memory.setdefault(_place(value), [])
        if self.depends(value):
            # Written in place: what else lies there is no longer what was recorded.
            self.overwritten.update(key for key in others if key != id(value))
        elif id(value) not in others:
            others.append(id(value))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
