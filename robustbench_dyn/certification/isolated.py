"""Certifiers of a network in another process: they read its module, and so they run there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.base import Certifier, PreparedCertifier, Proof
from robustbench_dyn.certification.catalogue import (
    CERTIFIERS,
    Selection,
    Spec,
    named_certifiers,
)
from robustbench_dyn.errors import CertificateError, ForeignCodeError
from robustbench_dyn.models.isolated import IsolatedModel
from robustbench_dyn.threat_models import Norm, ThreatModel

_SERVICE = "evaluation.serving"
# Preparing all certifiers of `auto` takes seconds on a small network.
_LEAST_SECONDS_TO_PREPARE = 600.0


class _There(NamedTuple):
    """Where a certifier is prepared: the model, and the number of the selection."""

    model: IsolatedModel
    selection: int


class PreparedInProcess(PreparedCertifier):
    """A certifier that is prepared in the process of its model; the state here says where."""

    def prove(self, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel) -> Proof:
        """Return the process' Proof, once it has passed for one; see Certifier.prove.

        The process does not get the labels: it proves what holds of the predictions. Of other
        labels nothing is proved. Raises RuntimeError where the answer is no Proof.
        """
        model, selection = self.state
        about = {
            "selection": selection,
            "certifier": self.certifier.name,
            "norm": threat_model.norm,
            "eps": threat_model.eps,
        }
        answer = model.call(
            "prove",
            about,
            {"x": x, "logits": logits},
            service=_SERVICE,
            seconds=max(1, len(x)) * model.process.limits.seconds_per_call,
        )
        proof = _checked(answer.content, answer.tensors, x, logits)
        predicted = logits.argmax(dim=1) == y
        return proof._replace(
            class_radii=proof.class_radii.where(predicted[:, None], 0.0).to(x.device)
        )


def select_in_process(
    spec: Spec,
    model: nn.Module,
    input_shape: tuple[int, ...],
    norm: Norm,
    *,
    strict_rounding: bool = False,
) -> Selection:
    """Do what catalogue.select_certifiers does, in the process of an IsolatedModel.

    Raises CertificateError for a certifier object whose class has no name there.
    """
    if not isinstance(model, IsolatedModel):
        raise TypeError(f"{type(model).__name__} is in this process")
    named = named_certifiers(spec)
    for certifier in named.certifiers:
        if certifier.name not in CERTIFIERS or type(certifier) is not CERTIFIERS.get(
            certifier.name
        ):
            raise CertificateError(
                f"certifier {certifier.name!r} is an object of this process, and the model "
                "runs in another one; give a certifier by name, or trust the model's plugin"
            )
    about = {
        "auto": named.auto,
        "certifiers": [[c.name, c.settings()] for c in named.certifiers],
        "input_shape": list(input_shape),
        "norm": norm,
        "strict_rounding": strict_rounding,
    }
    seconds = max(_LEAST_SECONDS_TO_PREPARE, model.process.limits.seconds_per_call)
    told = model.call("select", about, {}, service=_SERVICE, seconds=seconds).content
    try:
        there = _There(model, int(told["selection"]))
        ready = [_certifier(name, settings, named.certifiers) for name, settings in told["ready"]]
        reasons = {str(name): str(reason) for name, reason in told["not_applicable"].items()}
        crashed = [str(name) for name in told["crashed"] if name in reasons]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ForeignCodeError(
            f"{model.process.who} names certifiers in a way that makes no sense: {error}"
        ) from error
    return Selection([PreparedInProcess(c, there) for c in ready], reasons, crashed)


def _certifier(
    name: str, settings: Mapping[str, Any], given: tuple[Certifier[Any], ...]
) -> Certifier[Any]:
    """Return the certifier that was prepared: one that was given, or a default one of `auto`."""
    wanted = next((c for c in given if c.name == name), None)
    certifier = wanted or CERTIFIERS.create(name)
    if certifier.settings() != dict(settings):
        raise ValueError(f"{name} has other settings than were asked for")
    return certifier


def _checked(
    content: Mapping[str, Any], tensors: Mapping[str, Tensor], x: Tensor, logits: Tensor
) -> Proof:
    """Return a Proof of tensors that have the types, shapes and ranges of one."""
    radii, passes = tensors.get("class_radii"), content.get("forward_passes")
    if radii is None or radii.dtype != torch.float64 or radii.shape != logits.shape:
        raise RuntimeError("the process returned no radii, (batch, classes) in float64")
    if not bool((radii >= 0).all()):  # NaN fails it
        raise RuntimeError("the process returned radii that are negative or no numbers")
    if type(passes) is not int or not 0 <= passes < 2**48:
        raise RuntimeError("the process returned no number of passes")
    candidates = tensors.get("candidates")
    if candidates is not None and (candidates.shape != x.shape or candidates.dtype != x.dtype):
        raise RuntimeError("the process returned candidates that are not of the inputs' shape")
    rounded = tensors.get("within_rounding")
    if rounded is not None and (rounded.shape != (len(x),) or rounded.dtype != torch.bool):
        raise RuntimeError("the process returned rows within rounding that are no mask")
    return Proof(
        radii.to(logits.device),
        None if candidates is None else candidates.to(x.device),
        passes,
        None if rounded is None else rounded.to(x.device),
    )
