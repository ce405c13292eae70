"""The certificate audit: attacks on every certified example inside its own radius.

Each certificate gives its largest radius. Attacks then search the certified balls, and a
minimum-norm attack searches for the nearest adversarial example, which must lie outside. An
adversarial example inside a certified radius refutes the certificate. The certifiers of one call
share the attacks, which reach as far as the longest of their radii.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.attacks.catalogue import resolve_attacks
from robustbench_dyn.certification.base import Phase
from robustbench_dyn.certification.catalogue import (
    AnyCertifier,
    named_certifiers,
    resolve_certifiers,
)
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.evaluation.candidates import check_candidates
from robustbench_dyn.evaluation.certified_radii import SMALLEST_EPS, certified_radii
from robustbench_dyn.evaluation.distances import MINIMUM_NORM_ATTACK
from robustbench_dyn.evaluation.inputs import as_dataset
from robustbench_dyn.evaluation.options import device_of
from robustbench_dyn.evaluation.plan import Attacks, Certifiers
from robustbench_dyn.models.counting import CountingModel, surrogates_of
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.models.precision import full_precision
from robustbench_dyn.threat_models import Norm, ThreatModel, widest_eps

# The native Auto-PGD and Square do not support L1, where AutoAttack's own package costs many times
# as much.
DEFAULT_ATTACKS: Final[Mapping[Norm, str]] = {
    "L2": "standard-full",
    "Linf": "standard-full",
    "L1": "fab-t",
}
# Attacks search this share of a certified radius, so that rounding puts no candidate outside it.
SHARE_OF_RADIUS: Final = 0.98
# An attack takes one eps a call: radii that differ by less than this factor share the smallest.
SHELL_RATIO: Final = 1.1


class AdversarialExample(NamedTuple):
    """The nearest adversarial example found for one row; x_adv: *input_shape, on the CPU."""

    attack: str
    distance: float
    x_adv: Tensor


class Refutation(NamedTuple):
    """An adversarial example inside the certified radius of the example in one row of the data."""

    row: int
    radius: float
    example: AdversarialExample


class AttackCost(NamedTuple):
    """The cost of the attacks of one audit; passes are counted by examples."""

    seconds: float
    forward_passes: int
    backward_passes: int


@dataclass(frozen=True)
class AuditResult:
    """The certified radii of one certifier, and the attacks on them.

    radii: (n,) float64, in raw input units of the norm; NaN where nothing is certified.
    n_examples: the first so many were given to the certifier. nearest: the smallest distance of an
    adversarial example from its example, in certified radii; inf where none was found.
    not_applicable: why the certifier cannot treat the model or the norm, else ""; nothing is
    attacked then. attack_cost: of the attacks, shared by the certifiers of one call.
    """

    certifier: AnyCertifier
    radii: Tensor
    n_examples: int
    certify_seconds: float
    not_applicable: str = ""
    refutations: tuple[Refutation, ...] = ()
    nearest: float = math.inf
    attack_cost: AttackCost | None = None


def audit_certificates(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    certifiers: Certifiers,
    *,
    attacks: Attacks | None = None,
    minimum_norm: str | Attack = MINIMUM_NORM_ATTACK,
    exhaustive_examples: int | None = None,
    seed: int = 0,
    batch_size: int = 250,
) -> dict[str, AuditResult]:
    """Attack each certified example inside its certified radius; return a result by label.

    model: from (batch, *input_shape) in [0, 1] to logits; used in eval mode and given back as it
    was. x: float (n, *input_shape); y: integer (n,). certifiers: names and objects; one that cannot
    treat the model has the reason in its result. attacks: run within SHARE_OF_RADIUS of each
    radius; by default DEFAULT_ATTACKS of the norm. minimum_norm: run on all of the norm's widest
    ball. exhaustive_examples: give certifiers of Phase.LAST the first so many examples alone.
    Raises InputError for bad tensors, an unknown name or setting, "auto", and an attack that does
    not support the norm.
    """
    named = named_certifiers(certifiers)
    if named.auto or not named.certifiers:
        raise InputError(
            f"certifiers={certifiers!r} names no certifier to audit; give names or objects, such "
            "as ['lipschitz', 'interval']"
        )
    data = as_dataset((x, y), None)
    device = device_of(model, None)
    x, y = data.x.to(device), data.y.to(device)
    with full_precision(), frozen_eval(model):
        results = [
            _certify(model, x, y, norm, certifier, limit=exhaustive_examples, batch_size=batch_size)
            for certifier in named.certifiers
        ]
        applied = [result.radii for result in results if not result.not_applicable]
        if applied:
            counting, started = CountingModel(model), time.perf_counter()
            examples = nearest_adversarial_examples(
                counting,
                x,
                y,
                torch.stack([radius.nan_to_num(0) for radius in applied]).amax(dim=0),
                norm,
                attacks=DEFAULT_ATTACKS[norm] if attacks is None else attacks,
                minimum_norm=minimum_norm,
                seed=seed,
                batch_size=batch_size,
            )
            seconds = time.perf_counter() - started
            cost = AttackCost(seconds, counting.forward_passes, counting.backward_passes)
            results = [_attacked(result, examples, cost) for result in results]
    return {result.certifier.label(norm): result for result in results}


def radius_shells(certified: Tensor, smallest: float) -> Iterator[tuple[float, Tensor]]:
    """Split examples by radius; yield SHARE_OF_RADIUS of a shell's smallest radius, and its rows.

    certified: (n,); radii below `smallest`, and NaN, are left out. The radii of one shell differ by
    less than the factor SHELL_RATIO.
    """
    shell = (certified.log() / math.log(SHELL_RATIO)).floor()
    shell = shell.where(certified >= smallest, math.nan)
    for k in torch.unique(shell[~shell.isnan()]).tolist():
        rows = (shell == k).nonzero().flatten()
        yield SHARE_OF_RADIUS * float(certified[rows].min()), rows


def nearest_adversarial_examples(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    certified: Tensor,
    norm: Norm,
    *,
    attacks: Attacks,
    minimum_norm: str | Attack = MINIMUM_NORM_ATTACK,
    seed: int = 0,
    batch_size: int = 250,
) -> dict[int, AdversarialExample]:
    """Attack each example inside its certified radius; return the nearest success by row.

    model: frozen, from inputs to logits. x: (n, *input_shape); y: (n,); certified: (n,), in `norm`,
    0 or NaN where nothing is certified. A row whose certificate is refuted is not attacked further.
    """
    with torch.no_grad():
        n_classes = model(x[:1]).shape[1]
    has_surrogates = bool(surrogates_of(model))
    inside_radii = resolve_attacks(attacks, norm, n_classes, has_surrogates=has_surrogates)
    anywhere = resolve_attacks(minimum_norm, norm, n_classes)
    widest = widest_eps(norm, tuple(x.shape[1:]))
    # No two inputs are farther apart; a longer radius, or an infinite one, proves no more.
    diameter = widest if norm == "Linf" else 4 * widest
    runs = [(attack, widest, (certified > 0).nonzero().flatten()) for attack in anywhere]
    runs += [
        (attack, eps, rows)
        for eps, rows in radius_shells(certified.clamp(max=diameter), SMALLEST_EPS[norm])
        for attack in inside_radii
    ]
    nearest = dict[int, AdversarialExample]()
    for attack, eps, rows in runs:
        unrefuted = [
            row
            for row in rows.tolist()
            if row not in nearest or nearest[row].distance > certified[row]
        ]
        if not unrefuted:
            continue
        threat_model = ThreatModel(norm, eps)
        candidates = attack.search(
            model,
            x[unrefuted],
            y[unrefuted],
            threat_model,
            seed=seed,
            batch_size=batch_size,
            n_classes=n_classes,
        )
        check = check_candidates(model, candidates, x[unrefuted], y[unrefuted], threat_model)
        for k in check.fooled.nonzero().flatten().tolist():
            row, distance = unrefuted[k], float(check.distance[k])
            if row not in nearest or distance < nearest[row].distance:
                nearest[row] = AdversarialExample(attack.name, distance, check.x_adv[k].cpu())
    return nearest


def find_refutations(
    certified: Tensor, examples: Mapping[int, AdversarialExample]
) -> list[Refutation]:
    """Return the adversarial examples at most as far as the certified radii, in order of rows.

    certified: (n,), NaN where nothing is certified. examples: by row.
    """
    radius_of = {row: float(certified[row]) for row in sorted(examples)}
    return [
        Refutation(row, radius, examples[row])
        for row, radius in radius_of.items()
        if examples[row].distance <= radius
    ]


def _attacked(
    result: AuditResult, examples: Mapping[int, AdversarialExample], cost: AttackCost
) -> AuditResult:
    """Return the result with what the attacks found; a certifier without radii stays as it is."""
    if result.not_applicable:
        return result
    radius_of = {row: float(result.radii[row]) for row in examples if result.radii[row] > 0}
    nearest = min((examples[row].distance / radius_of[row] for row in radius_of), default=math.inf)
    refutations = tuple(find_refutations(result.radii, examples))
    return replace(result, refutations=refutations, nearest=nearest, attack_cost=cost)


def _certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    certifier: AnyCertifier,
    *,
    limit: int | None,
    batch_size: int,
) -> AuditResult:
    """Run one certifier; limit: on the number of examples for one that searches exhaustively."""
    started, reason = time.perf_counter(), ""
    n = len(x) if limit is None or certifier.phase is not Phase.LAST else min(limit, len(x))
    certified = torch.full((len(x),), math.nan, dtype=torch.float64)
    try:
        (prepared,) = resolve_certifiers(certifier, model, tuple(x.shape[1:]), norm)
        certified[:n] = certified_radii(model, prepared, x[:n], y[:n], norm, batch_size=batch_size)
    except (CertificateError, InputError) as error:
        if is_machine_error(error):
            raise
        reason = str(error)
    return AuditResult(certifier, certified, n, time.perf_counter() - started, reason)
