"""Refuse networks that read the values of their input outside of torch.

A trace follows operations on tensors. Values that become numbers, arrays or shapes of Python leave
it: computations on them cannot be followed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from robustbench_dyn.errors import CertificateError

# Functions that make a number of one value, as item() does, are operations of their own; see
# refuse_data_dependence.
_READS = frozenset(
    {
        "__array__",
        "__deepcopy__",
        "__dlpack__",
        "__reduce_ex__",
        "_typed_storage",
        "data_ptr",
        "numpy",
        "storage",
        "tolist",
        "untyped_storage",
    }
)


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


def operation_name(function: Any) -> str:
    """Return the name of an operation of torch's dispatcher: "relu", or "library::name".

    Operations of torch itself (aten, prims) are named without their library.
    """
    name = str(function.overloadpacket.__name__)
    return name if function.namespace in ("aten", "prims") else f"{function.namespace}::{name}"


def refuse_data_dependence(
    function: Any, args: Any, kwargs: Any, depends: Callable[[Any], bool]
) -> None:
    """Raise CertificateError where an operation makes a number or a shape of traced values.

    function: of torch's dispatcher. depends: whether an argument depends on the input.
    """
    tags = function.tags
    makes_number = torch.Tag.data_dependent_output in tags
    makes_shape = torch.Tag.dynamic_output_shape in tags
    if not makes_number and not makes_shape:
        return
    name = operation_name(function)
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
