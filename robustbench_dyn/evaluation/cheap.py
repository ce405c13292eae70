"""Certifiers that cost about a pass of the network, for a first look at what can be proved."""

from __future__ import annotations

from torch import nn

from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.threat_models import Norm

_CHEAP = ("max_affine", "lipschitz", "lipschitz_in_box", "interval")


def cheap_certifiers(model: nn.Module, input_shape: tuple[int, ...], norm: Norm) -> list[str]:
    """Return the names of the cheap certifiers that can treat the network in this norm."""
    found = list[str]()
    for name in _CHEAP:
        try:
            resolve_certifiers(name, model, input_shape, norm)
        except (CertificateError, InputError):
            continue
        found.append(name)
    return found
