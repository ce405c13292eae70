"""A fingerprint of a module in this process: all by which it may compute, without a forward pass.

A hash of the state_dict says nothing of hooks, plain attributes and replaced methods. A fingerprint
covers the tensors, attributes and hooks of a module and of all objects inside it, and the code of
their classes and functions. It cannot cover what functions read from elsewhere: global variables,
files, the clock.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from robustbench_dyn.models.freezing import CachedParametrization

_PRIMITIVE = (type(None), bool, int, float, complex, str, bytes, type(...), range, slice)
_OF_TORCH = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)
_SEQUENCES = (list, tuple, deque)
_MAPPINGS = (dict, OrderedDict, defaultdict, types.MappingProxyType)
# Their objects are made by C code and never change.
_FIXED = (
    types.BuiltinFunctionType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.GenericAlias,
    types.UnionType,
    types.ModuleType,
)
# What Python and copyreg keep in a class for themselves, and may fill later.
_OF_PYTHON = frozenset(
    {
        "__abstractmethods__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__orig_bases__",
        "__parameters__",
        "__slotnames__",
        "__static_attributes__",
        "__type_params__",
        "__weakref__",
        "_abc_impl",
    }
)
# An evaluation sets the mode itself, and drops what is derived from the parameters.
_SET_BY_EVALUATION = frozenset({"training"})
# Py_TPFLAGS_HEAPTYPE of CPython: a class whose objects may hold more than attributes has it not.
_DEFINED_IN_PYTHON = 1 << 9
_MOST_OBJECTS = 1_000_000


class UnknownContentError(Exception):
    """A module holds something of which no fingerprint can be taken."""


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of a module's content; two of one process agree where nothing changed.

    Weights that a CachedParametrization has kept are dropped first: they are computed anew. Raises
    UnknownContentError where an object cannot be looked into, or a hook of all modules is there.
    """
    if _global_hooks():
        raise UnknownContentError("a global hook may change what any module computes")
    for module in model.modules():
        if isinstance(module, CachedParametrization):
            vars(module).pop("_cache", None)
    digest = _Digest()
    digest.add(model)
    return digest.hexdigest()


def _global_hooks() -> bool:
    """Say whether a hook is registered for all modules."""
    return any(
        bool(value)
        for name, value in vars(torch_module).items()
        if name.startswith("_global_") and name.endswith("_hooks") and isinstance(value, dict)
    )


class _Digest:
    """A hash over objects, each of which is entered once."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        # Kept alive, so that no identity is given twice.
        self._seen: dict[int, tuple[int, object]] = {}

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def text(self, *parts: object) -> None:
        self._hash.update("\0".join(map(str, parts)).encode("utf-8", "surrogatepass") + b"\1")

    def add(self, value: Any) -> None:
        """Enter a value, and everything that it holds."""
        kind = type(value)
        if _is_one_of(kind, _PRIMITIVE + _OF_TORCH):
            self.text(kind.__name__, repr(value))
            return
        if id(value) in self._seen:
            self.text("again", self._seen[id(value)][0])
            return
        if len(self._seen) > _MOST_OBJECTS:
            raise UnknownContentError("it holds too many objects")
        self._seen[id(value)] = (len(self._seen), value)
        self.text(kind.__module__, kind.__qualname__, id(kind))
        for kinds, enter in _EXACTLY:
            if _is_one_of(kind, kinds):
                enter(self, value)
                return
        for base, enter in _BY_BASE:
            if issubclass(kind, base):
                enter(self, value)
                return
        self._object(value)

    def _sequence(self, value: Iterable[Any]) -> None:
        items = list(value)
        self.text(len(items))
        for item in items:
            self.add(item)

    def _set(self, value: Iterable[Any]) -> None:
        items = list(value)
        if not all(type(item) in _PRIMITIVE for item in items):
            raise UnknownContentError("a set of objects has no order")
        self._sequence(sorted(items, key=repr))

    def _mapping(self, value: Any) -> None:
        self.text(len(value))
        for key, item in value.items():
            self.add(key)
            self.add(item)

    def _tensor(self, value: Tensor) -> None:
        if value.layout is not torch.strided or value.is_quantized or value.device.type == "meta":
            raise UnknownContentError("a tensor without plain values")
        hooks = getattr(value, "_backward_hooks", None)
        if hooks or value.is_neg() or value.is_conj():
            raise UnknownContentError("a tensor with hooks")
        self.text(value.dtype, tuple(value.shape))
        flat = value.detach().cpu().contiguous().flatten()
        if flat.numel():
            self._hash.update(flat.view(torch.uint8).numpy().data)
        self._mapping(vars(value))

    def _array(self, value: Any) -> None:
        if value.dtype.hasobject:
            raise UnknownContentError("an array of objects")
        self.text(value.dtype, np.shape(value))
        self._hash.update(np.ascontiguousarray(value).tobytes())

    def _function(self, value: types.FunctionType) -> None:
        # Equal code objects have equal bytecode, names and constants.
        self.text(value.__module__, value.__qualname__, hash(value.__code__))
        self.add(value.__defaults__)
        self.add(value.__kwdefaults__)
        for cell in value.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:
                self.text("an empty cell")
        self._mapping(vars(value))

    def _method(self, value: types.MethodType) -> None:
        self.add(value.__func__)
        self.add(value.__self__)

    def _wrapped(self, value: Any) -> None:
        self.add(value.__func__)

    def _property(self, value: property) -> None:
        for function in (value.fget, value.fset, value.fdel):
            self.add(function)

    def _partial(self, value: Any) -> None:
        self.add(value.func)
        self.add(value.args)
        self.add(value.keywords)

    def _fixed(self, value: object) -> None:
        self.text(id(value))

    def _named(self, value: Any) -> None:
        self.text(value)

    def _class(self, value: type) -> None:
        """Enter a class by its own code and that of its bases; one of C code by its name alone."""
        for base in value.__mro__:
            self.text(base.__module__, base.__qualname__, id(base))
            known = id(base) in self._seen and base is not value
            # Other classes of torch and Python do not change between two looks at one model.
            if known or base.__module__ in ("builtins", "typing", "abc", "enum", "collections.abc"):
                continue
            self._seen.setdefault(id(base), (len(self._seen), base))
            self._class_items(base)

    def _class_items(self, base: type) -> None:
        for name, item in list(vars(base).items()):
            if name == "__dict__" and type(item) is not types.GetSetDescriptorType:
                raise UnknownContentError("a class that says itself what its objects hold")
            if name in _OF_PYTHON:
                continue
            self.text(name)
            try:
                self.add(item)
            except UnknownContentError:
                # An object that no look can be taken at, in a class: the same one or another.
                self.text(id(item))

    def _module(self, value: nn.Module) -> None:
        if any(issubclass(type(value), kind) for kind in (list, dict, tuple, set)):
            raise UnknownContentError("a module that is a container of Python, too")
        self.add(type(value))
        for name, item in object.__getattribute__(value, "__dict__").items():
            if name not in _SET_BY_EVALUATION:
                self.text(name)
                self.add(item)
        self._slots(value)

    def _tuple(self, value: tuple[Any, ...]) -> None:
        self._sequence(tuple.__iter__(value))
        self._object(value, content=tuple)

    def _object(self, value: object, *, content: type = object) -> None:
        """Enter an object of a Python class; content: a base whose own content was entered."""
        kind = type(value)
        for base in kind.__mro__:
            made_by_c = isinstance(vars(base).get("__new__"), types.BuiltinFunctionType)
            if (
                (made_by_c or not base.__flags__ & _DEFINED_IN_PYTHON)
                and base is not content
                and base is not object
            ):
                raise UnknownContentError(f"an object of {kind.__module__}.{kind.__qualname__}")
        self.add(kind)
        if hasattr(value, "__dict__"):
            self._mapping(object.__getattribute__(value, "__dict__"))
        self._slots(value)

    def _slots(self, value: object) -> None:
        for kind in type(value).__mro__:
            slots = vars(kind).get("__slots__", ())
            for name in [slots] if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__"):
                    self.text(name)
                    self.add(getattr(value, name, None))


def _is_one_of(kind: type, kinds: tuple[type, ...]) -> bool:
    # By identity: the class of a class may call itself equal to any other.
    return any(kind is other for other in kinds)


_Enter = Callable[[_Digest, Any], None]
_EXACTLY: tuple[tuple[tuple[type, ...], _Enter], ...] = (
    ((Tensor, nn.Parameter), _Digest._tensor),
    ((np.ndarray,), _Digest._array),
    (_SEQUENCES, _Digest._sequence),
    ((set, frozenset), _Digest._set),
    (_MAPPINGS, _Digest._mapping),
    ((types.FunctionType,), _Digest._function),
    ((types.MethodType,), _Digest._method),
    ((staticmethod, classmethod), _Digest._wrapped),
    ((property,), _Digest._property),
    ((functools.partial,), _Digest._partial),
    (_FIXED, _Digest._fixed),
)
_BY_BASE: tuple[tuple[type, _Enter], ...] = (
    (nn.Module, _Digest._module),
    (np.generic, _Digest._array),
    (np.dtype, _Digest._named),
    (enum.Enum, _Digest._named),
    (PurePath, _Digest._named),
    (type, _Digest._class),
    (tuple, _Digest._tuple),
)
