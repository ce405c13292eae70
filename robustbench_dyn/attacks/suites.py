"""Suites of attacks: the standard one, and AutoAttack's versions by its authors' package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.attacks.external.autoattack import (
    AutoAttackAPGD,
    AutoAttackAPGDDLR,
    AutoAttackAPGDT,
    AutoAttackFAB,
    AutoAttackFABT,
    AutoAttackSquare,
)
from robustbench_dyn.attacks.native import (
    APGD,
    APGDDLR,
    APGDT,
    EOTAPGD,
    EOTAPGDDLR,
    FABT,
    HopSkipJump,
    RayS,
    Square,
    SquareLong,
    Transfer,
)
from robustbench_dyn.threat_models import Norm

# Auto-PGD on cross-entropy gets restarts where a loss of the suite is undefined for so few classes.
_RESTARTS_OF_FEW_CLASSES = 5


@dataclass(frozen=True)
class Suite:
    """A choice of attacks for a norm and a number of classes.

    attacks(norm, n_classes, has_surrogates) returns them in their order. Those whose loss is
    undefined for so few classes are left out.
    """

    name: str
    description: str
    attacks: Callable[[Norm, int, bool], list[Attack]]


def _full(norm: Norm, n_classes: int, has_surrogates: bool) -> list[Attack]:
    if norm == "L1":
        # The native Auto-PGD and Square do not support L1.
        return _autoattack(norm, n_classes, has_surrogates)
    n_restarts = 1 if n_classes >= APGDT.min_classes else _RESTARTS_OF_FEW_CLASSES
    attacks: list[Attack] = [APGD(n_restarts=n_restarts)]
    if n_classes >= APGDT.min_classes:
        attacks.append(APGDT())
    elif n_classes >= APGDDLR.min_classes:
        attacks.append(APGDDLR(n_restarts=n_restarts))
    attacks += [FABT(), Square()]
    if has_surrogates:
        attacks.append(Transfer())
    return [*attacks, *_on_signs(norm)]


def _standard(norm: Norm, n_classes: int, has_surrogates: bool) -> list[Attack]:
    """Return the full suite, in which the attacks that hardly ever find anything cost less."""
    return [_cheaper(attack) for attack in _full(norm, n_classes, has_surrogates)]


def _cheaper(attack: Attack) -> Attack:
    if attack.only_on_signs:
        return attack
    if isinstance(attack, APGDT):
        return replace(attack, gives_up=True)
    return replace(attack, sampled=attack.gradient_free)


def _autoattack(norm: Norm, n_classes: int, _has_surrogates: bool) -> list[Attack]:
    in_l1 = norm == "L1"
    few = n_classes < AutoAttackAPGDT.min_classes
    n_restarts = _RESTARTS_OF_FEW_CLASSES if few or in_l1 else 1
    attacks: list[Attack] = [
        AutoAttackAPGD(n_restarts=n_restarts, use_largereps=in_l1),
        AutoAttackAPGDT(n_targets=5 if in_l1 else 9, use_largereps=in_l1),
        AutoAttackFABT(),
        AutoAttackSquare(),
    ]
    return [*_defined(attacks, n_classes), *_on_signs(norm)]


def _plus(norm: Norm, n_classes: int, _has_surrogates: bool) -> list[Attack]:
    attacks: list[Attack] = [
        AutoAttackAPGD(),
        AutoAttackAPGDDLR(),
        AutoAttackFAB(),
        AutoAttackSquare(),
        AutoAttackAPGDT(),
        AutoAttackFABT(),
    ]
    return [*_defined(attacks, n_classes), *_on_signs(norm)]


def _rand(norm: Norm, n_classes: int, _has_surrogates: bool) -> list[Attack]:
    n_restarts = 1 if n_classes >= APGDDLR.min_classes else _RESTARTS_OF_FEW_CLASSES
    attacks: list[Attack] = [EOTAPGD(n_restarts=n_restarts), EOTAPGDDLR(n_restarts=n_restarts)]
    if norm == "L1":
        attacks = [
            AutoAttackAPGD(n_restarts=n_restarts, eot_iter=20),
            AutoAttackAPGDDLR(n_restarts=n_restarts, eot_iter=20),
        ]
    return _defined(attacks, n_classes)


def _none(_norm: Norm, _n_classes: int, _has_surrogates: bool) -> list[Attack]:
    return []


def _defined(attacks: list[Attack], n_classes: int) -> list[Attack]:
    """Return those whose loss is defined for so many classes."""
    return [attack for attack in attacks if attack.min_classes <= n_classes]


def _on_signs(norm: Norm) -> list[Attack]:
    """Return the attacks on undecided examples where there are signs of masked gradients."""
    attacks: list[Attack] = [
        RayS(only_on_signs=True),
        HopSkipJump(only_on_signs=True),
        SquareLong(only_on_signs=True),
    ]
    return [attack for attack in attacks if norm in attack.norms]


SUITES = (
    Suite(
        "standard",
        "AutoAttack's standard version by native attacks, on samples",
        _standard,
    ),
    Suite("standard-full", "the same, with every attack on every survivor", _full),
    Suite("autoattack", "AutoAttack's standard version by its authors' package", _autoattack),
    Suite("plus", "AutoAttack's plus version by its authors' package", _plus),
    Suite("rand", "AutoAttack's version for randomised models, in expectation", _rand),
    Suite("none", "no attack", _none),
)
