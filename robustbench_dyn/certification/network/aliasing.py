"""The memory that operations write into, and share with their arguments, by their schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from robustbench_dyn.certification.escapes import operation_name


class Aliasing(NamedTuple):
    """How an operation of torch's dispatcher treats memory.

    view: whether it returns views of its first argument. targets: the positions and names of the
    arguments that it writes into. functional: the same operation, which writes into none.
    """

    view: bool
    targets: tuple[tuple[int, str], ...]
    functional: Callable[..., Any]

    def written(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Return the tensors that a call writes into."""
        given = [
            args[position] if position < len(args) else kwargs.get(name)
            for position, name in self.targets
        ]
        return [tensor for tensor in tree_flatten(given)[0] if isinstance(tensor, Tensor)]


@lru_cache(maxsize=1024)
def aliasing_of(function: Any) -> Aliasing:
    """Return what the schema of an operation says; of another library's, it may be wrong."""
    schema = function._schema
    # These change the shape of a tensor alone, not what lies in memory.
    reshapes = torch.Tag.inplace_view in function.tags
    targets = tuple(
        (position, argument.name)
        for position, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write and not reshapes
    )
    returned = [value.alias_info for value in schema.returns if value.alias_info is not None]
    view = bool(returned) and not any(alias.is_write for alias in returned)
    functional = function
    if targets or reshapes:
        name = operation_name(function).rpartition("::")[2].rstrip("_")
        functional = getattr(getattr(torch.ops, function.namespace), name, function)
    return Aliasing(view, targets, functional)
