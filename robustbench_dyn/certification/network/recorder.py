"""Record the operations of a network while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from robustbench_dyn.certification.escapes import (
    operation_name,
    refuse_data_dependence,
)
from robustbench_dyn.certification.network.aliasing import aliasing_of
from robustbench_dyn.certification.network.memory import (
    ASSEMBLED,
    CONSTANT,
    Memory,
    Origin,
    Reference,
    assembled,
    entries,
    storage_of,
)
from robustbench_dyn.certification.network.trace import (
    N_EXAMPLES,
    DerivedRef,
    NodeRef,
    Operation,
    with_changed_leaves,
)
from robustbench_dyn.errors import CertificateError

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


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operation on values that depend on the input, or on parameters.

    operations: those that depend on the input. parameter_ops: those that depend on parameters
    alone. Both in the order in which they were computed.
    """

    def __init__(self, x: Tensor, parameters: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory = Memory()
        self.memory.add(x, NodeRef(0))
        for k, weight in enumerate(parameters):
            self.memory.add(weight, DerivedRef(k))
        self.n_parameters = len(parameters)
        self.operations = list[Operation]()
        self.parameter_ops = list[Operation]()
        # The storages of constants among the arguments of these operations.
        self.constants = set[int]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch imports its compiler, for seconds, to keep it away from here.
        return False

    def depends(self, leaf: object) -> bool:
        """Say whether a tensor depends on the input."""
        if not isinstance(leaf, Tensor):
            return False
        found = self.memory.whole(leaf)
        if found is not None:
            return isinstance(found, NodeRef)
        if not self.memory.holds(leaf):
            return False
        codes = torch.unique(self.memory.origin(leaf).source).tolist()
        references = [self.memory.sources[code].reference for code in codes if code != CONSTANT]
        return any(isinstance(reference, NodeRef) for reference in references)

    def reference(self, leaf: object) -> Reference | None:
        """Return what stands for a tensor in later operations; None for a constant."""
        if not isinstance(leaf, Tensor):
            return None
        found = self.memory.whole(leaf)
        if found is not None or not self.memory.holds(leaf):
            return found
        origin = self.memory.origin(leaf)
        if bool((origin.source == CONSTANT).all()):
            return None
        found = self.memory.sole_source(origin)
        if found is None:
            found = self._assembled(leaf, origin)
        self.memory.add(leaf, found)
        return found

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = _tensors(args, kwargs)
        refuse_data_dependence(function, args, kwargs, self.depends)
        name = operation_name(function)
        aliasing = aliasing_of(function)
        if aliasing.view and self.memory.written(args[0]):
            # Read by what lies there, when it is used.
            return function(*args, **kwargs)
        written = aliasing.written(args, kwargs)
        for tensor in written:
            self._keep_constants(tensor)
        if name == "copy_":
            return self._copy(function, *args, **kwargs)
        traced = [found for leaf in leaves if (found := self.reference(leaf)) is not None]
        if not traced or name in _SHAPE_ONLY:
            for tensor in filter(self.memory.holds, written):
                # A constant among traced values, which were read together with the old one.
                self.memory.write(tensor, None)
            return function(*args, **kwargs)
        if name == "_local_scalar_dense":
            raise CertificateError(
                "the network's course depends on the values of its parameters (a comparison, or "
                "item()); a relaxation needs one that is the same for all of them"
            )
        if name in ("fill_", "zero_") and not any(map(self.reference, args[1:])):
            self.memory.write(args[0], None)
            return function(*args, **kwargs)
        return self._record(function, name, args, kwargs, written)

    def _record(
        self, function: Any, name: str, args: Any, kwargs: Any, written: Sequence[Tensor]
    ) -> Any:
        """Call an operation on traced values, and note it, with its results."""
        kwargs_read = {key: value for key, value in kwargs.items() if key != "out"}
        # Before the call, which may write into its arguments.
        referred_args, referred_kwargs = tree_map(
            partial(self._referred, written), (args, kwargs_read)
        )
        before = [tensor.clone() for tensor in _tensors(args, kwargs)] if "::" in name else []
        result = function(*args, **kwargs)
        if any(map(_changed, before, _tensors(args, kwargs))):
            raise CertificateError(f"the operation {name!r} writes into its arguments unsaid")
        several = isinstance(result, (tuple, list))
        results = list(result) if several else [result]
        if any(all(tensor is not value for value in results) for tensor in written):
            raise CertificateError(f"the network writes into an argument of the operation {name!r}")
        for k, value in enumerate(results):
            if not isinstance(value, Tensor):
                continue
            operation = Operation(
                name=name.rstrip("_"),
                function=aliasing_of(function).functional,
                args=referred_args,
                kwargs=referred_kwargs,
                result=k if several else None,
                shape=tuple(value.shape[1:]),
                batched=value.dim() > 0 and len(value) == N_EXAMPLES,
                whole_shape=tuple(value.shape),
            )
            reference = self._add(operation)
            if isinstance(reference, NodeRef):
                _check_dtype(value, name)
            if any(value is tensor for tensor in written):
                self.memory.write(value, reference)
            else:
                self.memory.add(value, reference)
        return result

    def _copy(
        self, function: Any, target: Tensor, source: Tensor, *rest: Any, **options: Any
    ) -> Any:
        """Copy numbers from one place in memory to another one, which is no operation on them."""
        if source.dtype != target.dtype and self.reference(source) is not None:
            # Rounds, or not: an operation by itself.
            with self:
                source = torch.ops.aten._to_copy.default(source, dtype=target.dtype)
        if self.memory.holds(source) or self.memory.holds(target):
            if self.memory.overlap(source, target):
                raise CertificateError(
                    "the network copies a part of a tensor to a part that overlaps with it; what "
                    "comes of it is not defined: copy a clone()"
                )
            known = self.memory.whole(source) if source.shape == target.shape else None
            self.memory.write(target, known or self.memory.origin(source))
        return function(target, source, *rest, **options)

    def _assembled(self, value: Tensor, origin: Origin) -> Reference:
        """Note the operation that puts the numbers of a tensor together."""
        codes = torch.unique(origin.source).tolist()
        parts: list[Any] = [self.memory.sources[code].reference for code in codes if code >= 0]
        sizes = [torch.Size(self.memory.sources[code].shape).numel() for code in codes if code >= 0]
        places = origin.place.clone()
        start = 0
        for code, size in zip([code for code in codes if code >= 0], sizes, strict=True):
            places[origin.source == code] += start
            start += size
        if CONSTANT in codes:
            parts.append(value.detach().clone())
            places = places.where(origin.source >= 0, start + entries(value.shape))
        return self._add(
            Operation(
                name=ASSEMBLED,
                function=assembled,
                args=(places, parts),
                kwargs={},
                result=None,
                shape=tuple(value.shape[1:]),
                batched=value.dim() > 0 and len(value) == N_EXAMPLES,
                whole_shape=tuple(value.shape),
            )
        )

    def _add(self, operation: Operation) -> Reference:
        """Note an operation, and return what stands for its result."""
        if operation.inputs:
            self.operations.append(operation)
            return NodeRef(len(self.operations))
        self.parameter_ops.append(operation)
        return DerivedRef(self.n_parameters + len(self.parameter_ops) - 1)

    def _referred(self, written: Sequence[Tensor], leaf: Any) -> Any:
        """Return what stands for an argument in an operation, which writes into some of them."""
        reference = self.reference(leaf)
        if reference is not None or not isinstance(leaf, Tensor):
            return leaf if reference is None else reference
        if any(leaf is tensor for tensor in written):
            return leaf.clone()
        self.constants.add(storage_of(leaf)[0])
        return leaf

    def _keep_constants(self, tensor: Tensor) -> None:
        """Let earlier operations have copies of constants whose memory is written now."""
        address = storage_of(tensor)[0]
        if address not in self.constants:
            return
        self.constants.discard(address)

        def copied(leaf: Any) -> Any:
            same = isinstance(leaf, Tensor) and storage_of(leaf)[0] == address
            return leaf.clone() if same else leaf

        for operations in (self.operations, self.parameter_ops):
            operations[:] = with_changed_leaves(operations, copied)


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]


def _changed(before: Tensor, after: Tensor) -> bool:
    return not torch.equal(before, after)


def _check_dtype(value: Tensor, name: str) -> None:
    if value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
        raise CertificateError(
            f"the network computes in {value.dtype}, by {name}; bounds do not cover its rounding"
        )
    if not value.is_floating_point() and name in ("view", "view_copy"):
        raise CertificateError("the network reads its numbers as bits, by view(dtype)")
