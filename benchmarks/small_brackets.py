"""How far the brackets of small networks close: every network of the zoo below 700 neurons.

    python benchmarks/small_brackets.py [--n-examples 100] [--model hamiltonian]

Each is evaluated with the default attacks and certifiers, at the default eps of its data set and at
the eps of the docs' examples, in L2 and in Linf. Seconds are processor time of the whole
evaluation, loading aside. A network that cannot be traced has no number of neurons, and is left in.
Results: benchmarks/results/small_brackets.csv; `python benchmarks/tables.py` puts them in the docs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import measuring
from torch import nn

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model
from robustbench_dyn.certification.bounds.intermediate import relaxation_state
from robustbench_dyn.datasets import Dataset, dataset_info
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.models.loading import discover
from robustbench_dyn.threat_models import Norm

MOST_NEURONS = 700
DATASET = "moons"
NORMS: tuple[Norm, ...] = ("L2", "Linf")
OF_THE_DOCS = 0.1


def neurons(model: nn.Module, input_shape: tuple[int, ...]) -> int | None:
    """Return how many values go through an activation; None for a network without a trace."""
    try:
        return relaxation_state(model, input_shape).exact.n_neurons
    except CertificateError:
        return None


def small_networks(data: Dataset) -> Iterator[tuple[str, nn.Module, int | None]]:
    """Yield the name, the network and the number of neurons of each with weights for the data."""
    for name in discover():
        for weights in discover().get(name).card.weights:
            if weights.dataset == data.name:
                full = f"{name}/{weights.variant}" if weights.variant else name
                model = load_model(full, dataset=data.name)
                count = neurons(model, tuple(data.x.shape[1:]))
                if count is None or count < MOST_NEURONS:
                    yield full, model, count


def asked_for(description: str | None) -> tuple[Dataset, list[tuple[str, nn.Module, int | None]]]:
    """Read the command line; return the examples, and the small networks to be measured."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-examples", type=int, default=100)
    parser.add_argument("--model", action="append")
    options = parser.parse_args()
    data = load_dataset(DATASET, n_examples=options.n_examples)
    found = small_networks(data)
    return data, [one for one in found if not options.model or one[0] in options.model]


def main() -> None:
    rows = list[dict[str, Any]]()
    data, networks = asked_for(__doc__)
    for name, model, count in networks:
        default = dataset_info(DATASET).eps_for
        for norm, eps in [(n, e) for n in NORMS for e in (default(n), OF_THE_DOCS)]:
            started = time.process_time()
            summary = evaluate(model, data, ThreatModel(norm, eps), progress=False).summary
            seconds = time.process_time() - started
            rows.append(
                {
                    "model": name,
                    "neurons": count,
                    "norm": norm,
                    "eps": eps,
                    "n_examples": len(data),
                    "clean": summary["clean_accuracy"],
                    "certified": summary["certified_accuracy"],
                    "empirical": summary["empirical_accuracy"],
                    "gap": summary["gap"],
                    "certifiers": summary["certifiers"],
                    "seconds": round(seconds, 1),
                }
            )
            print(rows[-1], flush=True)
    measuring.write("small_brackets", rows)


if __name__ == "__main__":
    main()
