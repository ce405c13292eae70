"""What a network computes, written down operation by operation while it runs on two inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from robustbench_dyn.errors import CertificateError
from robustbench_dyn.flows import frozen

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


def record(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype) -> Recording:
    """Run model in eval mode on two inputs of `dtype` and write down what depends on them.

    What depends on the parameters alone is computed, as the model does it, and stands as a
    constant. Raises CertificateError where the model cannot run so, or decides by its values.
    """
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(_EXAMPLES, *input_shape, generator=generator, dtype=dtype).to(device)
    with frozen(model), torch.inference_mode(False), torch.no_grad():
        recorder = _Recorder(x)
        try:
            with recorder:
                logits = model(x)
        except CertificateError:
            raise
        # Somebody's forward, which may want a graph or anything else that is not here.
        except Exception as error:
            raise CertificateError(
                f"the network cannot be recorded: {type(error).__name__}: {error}"
            ) from error
    index = recorder.index_of(logits)
    if index is None or logits.dim() != 2 or len(logits) != _EXAMPLES:
        raise CertificateError(
            "the network's logits (batch, classes) cannot be traced back to its input"
        )
    return Recording(input_shape, tuple(recorder.operations[:index]), dtype, device)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Kept alive, so that no identity is given twice.
        self.values = [x]
        self.indices = {id(x): 0}
        self.operations = list[Operation]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch imports its compiler, for seconds, to keep it away from here.
        return False

    def index_of(self, value: object) -> int | None:
        return self.indices.get(id(value)) if isinstance(value, Tensor) else None

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves, _ = tree_flatten((args, kwargs))
        depends = any(self.index_of(leaf) is not None for leaf in leaves)
        name = function.overloadpacket.__name__
        if not depends or name in _SHAPE_ONLY:
            return function(*args, **kwargs)
        if name == "_local_scalar_dense":
            raise CertificateError(
                "the network's course depends on the values of its input (a comparison, or "
                "item()); a relaxation needs one that is the same for all inputs"
            )

        def refer(leaf: Any) -> Any:
            index = self.index_of(leaf)
            return leaf if index is None else Ref(index)

        # Before the call, which may write into its arguments.
        referred = tree_map(refer, args), tree_map(refer, kwargs)
        result = function(*args, **kwargs)
        several = isinstance(result, (tuple, list))
        for k, value in enumerate(result if several else [result]):
            if not isinstance(value, Tensor):
                continue
            self.operations.append(
                Operation(
                    name.rstrip("_"), function, *referred, k if several else None,
                    tuple(value.shape[1:]),
                    value.dim() > 0 and len(value) == _EXAMPLES,
                )
            )  # fmt: skip
            self.values.append(value)
            self.indices[id(value)] = len(self.operations)
        return result
