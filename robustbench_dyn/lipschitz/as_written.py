"""Check that a module computes what its class does: no hooks, overrides or writes intervene.

A Lipschitz bound of a class holds for the forward of that class. An object that computes something
else is refused here, by name.
"""

from __future__ import annotations

import sys
from collections.abc import Collection

from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from robustbench_dyn.errors import CertificateError

# Pre-hooks of torch's own that compute a weight before each forward, from parameters alone.
_MAKE_WEIGHTS = (WeightNorm, SpectralNorm, BasePruningMethod)
# Attributes that a subclass may define without changing what its base computes.
_HARMLESS = frozenset(
    {
        "__annotations__",
        "__abstractmethods__",
        "__annotate_func__",
        "__annotations_cache__",
        "__doc__",
        "__firstlineno__",
        "__init__",
        "__module__",
        "__orig_bases__",
        "__parameters__",
        "__qualname__",
        "__slots__",
        "__static_attributes__",
        "__type_params__",
        "_abc_impl",
        "extra_repr",
    }
)
_PLAIN = (Tensor, nn.Parameter)
_OF_PARAMETRIZATION = frozenset({"__getstate__", "__deepcopy__", "default_deepcopy"})
# Both the forwards and the bounds of this package's layers read their weights through these.
_DERIVED = frozenset({"compute", "value"})
_OWN_PACKAGE = __name__.partition(".")[0]


def check_as_written(module: nn.Module) -> None:
    """Bring weights up to date, and raise CertificateError where something intervenes.

    Looks at module and all modules inside it: hooks, global ones too; a subclass or an object that
    overrides what the owner of its bound computes with; parameters that compute by themselves; and,
    inside of another module, activations that overwrite their input.
    """
    for path, part in module.named_modules():
        where = f"{type(part).__name__}{f' ({path})' if path else ''}"
        check_as_written_alone(part, where)
        if part is not module and getattr(part, "inplace", False):
            outer = type(module).__name__
            raise _unknown(
                where, f"inplace=True overwrites its input, which {outer} may read again"
            )


def check_as_written_alone(part: nn.Module, where: str = "") -> None:
    """Do what check_as_written does, for a module alone and not for those inside it."""
    where = where or type(part).__name__
    for name, hooks in (
        ("forward pre-hook", torch_module._global_forward_pre_hooks),
        ("forward hook", torch_module._global_forward_hooks),
    ):
        for hook in hooks.values():
            raise _unknown(where, f"the global {name} {_named(hook)} may change what it computes")
    _check_hooks(part, where)
    _check_instance(part, where)
    for tensor in (*part._parameters.values(), *part._buffers.values()):
        if tensor is not None and type(tensor) not in _PLAIN:
            kind = type(tensor).__name__
            raise _unknown(where, f"its tensor of class {kind} may compute by rules of its own")


def _check_hooks(part: nn.Module, where: str) -> None:
    for hook in part._forward_pre_hooks.values():
        if not isinstance(hook, _MAKE_WEIGHTS):
            raise _unknown(where, f"the forward pre-hook {_named(hook)} may change its input")
        hook(part, ())
    for hook in part._forward_hooks.values():
        raise _unknown(where, f"the forward hook {_named(hook)} may change its output")


def _check_instance(part: nn.Module, where: str) -> None:
    """Raise CertificateError where an object has another method than its class."""
    if "lipschitz_bound" in vars(part):
        return
    for name, value in vars(part).items():
        of_class = getattr(type(part), name, None)
        if callable(of_class) and callable(value) and name not in _DERIVED:
            raise _unknown(where, f"the object has a {name} of its own in place of its class's")


def is_as_written(kind: type, owner: type, *, but_for: Collection[str] = ()) -> bool:
    """Say whether a class computes what `owner`, one of its bases, does.

    but_for: names of methods that it may override, whose results the caller compares with what the
    network computes.
    """
    for derived in kind.__mro__[: kind.__mro__.index(owner)]:
        # Families of layers in this package share a bound on purpose; its tests hold them to it.
        if is_of(derived, _OWN_PACKAGE):
            continue
        changed = {
            name
            for name, value in vars(derived).items()
            if name not in _HARMLESS | _DERIVED | {*but_for}
            and not isinstance(value, (int, float, str))
        }
        if derived.__module__ == parametrize.__name__:
            changed -= _OF_PARAMETRIZATION
            # A weight that is made of others: its value is what the bound is of.
            changed = {n for n in changed if not isinstance(vars(derived)[n], property)}
        # An attribute that is computed may be any that the forward reads.
        computed = any(isinstance(vars(derived)[name], property) for name in changed)
        if computed or any(hasattr(owner, name) for name in changed):
            return False
    return True


def is_of(kind: type, package: str) -> bool:
    """Say whether a class is the one of its name in a package, and does not merely say so."""
    inside = kind.__module__.partition(".")[0] == package
    return inside and getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind


def _unknown(where: str, why: str) -> CertificateError:
    return CertificateError(
        f"no Lipschitz bound is known for {where}: {why}; change that, or choose another certifier"
    )


def _named(hook: object) -> str:
    return getattr(hook, "__qualname__", type(hook).__qualname__)
