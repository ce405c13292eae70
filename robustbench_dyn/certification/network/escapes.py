"""What leaves the tensors while a network is followed: numbers, arrays, shapes made of values.

What is computed outside of tensors cannot be followed, so a network that reads one of its values
there is refused, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from robustbench_dyn.errors import CertificateError

# What makes a number of one value, as item() does, is an operation of its own: check_operation.
_READS = frozenset({
    "__array__", "__deepcopy__", "__dlpack__", "__reduce_ex__", "_typed_storage", "data_ptr",
    "numpy", "storage", "tolist", "untyped_storage",
})  # fmt: skip


class RefuseEscapes(TorchFunctionMode):
    """Raises CertificateError where a value that depends on the input is read outside of torch.

    depends: whether a tensor depends on the input.
    """

    def __init__(self, depends: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.depends = depends

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in _READS and args and isinstance(args[0], Tensor) and self.depends(args[0]):
            raise CertificateError(
                f"the network reads the values of its input outside of torch, by {name}(); what it "
                "computes of them there cannot be followed"
            )
        return function(*args, **(kwargs or {}))


def name_of(function: Any) -> str:
    """Name an operation of torch's dispatcher, with its library where that is not torch's own."""
    name = str(function.overloadpacket.__name__)
    return name if function.namespace in ("aten", "prims") else f"{function.namespace}::{name}"


def check_operation(function: Any, args: Any, kwargs: Any, depends: Callable[[Any], bool]) -> None:
    """Raise CertificateError where an operation makes a number or a shape of followed values.

    function: of torch's dispatcher. depends: whether an argument depends on the input.
    """
    tags = function.tags
    makes_number = torch.Tag.data_dependent_output in tags
    makes_shape = torch.Tag.dynamic_output_shape in tags
    if not makes_number and not makes_shape:
        return
    name = name_of(function)
    # The shape of x[indices] depends on the indices alone.
    read = args[1:] if name.startswith(("index", "_unsafe_index")) else (args, kwargs)
    if not any(depends(leaf) for leaf in tree_flatten(read)[0]):
        return
    if makes_number:
        raise CertificateError(
            "the network's course depends on the values of its input (a comparison, or item()); "
            "a bound needs one that is the same for all of them"
        )
    raise CertificateError(
        f"the shape of what the network computes depends on the values of its input, by {name}; "
        "a bound needs one that is the same for all of them"
    )
