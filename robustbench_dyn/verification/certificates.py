"""Certificates recomputed: each by the certifier that the row names, at the stated radius."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from robustbench_dyn.certification.base import Certifier, Phase, PreparedCertifier, radii
from robustbench_dyn.certification.catalogue import select_certifiers
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.models.determinism import seeded
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.models.validation import ModelUnderTest
from robustbench_dyn.results.spec import EvaluationSpec
from robustbench_dyn.results.verdicts import Status, Verdict
from robustbench_dyn.threat_models import Norm, ThreatModel, widest_eps
from robustbench_dyn.verification.rebuilding import RefusedError
from robustbench_dyn.verification.rules import EDGE, RADIUS

log = logging.getLogger(__name__)

# A search that ends by the clock gets this many times the row's seconds, for a slower machine.
_PATIENCE = 3.0
_AT_ONCE = 64


@dataclass
class Recomputed:
    """What became of certificates, by example_id, and of radii.

    proved: at eps again. unproved: not, by a certifier that would prove it again if it could.
    unrepeated: not, by a search that ends by the clock. shorter: examples whose radius is stated,
    and is not proved; with the stated and the recomputed one.
    """

    proved: list[int] = field(default_factory=list)
    unproved: list[int] = field(default_factory=list)
    unrepeated: list[int] = field(default_factory=list)
    shorter: dict[int, tuple[float, float]] = field(default_factory=dict)


def prepare_again(
    model: ModelUnderTest,
    certifiers: Sequence[Certifier[Any]],
    spec: EvaluationSpec,
    input_shape: tuple[int, ...],
) -> dict[str, PreparedCertifier]:
    """Return certifiers that are ready for a model, by their label in tables.

    Raises RefusedError where one cannot treat the model, which it did when the row was made.
    """
    patient = [_patient(certifier) for certifier in certifiers]
    with seeded(spec.seed, "preparation"):
        try:
            ready = select_certifiers(
                patient or "none",
                model.network.model,
                input_shape,
                spec.norm,
                strict_rounding=spec.rounding == "strict",
            ).ready
        except (CertificateError, InputError) as error:
            raise RefusedError(
                f"certificates of the row cannot be recomputed here: {error}"
            ) from error
    by_name = {prepared.certifier.name: prepared for prepared in ready}
    return {c.label(spec.norm): by_name[c.name] for c in certifiers}


def recompute(
    model: ModelUnderTest,
    ready: dict[str, PreparedCertifier],
    x: Tensor,
    y: Tensor,
    verdicts: Sequence[Verdict],
    norm: Norm,
    eps: float,
) -> Recomputed:
    """Prove the radii of verdicts again; x: (n, *input_shape) and y: (n,), of the verdicts.

    A certificate whose certifier is not ready is proved by any of those that are, or not at all.
    """
    found, groups = Recomputed(), defaultdict[tuple[str, float], list[int]](list)
    widest = widest_eps(norm, tuple(x.shape[1:]))
    for place, verdict in enumerate(verdicts):
        label = verdict.certifier
        if label:
            # Only a certifier of one ball has to be asked about each radius by itself.
            one_ball = label in ready and not ready[label].certifier.radius_based
            groups[label, min(verdict.certified_radius, widest) if one_ball else eps].append(place)
    for (label, stated), places in groups.items():
        for at in range(0, len(places), _AT_ONCE):
            rows = places[at : at + _AT_ONCE]
            some, part = [verdicts[row] for row in rows], _Part(model, x[rows], y[rows], norm)
            if label in ready:
                _by_its_certifier(found, part, ready[label], some, stated, eps)
            else:
                _by_any(found, part, list(ready.values()), some, eps)
    return found


@dataclass(frozen=True)
class _Part:
    """A batch of examples of one model."""

    model: ModelUnderTest
    x: Tensor
    y: Tensor
    norm: Norm

    def radii(self, prepared: PreparedCertifier, eps: float) -> list[float]:
        """Return what a certifier proves at eps; 0 for nothing, and where it fails."""
        logits = self.model.logits(self.x)
        try:
            proof = prepared.prove(self.x, logits, self.y, ThreatModel(self.norm, eps))
        # A certifier reads an unknown model, and may fail at anything.
        except Exception as error:
            if is_machine_error(error):
                raise
            log.warning("certifier %s failed: %s", prepared.certifier.name, error)
            return [0.0] * len(self.x)
        # What no finite logits carry is not certified.
        right = (logits.argmax(dim=1) == self.y) & logits.isfinite().all(dim=1)
        return radii(proof).nan_to_num(0, posinf=torch.inf).where(right.cpu(), 0.0).tolist()


def _by_its_certifier(
    found: Recomputed,
    part: _Part,
    prepared: PreparedCertifier,
    verdicts: Sequence[Verdict],
    stated: float,
    eps: float,
) -> None:
    exhaustive = prepared.certifier.phase is Phase.LAST
    reached = part.radii(prepared, stated)
    if not prepared.certifier.radius_based:
        # At the edge, the last digits decide; and what is proved in a smaller ball is less.
        for smaller in (stated * (1 - EDGE), eps, eps * (1 - EDGE)):
            if min(reached) < smaller < stated:
                again = part.radii(prepared, smaller)
                reached = [max(a, b) for a, b in zip(reached, again, strict=True)]
    for verdict, radius in zip(verdicts, reached, strict=True):
        _assess(found, verdict, radius, eps, exhaustive=exhaustive)


def _by_any(
    found: Recomputed,
    part: _Part,
    ready: Sequence[PreparedCertifier],
    verdicts: Sequence[Verdict],
    eps: float,
) -> None:
    best = [0.0] * len(verdicts)
    for prepared in ready:
        best = [max(a, b) for a, b in zip(best, part.radii(prepared, eps), strict=True)]
    for verdict, radius in zip(verdicts, best, strict=True):
        if verdict.status is Status.CERTIFIED:
            proved = radius >= eps * (1 - EDGE)
            (found.proved if proved else found.unproved).append(verdict.example_id)


def _assess(
    found: Recomputed, verdict: Verdict, radius: float, eps: float, *, exhaustive: bool
) -> None:
    example = verdict.example_id
    if verdict.status is Status.CERTIFIED:
        if radius >= eps * (1 - EDGE):
            found.proved.append(example)
        else:
            (found.unrepeated if exhaustive else found.unproved).append(example)
            return
    # Written so that NaN is shorter.
    if not exhaustive and not verdict.certified_radius <= radius * (1 + RADIUS):
        found.shorter[example] = (verdict.certified_radius, radius)


def _patient(certifier: Certifier[Any]) -> Certifier[Any]:
    settings = certifier.settings()
    limits = {name: settings.get(name) for name in ("seconds_per_example", "seconds")}
    changed: Any = {
        name: _PATIENCE * limit for name, limit in limits.items() if isinstance(limit, (int, float))
    }
    return replace(certifier, **changed)
