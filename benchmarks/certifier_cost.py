"""The cost of each certifier per example, on networks of the zoo.

    python benchmarks/certifier_cost.py [--n-examples 20] [--model feedforward]

Each certifier runs alone, on every correctly classified example; in an evaluation it runs only on
the examples that cheaper certifiers and attacks leave undecided. Seconds are processor time of all
threads, which depends little on other processes; the column beside them gives the number of forward
passes of the frozen network, in batches of the same size, that take as long. `complete` searches
for at most 5 seconds an example, and 15 a network and eps. --model: the others keep their rows.
Results: benchmarks/results/certifier_cost.csv; `python benchmarks/tables.py` puts them in the docs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import measuring
import pandas as pd
import torch
from torch import Tensor, nn

from robustbench_dyn import Smoothing, ThreatModel, evaluate_smoothed, load_dataset, load_model
from robustbench_dyn.certification.base import PreparedCertifier, radii
from robustbench_dyn.certification.catalogue import certifier_names, resolve_certifiers
from robustbench_dyn.certification.certifiers.complete import Complete
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.evaluation.candidates import check_candidates
from robustbench_dyn.models.freezing import frozen_eval

# Networks and data sets, and threat models at which some examples are certified.
FASHION = (ThreatModel("L2", 0.25), ThreatModel("Linf", 2 / 255))
MOONS = (ThreatModel("L2", 0.1), ThreatModel("Linf", 0.1))
NETWORKS: dict[tuple[str, str], tuple[ThreatModel, ...]] = {
    ("lipflow", "fashion_mnist"): FASHION,
    ("feedforward", "fashion_mnist"): FASHION,
    ("euler_resnet", "fashion_mnist"): FASHION,
    ("feedforward/linf-0.1", "fashion_mnist"): FASHION,
    ("hamiltonian/l2-0.25", "fashion_mnist"): FASHION,
    ("feedforward", "moons"): MOONS,
    ("euler_resnet", "moons"): MOONS,
}
SMOOTHING = Smoothing(0.25)
# Searches end after so many seconds, each example's and those of one network at one eps.
LIMITS = {"complete": Complete(seconds_per_example=5.0, seconds=15.0)}


@torch.no_grad()
def seconds_per_forward(model: nn.Module, x: Tensor) -> float:
    """Return the processor seconds of a forward pass per example, in one batch."""
    taken = []
    for _ in range(5):
        started = time.process_time()
        model(x)
        taken.append(time.process_time() - started)
    return min(taken) / len(x)


def run_certifier(
    model: nn.Module, prepared: PreparedCertifier, x: Tensor, y: Tensor, threat_model: ThreatModel
) -> dict[str, Any]:
    """Run a certifier on correctly classified examples; count the examples that it decides."""
    with torch.no_grad():
        logits = model(x)
    started = time.process_time()
    proof = prepared.prove(x, logits, y, threat_model)
    seconds = time.process_time() - started
    broken = 0
    if proof.candidates is not None:
        broken = int(check_candidates(model, proof.candidates, x, y, threat_model).fooled.sum())
    certified = int((radii(proof) >= threat_model.eps).sum())
    return {"certified": certified, "broken": broken, "seconds": seconds / len(x)}


def rows_of(name: str, data: Dataset, threat_models: tuple[ThreatModel, ...]) -> Iterator[Any]:
    model = load_model(name, dataset=data.name)
    about = {
        "model": name,
        "dataset": data.name,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    with frozen_eval(model):
        with torch.no_grad():
            correct = model(data.x).argmax(dim=1) == data.y
        x, y = data.x[correct], data.y[correct]
        forward = seconds_per_forward(model, x)
        for threat_model in threat_models:
            norm = threat_model.norm
            about |= {"norm": norm, "eps": threat_model.eps, "n_examples": len(x)}
            for certifier in certifier_names():
                started = time.process_time()
                try:
                    (prepared,) = resolve_certifiers(
                        LIMITS.get(certifier, certifier), model, tuple(x.shape[1:]), norm
                    )
                except (CertificateError, InputError):
                    continue
                once = time.process_time() - started
                row = run_certifier(model, prepared, x, y, threat_model)
                yield (
                    about
                    | {"certifier": certifier, "seconds_once": once}
                    | row
                    | {"forward_passes": row["seconds"] / forward}
                )
        (l2,) = (threat_model for threat_model in threat_models if threat_model.norm == "L2")
        started = time.process_time()
        smoothed = evaluate_smoothed(model, (x, y), [l2], SMOOTHING, attacked=False)
        seconds = (time.process_time() - started) / len(x)
        certified = sum(
            c.label == c.prediction and c.radius >= l2.eps for c in smoothed.certificates
        )
        yield about | {
            "norm": "L2",
            "eps": l2.eps,
            "certifier": f"smoothing, sigma {SMOOTHING.sigma:g}",
            "seconds_once": 0.0,
            "certified": certified,
            "broken": 0,
            "seconds": seconds,
            "forward_passes": SMOOTHING.n0 + SMOOTHING.n,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-examples", type=int, default=20)
    parser.add_argument("--model", action="append")
    options = parser.parse_args()
    rows = list[dict[str, Any]]()
    for (name, dataset), threat_models in NETWORKS.items():
        if options.model and name not in options.model:
            continue
        for row in rows_of(
            name, load_dataset(dataset, n_examples=options.n_examples), threat_models
        ):
            rows.append(row)
            print(row, flush=True)
    path = measuring.RESULTS / "certifier_cost.csv"
    table = pd.DataFrame(rows).assign(machine=measuring.machine())
    if not options.model:
        path.unlink(missing_ok=True)
    measuring.add(path, table, ("model", "dataset"))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
