"""Check the options of an evaluation: their types and ranges, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Literal

import torch
from torch import nn

from robustbench_dyn.certification.base import Certifier
from robustbench_dyn.errors import InputError, shown
from robustbench_dyn.names import check_name
from robustbench_dyn.threat_models import NORMS, Norm, ThreatModel


def check_options(
    model: nn.Module,
    threat_models: Sequence[ThreatModel],
    *,
    batch_size: int | Literal["auto"],
    audit_share: float,
    seed: int,
    name: str | None,
    progress: Callable[..., None] | bool | None,
) -> Norm:
    """Return the norm of the threat models; raises InputError for options that make no sense."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {_kind(model)}, and must be an nn.Module; {_module_of(model)}")
    norms = _norms(threat_models)
    if len(norms) != 1:
        raise InputError(
            f"give threat models of one norm, and at least one; these have {sorted(norms)}"
        )
    if batch_size != "auto" and not (is_whole(batch_size) and batch_size >= 1):
        raise InputError(f"batch_size={batch_size!r} must be 'auto' or a number of at least 1")
    # Written so that NaN fails it.
    if not (is_number(audit_share) and 0 <= audit_share <= 1):
        raise InputError(f"audit_share={audit_share!r} must be a fraction between 0 and 1")
    if not is_whole(seed):
        raise InputError(f"seed={seed!r} must be a whole number")
    if name is not None:
        check_name(name, "name of the model")
    check_reporter(progress)
    return norms.pop()


def check_reporter(progress: object) -> None:
    """Raise InputError unless progress is True, False, None or a function."""
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise InputError(
            f"progress is {_kind(progress)}, and must be True, False, None or a function"
        )


def check_certifiers(
    certifiers: object, *, strict_rounding: object, certify_seconds: object = None
) -> None:
    """Raise InputError unless certifiers are names or objects, and their options make sense."""
    if certify_seconds is not None and not _is_positive(certify_seconds):
        raise InputError(
            f"certify_seconds={shown(certify_seconds)} is no positive number of seconds; give one, "
            "or None for no budget"
        )
    if not isinstance(certifiers, (str, Certifier)):
        if not isinstance(certifiers, Sequence):
            raise InputError(
                f"certifiers={certifiers!r} must be 'auto', 'none', or a list of names and objects"
            )
        for one in certifiers:
            if not isinstance(one, (str, Certifier)):
                raise InputError(f"{one!r} is neither the name of a certifier nor a certifier")
    if not isinstance(strict_rounding, bool):
        raise InputError(f"strict_rounding={strict_rounding!r} must be True or False")


def device_of(model: nn.Module, device: str | torch.device | None) -> torch.device:
    """Return the device that is named, or else that of the model's tensors.

    Raises InputError where no tensor can be kept there.
    """
    if device is None:
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
        return torch.device("cpu")
    try:
        where = torch.device(device)
        torch.zeros(1, device=where)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device={device!r} cannot be used: {reason}; try cpu") from None
    if where.type == "meta":
        raise InputError("device='meta' keeps no values; try cpu")
    return where


def is_whole(value: object) -> bool:
    """Say whether value is an int; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Say whether value is a real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_positive(value: object) -> bool:
    """Say whether value is a positive, finite number."""
    # Written so that NaN fails it.
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf


def _norms(threat_models: object) -> set[Norm]:
    if not isinstance(threat_models, Sequence) or isinstance(threat_models, str):
        raise InputError(f"threat_models={threat_models!r} must be a list of ThreatModel")
    for one in threat_models:
        if not isinstance(one, ThreatModel):
            raise InputError(f"{shown(one)} is no threat model; give {_threat_model_of(one)}")
    return {one.norm for one in threat_models}


def _threat_model_of(value: object) -> str:
    """Return how a threat model is written: that of a pair, or an example."""
    if isinstance(value, (tuple, list)) and len(value) == 2 and value[0] in NORMS:
        eps = value[1]
        written = eps if isinstance(eps, str) else f"{eps:.6g}" if is_number(eps) else "0.5"
        return f"ThreatModel({value[0]!r}, {written})"
    return "ThreatModel('L2', 0.5), for example"


def _module_of(value: object) -> str:
    """Return how to get a module from what was given in place of one."""
    if isinstance(value, str):
        return f"give load_model({shown(value)})"
    if isinstance(value, type) and issubclass(value, nn.Module):
        return f"give an object of the class: {value.__name__}(...)"
    if isinstance(value, Mapping):
        return "build the network, and call its load_state_dict"
    if callable(value):
        return "give a module whose forward calls it"
    return "load_model gives one by its name"


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"
