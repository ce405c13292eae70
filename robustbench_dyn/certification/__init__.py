"""Proofs of robustness: Lipschitz bounds, relaxations, semidefinite bounds, branch and bound."""

from __future__ import annotations

from robustbench_dyn.certification.base import Certifier, Phase, PreparedCertifier, Proof
from robustbench_dyn.certification.catalogue import CERTIFIERS, select_certifiers
from robustbench_dyn.certification.certifiers.complete import Complete
from robustbench_dyn.certification.certifiers.interval import Interval
from robustbench_dyn.certification.certifiers.linear_relaxation import LinearRelaxation
from robustbench_dyn.certification.certifiers.lipschitz import Lipschitz
from robustbench_dyn.certification.certifiers.lipschitz_in_box import LipschitzInBox
from robustbench_dyn.certification.certifiers.lipsdp import LipSDP
from robustbench_dyn.certification.certifiers.local_lipsdp import LocalLipSDP

__all__ = [
    "CERTIFIERS",
    "Certifier",
    "Complete",
    "Interval",
    "LinearRelaxation",
    "LipSDP",
    "Lipschitz",
    "LipschitzInBox",
    "LocalLipSDP",
    "Phase",
    "PreparedCertifier",
    "Proof",
    "select_certifiers",
]
