"""Attacks: native ones, and those of torchattacks and AutoAttack."""

from __future__ import annotations

from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.attacks.catalogue import ATTACKS, SUITES, resolve_attacks
from robustbench_dyn.attacks.external.autoattack import (
    AutoAttackAPGD,
    AutoAttackAPGDDLR,
    AutoAttackAPGDT,
    AutoAttackFAB,
    AutoAttackFABT,
    AutoAttackSquare,
)
from robustbench_dyn.attacks.external.torchattacks import CW, FGSM, PGD, DeepFool
from robustbench_dyn.attacks.native import (
    APGD,
    APGDDLR,
    APGDT,
    EOTAPGD,
    EOTAPGDDLR,
    FABT,
    FABMin,
    HopSkipJump,
    RayS,
    Square,
    SquareLong,
    Transfer,
)
from robustbench_dyn.attacks.problem import AttackProblem
from robustbench_dyn.attacks.suites import Suite

__all__ = [
    "APGD",
    "APGDDLR",
    "APGDT",
    "ATTACKS",
    "CW",
    "EOTAPGD",
    "EOTAPGDDLR",
    "FABT",
    "FGSM",
    "PGD",
    "SUITES",
    "Attack",
    "AttackProblem",
    "AutoAttackAPGD",
    "AutoAttackAPGDDLR",
    "AutoAttackAPGDT",
    "AutoAttackFAB",
    "AutoAttackFABT",
    "AutoAttackSquare",
    "DeepFool",
    "FABMin",
    "HopSkipJump",
    "RayS",
    "Square",
    "SquareLong",
    "Suite",
    "Transfer",
    "resolve_attacks",
]
