"""Counterexamples to certificates: adversarial examples inside certified balls end the run."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from robustbench_dyn.errors import SoundnessError
from robustbench_dyn.results.store import Store, Violation
from robustbench_dyn.results.verdicts import Verdict
from robustbench_dyn.threat_models import ThreatModel


def record_counterexample(
    store: Store,
    key: str,
    verdict: Verdict,
    threat_model: ThreatModel,
    *,
    attack: str,
    reached: float,
    x: Tensor,
    x_adv: bytes,
) -> None:
    """Keep a counterexample to a verdict's certificate; as a file, too, beside a store on disk.

    x: the example, *input_shape; x_adv: the bytes of what fools the model at distance `reached`.
    """
    path = ""
    if store.path is not None:
        folder = store.path.parent / "counterexamples"
        folder.mkdir(exist_ok=True)
        file = folder / f"{key[:12]}-{threat_model.norm}-{verdict.example_id}.npz"
        original = x.cpu().numpy()
        np.savez(
            file,
            x=original,
            label=verdict.label,
            eps=threat_model.eps,
            x_adv=np.frombuffer(x_adv, dtype=original.dtype).reshape(original.shape),
            certified_radius=verdict.certified_radius,
            distance=reached,
        )
        path = str(file)
    violation = Violation(
        verdict.example_id, verdict.certified_radius, reached, attack, path, x_adv
    )
    store.add_violation(key, threat_model.eps, violation)


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
