"""Certifiers by name, and the choice that `auto` makes for a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from robustbench_dyn.certification.base import Certifier, Prepared
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.threat_models import Norm

if TYPE_CHECKING:
    from torch import nn


class Selection(NamedTuple):
    """The certifiers of a run, the cheapest first, and those that `auto` could not use.

    not_applicable: the reason, by name. crashed: those of them whose preparation ended in an
    error that says nothing about the model.
    """

    ready: list[Prepared]
    not_applicable: dict[str, str]
    crashed: list[str]


def _lipschitz() -> Certifier:
    from robustbench_dyn.certification.certifiers import lipschitz  # noqa: PLC0415  (torch is heavy)

    return lipschitz.CERTIFIER


def _lipsdp() -> Certifier:
    from robustbench_dyn.certification.certifiers import lipsdp  # noqa: PLC0415

    return lipsdp.CERTIFIER


def _lipschitz_in_box() -> Certifier:
    from robustbench_dyn.certification.certifiers import lipschitz_in_box  # noqa: PLC0415

    return lipschitz_in_box.CERTIFIER


def _interval() -> Certifier:
    from robustbench_dyn.certification.certifiers import interval  # noqa: PLC0415

    return interval.CERTIFIER


def _linear_relaxation() -> Certifier:
    from robustbench_dyn.certification.certifiers import linear_relaxation  # noqa: PLC0415

    return linear_relaxation.CERTIFIER


def _local_lipsdp() -> Certifier:
    from robustbench_dyn.certification.certifiers import local_lipsdp  # noqa: PLC0415

    return local_lipsdp.CERTIFIER


def _complete() -> Certifier:
    from robustbench_dyn.certification.certifiers import complete  # noqa: PLC0415

    return complete.CERTIFIER


# The cheapest first: this is the order in which they are asked.
_CERTIFIERS: dict[str, tuple[str, Callable[[], Certifier]]] = {
    "lipschitz": ("global L2 Lipschitz bound of each logit difference", _lipschitz),
    "lipsdp": (
        "semidefinite L2 Lipschitz bound of each logit difference (LipSDP), small networks",
        _lipsdp,
    ),
    "lipschitz_in_box": (
        "global L2 Lipschitz bound from the middle of the Linf ball within [0, 1]",
        _lipschitz_in_box,
    ),
    "interval": ("interval bounds of every value over the ball and [0, 1]", _interval),
    "linear_relaxation": (
        "lines around every activation, with optimised slopes (alpha-CROWN)",
        _linear_relaxation,
    ),
    "local_lipsdp": (
        "semidefinite L2 Lipschitz bound within the ball (local LipSDP), small networks",
        _local_lipsdp,
    ),
    "complete": (
        "branch and bound: exact for small networks of ReLU",
        _complete,
    ),
}


def certifier_names() -> dict[str, str]:
    """Return each certifier's name with one line on what it proves."""
    return {name: description for name, (description, _) in _CERTIFIERS.items()}


def resolve_certifiers(
    spec: str | Sequence[str], model: nn.Module, input_shape: tuple[int, ...], norm: Norm,
    *, strict_rounding: bool = False,
) -> list[Prepared]:  # fmt: skip
    """Return the certifiers that spec names, ready for model and the cheapest first.

    See select_certifiers.
    """
    return select_certifiers(spec, model, input_shape, norm, strict_rounding=strict_rounding).ready


def select_certifiers(
    spec: str | Sequence[str], model: nn.Module, input_shape: tuple[int, ...], norm: Norm,
    *, strict_rounding: bool = False,
) -> Selection:  # fmt: skip
    """Return the certifiers that spec names, ready for model, and why others of `auto` are not.

    spec: "none", names, or "auto", which chooses by architecture: a model whose Lipschitz bound is
    not vacuous (no logit difference has more than lipschitz.LARGEST_NONVACUOUS_BOUND) gets the
    certificates of that bound alone, which cost a pass, while relaxing such deep networks proves
    little for much. Any other model gets each other certifier that supports its operations, and semidefinite
    bounds and `complete` only where it is small enough for them; what a certifier raises is the
    reason why it is not applicable.
    Raises InputError for an unknown name or one that does not support the norm, CertificateError
    where a named one cannot treat model.
    """
    names = named_certifiers(spec)
    if names == ["auto"]:
        return _automatic(model, input_shape, norm, strict_rounding=strict_rounding)
    order = list(_CERTIFIERS)
    ready = []
    for name in sorted(dict.fromkeys(names), key=order.index):
        certifier = _CERTIFIERS[name][1]()
        if norm not in certifier.norms:
            known = ", ".join(sorted(certifier.norms))
            raise InputError(f"certifier {name!r} supports {known}, not {norm}; choose another one")
        try:
            ready.append(certifier.prepared(model, input_shape, strict_rounding=strict_rounding))
        except CertificateError:
            raise
        # A certifier reads a model that anybody may have written, and may fail at anything.
        except Exception as error:
            raise CertificateError(
                f"certifier {name!r} cannot be prepared for this model: "
                f"{type(error).__name__}: {error}; choose another one, or auto"
            ) from error
    return Selection(ready, {}, [])


def _automatic(
    model: nn.Module, input_shape: tuple[int, ...], norm: Norm, *, strict_rounding: bool
) -> Selection:
    from robustbench_dyn.certification.certifiers.lipschitz import is_nonvacuous  # noqa: PLC0415

    selection = Selection([], {}, [])
    for name in _CERTIFIERS:
        if name == "lipschitz_in_box":
            continue
        _prepare(name, model, input_shape, norm, selection, strict_rounding=strict_rounding)
        if (
            name == "lipschitz"
            and selection.ready
            and is_nonvacuous(selection.ready[0].state.bounds)
        ):
            # The bounds may take seconds: both certificates are made of the same.
            in_box = Prepared(_lipschitz_in_box(), selection.ready[0].state)
            if norm in in_box.certifier.norms:
                selection.ready.append(in_box)
            break
    return selection


def _prepare(
    name: str, model: nn.Module, input_shape: tuple[int, ...], norm: Norm, selection: Selection,
    *, strict_rounding: bool,
) -> None:  # fmt: skip
    """Prepare a certifier that supports the norm, or keep the reason why it is not applicable."""
    certifier = _CERTIFIERS[name][1]()
    if norm not in certifier.norms:
        return
    try:
        selection.ready.append(
            certifier.prepared(model, input_shape, strict_rounding=strict_rounding)
        )
    except CertificateError as error:
        selection.not_applicable[name] = str(error)
    # A certifier reads a model that anybody may have written, and may fail at anything.
    except Exception as error:
        selection.not_applicable[name] = f"{type(error).__name__}: {error}"
        selection.crashed.append(name)


def named_certifiers(spec: str | Sequence[str]) -> list[str]:
    """Return the names in spec, without any for "none", or "auto" alone.

    Raises InputError, with the nearest name, for an unknown one.
    """
    names = [name.strip() for name in (spec.split(",") if isinstance(spec, str) else spec)]
    if names == ["none"]:
        return []
    for name in names:
        if name not in _CERTIFIERS and names != ["auto"]:
            near = get_close_matches(name, _CERTIFIERS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"no certifier is called {name!r}; {hint}choose auto, none, or "
                f"{', '.join(_CERTIFIERS)}"
            )
    return names
