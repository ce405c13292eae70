"""Rules about claims: the card, the properties, certificates under attack; and the cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import torch

from robustbench_dyn.datasets import DATASETS
from robustbench_dyn.datasets.dataset import is_name_of_files
from robustbench_dyn.errors import CertificateError, SoundnessError
from robustbench_dyn.evaluation.api import evaluate_grid
from robustbench_dyn.evaluation.cheap import cheap_certifiers
from robustbench_dyn.evaluation.contract.rules import ModelFinding, ModelRule, Subject
from robustbench_dyn.lipschitz.bounds import lipschitz_bound
from robustbench_dyn.models.forward import call_without_graph
from robustbench_dyn.models.precision import full_precision
from robustbench_dyn.plugins.contract import Outcome
from robustbench_dyn.properties import Finding, check_properties, claims_for_all
from robustbench_dyn.properties.architectures import compare_names
from robustbench_dyn.results.flags import REFUTED_BOUND
from robustbench_dyn.results.verdicts import Status
from robustbench_dyn.threat_models import Norm, ThreatModel, format_eps, widest_eps

_SHARES_OF_WIDEST = (0.01, 0.05, 0.2)
_PASSES = 3
# A module of a package may not be called as the plugin.
_PREFIX = "dynbench_"


def _card(subject: Subject) -> Outcome:
    architecture = subject.architecture
    card, folder = architecture.card, architecture.folder
    wrong = []
    if folder.name not in (card.name, _PREFIX + card.name):
        wrong.append(f"its name is {card.name!r}, and its folder's {folder.name!r}")
    for weights in card.weights:
        if weights.dataset not in DATASETS and not is_name_of_files(weights.dataset):
            wrong.append(f"{weights.file} is for the data set {weights.dataset!r}, unknown here")
        if not (folder / weights.file).is_file():
            wrong.append(f"{weights.file} is missing")
    names = compare_names(
        architecture, {claim.name for claim in architecture.claims(subject.model)}
    )
    if not names.holds:
        wrong.append(names.note)
    return Outcome(not wrong, "; ".join(wrong) or "name, data sets, files and properties agree")


def properties(subject: Subject) -> Iterator[ModelFinding]:
    """Yield a finding for each property of a part: the largest defect at any kind of points."""
    claims = [*claims_for_all(subject.model), *subject.architecture.claims(subject.model)]
    for claim in claims:
        with full_precision():
            found = list(check_properties(subject.model, [claim], subject.x))
        worst = max(found, key=lambda finding: (not finding.holds, finding.defect))
        part = f" of {claim.part}" if claim.part else ""
        yield ModelFinding(
            f"{claim.name}{part}",
            worst.holds,
            _found(found, worst),
            f"a defect of at most {worst.tolerance:.1e} in float64",
            _remedy(claim.name),
            worst.witness,
        )


def _found(found: list[Finding], worst: Finding) -> str:
    points = ", ".join(finding.points for finding in found)
    note = f"; {worst.note}" if worst.note else ""
    return f"defect {worst.defect:.1e} at {worst.points} points (tested: {points}){note}"


def _remedy(claim: str) -> str:
    return {
        "deterministic": "draw no random numbers in eval mode",
        "batch-independent": "use nothing that mixes the examples of a batch",
        "lipschitz": "prove lipschitz_bound() anew: two inputs refute it",
    }.get(claim, "take the claim out of properties() and card.yaml, or mend the part")


def _certificates(subject: Subject) -> Outcome:
    """Attack every example that a cheap certifier proves, at small, middling and wide radii."""
    norm: Norm = (subject.weights.norm if subject.weights else None) or "L2"
    shape = tuple(subject.x.shape[1:])
    with suppress(CertificateError):
        lipschitz_bound(subject.model)  # what else it raises is told
    certifiers = cheap_certifiers(subject.model, shape, norm)
    if not certifiers:
        return Outcome(None, f"no cheap certifier of {norm} is applicable")
    widest = widest_eps(norm, shape)
    balls = [ThreatModel(norm, float(f"{share * widest:.2g}")) for share in _SHARES_OF_WIDEST]
    try:
        evaluations = evaluate_grid(
            subject.model,
            subject.data,
            balls,
            attacks="apgd-ce",
            certifiers=certifiers,
            audit_share=1.0,
        )
    except SoundnessError as error:
        return Outcome(False, str(error))
    flags = evaluations[0].summary["flags"].split()
    if REFUTED_BOUND in flags:
        return Outcome(False, "a search found two inputs that refute lipschitz_bound()")
    crashed = [flag for flag in flags if flag.startswith("certifier_failed")]
    if crashed:
        return Outcome(False, f"lipschitz_bound() fails ({', '.join(crashed)})")
    counts = [
        f"{sum(v.status is Status.CERTIFIED for v in e.verdicts)} at {format_eps(ball.eps)}"
        for e, ball in zip(evaluations, balls, strict=True)
    ]
    none = all(v.status is not Status.CERTIFIED for e in evaluations for v in e.verdicts)
    found = f"certified in {norm}: {', '.join(counts)}; by {', '.join(certifiers)}"
    return Outcome(None if none else True, found)


def _cost(subject: Subject) -> Outcome:
    batch = torch.cat([subject.x] * 8)
    call_without_graph(subject.model, batch)
    seconds = []
    for _ in range(_PASSES):
        started = time.perf_counter()
        call_without_graph(subject.model, batch)
        seconds.append(time.perf_counter() - started)
    n = sum(parameter.numel() for parameter in subject.model.parameters())
    each = min(seconds) / len(batch)
    return Outcome(True, f"{n:,} parameters; {1000 * each:.2g} ms an example, {len(batch)} at once")


CARD = ModelRule(
    "card",
    "a card whose name is that of its folder, whose data sets and files exist, and whose "
    "properties are those of properties()",
    "correct card.yaml",
    _card,
)
CERTIFICATES = ModelRule(
    "certificates",
    "no adversarial example inside a certified radius",
    "prove lipschitz_bound() anew; rounding, and inputs far from the data, count as well",
    _certificates,
)
COST = ModelRule("cost", "a pass that can be measured", "make forward() run", _cost)
