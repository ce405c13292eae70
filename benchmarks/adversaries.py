"""All certifiers, and a whole evaluation, on each adversarial module of tests/oracles.

    python benchmarks/adversaries.py

Results: benchmarks/results/adversaries.csv. Ends with exit code 1 where a certificate is refuted.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path

from measuring import write

from robustbench_dyn import ThreatModel, evaluate
from robustbench_dyn.certification.catalogue import certifier_names
from robustbench_dyn.errors import CertificateError, DynbenchError
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.threat_models import NORMS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles.adversaries import ADVERSARIES, Adversary
from oracles.refutation import built, certificates, predictions, refuted

USUAL = ("semidefinite bounds are for", "the logits are not known to be maxima")


def certified(adversary: Adversary) -> tuple[Counter[str], int, list[str]]:
    """Return the certificates of each certifier, how many were refuted, and the refusals."""
    counts, n_refuted, reasons = Counter[str](), 0, dict[str, None]()
    for norm in NORMS:
        for name in certifier_names():
            model, x = built(adversary)
            with frozen_eval(model):
                y = predictions(model, x)
                try:
                    for k, radius in certificates(model, x, y, name, norm):
                        counts[name] += 1
                        n_refuted += refuted(model, x[k], y[k], norm, radius) is not None
                except CertificateError as error:
                    # What most of these modules are refused for: their size, their kind of head.
                    if not str(error).startswith(USUAL):
                        reasons[str(error)] = None
                except DynbenchError:
                    continue
    return counts, n_refuted, list(reasons)


def flags(adversary: Adversary) -> str:
    """Return the flags of an evaluation, or the reason why the model was refused."""
    model, x = built(adversary)
    y = predictions(model, x)
    try:
        threat_model = ThreatModel("L2", 0.1)
        row = evaluate(model, (x, y), threat_model, attacks="apgd-ce", audit_share=0, batch_size=4)
    except DynbenchError as error:
        return f"refused: {error}"
    return str(row.summary["flags"])


def main() -> None:
    warnings.simplefilter("ignore")
    rows = []
    for adversary in ADVERSARIES:
        # Only an evaluation tests whether a model is a function of its input; certifiers do not.
        is_function = adversary.family != "changing"
        counts, n_refuted, reasons = certified(adversary) if is_function else (Counter(), 0, [])
        rows.append(
            {
                "family": adversary.family,
                "adversary": adversary.name,
                "trick": adversary.trick,
                "certificates": " ".join(f"{name}:{n}" for name, n in counts.items()),
                "refuted": n_refuted,
                "refusals": " | ".join(reasons),
                "flags": flags(adversary),
            }
        )
    write("adversaries", rows)
    sys.exit(any(row["refuted"] for row in rows))


if __name__ == "__main__":
    main()
