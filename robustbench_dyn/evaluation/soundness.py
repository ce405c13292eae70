"""Counterexamples to certificates: adversarial examples inside certified balls end the run."""

from __future__ import annotations

import logging

import numpy as np
from torch import Tensor

from robustbench_dyn.errors import OutputError, SoundnessError
from robustbench_dyn.evaluation.candidates import Hit
from robustbench_dyn.files import replacing
from robustbench_dyn.results.store import Store, Violation
from robustbench_dyn.results.verdicts import Verdict
from robustbench_dyn.threat_models import ThreatModel

log = logging.getLogger(__name__)


def record_counterexample(
    store: Store, key: str, verdict: Verdict, threat_model: ThreatModel, hit: Hit, x: Tensor
) -> None:
    """Keep a counterexample to a verdict's certificate; as a file, too, beside a store on disk.

    x: the example, *input_shape. Where the file cannot be written, the store has it all the same.
    """
    violation = Violation(
        example_id=verdict.example_id,
        certified_radius=verdict.certified_radius,
        adversarial_distance=hit.distance,
        attack=hit.attack,
        path="",
        x_adv=hit.x_adv,
    )
    store.add_violation(key, threat_model.eps, violation)
    if store.path is None:
        return
    name = f"{key[:12]}-{threat_model.norm}-{verdict.example_id}.npz"
    path = store.path.parent / "counterexamples" / name
    original = x.cpu().numpy()
    try:
        with replacing(path) as partial:
            np.savez(
                partial,
                x=original,
                label=verdict.label,
                eps=threat_model.eps,
                x_adv=np.frombuffer(hit.x_adv, dtype=original.dtype).reshape(original.shape),
                certified_radius=verdict.certified_radius,
                distance=hit.distance,
            )
    except OutputError as error:
        log.warning("the counterexample is in the store alone: %s", error)
        return
    store.add_violation(key, threat_model.eps, violation._replace(path=str(path)))


def describe_hit(verdict: Verdict, hit: Hit) -> str:
    """Return, and log, what a hit inside the radius of a probabilistic certificate means."""
    log.warning(
        "example %d is certified within %.6g, and %s fools the model at %.6g",
        verdict.example_id,
        verdict.certified_radius,
        hit.attack,
        hit.distance,
    )
    return f"inside the radius of {verdict.certifier}, which may be wrong"


def raise_counterexamples(store: Store, key: str, model: str) -> None:
    """Raise SoundnessError where any counterexample to one evaluation's certificates is kept."""
    violations = store.violations(key)
    if not violations:
        return
    first = violations[0]
    raise SoundnessError(
        f"{len(violations)} attack(s) landed inside a certified ball of {model!r}: example "
        f"{first.example_id} is certified within {first.certified_radius:.6g}, and {first.attack} "
        f"fools the model at {first.adversarial_distance:.6g}; the certificate or the model is "
        "wrong" + (f" (counterexample: {first.path})" if first.path else ""),
        [violation._asdict() for violation in violations],
    )
