"""The cost of linear relaxations on networks that were trained for bounds, for 100 examples.

    python benchmarks/relaxation_cost.py [--n-examples 100]

Every objective is relaxed, whatever intervals say of it; bounds of these networks are tight enough
for alpha-CROWN to optimise slopes. "optimised" takes the steps behind intermediate bounds where a
few neurons of a layer gain by them, "everywhere" in all layers. Seconds are processor time of one
thread, which depends little on other processes. Results: benchmarks/results/relaxation_cost.csv.
"""

from __future__ import annotations

import argparse
import time
from unittest import mock

import measuring
import torch

from robustbench_dyn import ThreatModel, load_dataset, load_model
from robustbench_dyn.certification.bounds import intermediate
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import interval_bounds, relaxation_state
from robustbench_dyn.certification.proofs import linear_relaxation
from robustbench_dyn.certification.proofs.relaxed_objectives import relaxed_objectives
from robustbench_dyn.models.freezing import frozen_eval

SETTINGS = (
    ("feedforward/linf-0.05", "Linf", (0.05, 0.1)),
    ("feedforward/l2-0.25", "L2", (0.25, 0.5)),
    ("euler_resnet/l2-0.25", "L2", (0.25, 0.5)),
    ("hamiltonian/l2-0.25", "L2", (0.25,)),
)
# Steps of ascent, and the share by which slopes have to narrow a bound of a layer.
SLOPES = {
    "fixed": (0, intermediate._PAYS),
    "optimised": (20, intermediate._PAYS),
    "everywhere": (20, -1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-examples", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset("fashion_mnist", n_examples=options.n_examples)
    rows = []
    for name, norm, all_eps in SETTINGS:
        model = load_model(name, dataset="fashion_mnist")
        with frozen_eval(model), torch.no_grad():
            relaxed = relaxation_state(model, tuple(data.x.shape[1:]))
            logits = model(data.x)
            for eps in all_eps:
                threat_model = ThreatModel(norm, eps)
                bounds = interval_bounds(relaxed, Ball(data.x, threat_model))
                pairs = relaxed_objectives(relaxed, bounds, data.x, logits, data.y, threat_model)
                for slopes, (n_iterations, pays) in SLOPES.items():
                    started = time.process_time()
                    with mock.patch.object(intermediate, "_PAYS", pays):
                        least = linear_relaxation.relaxed_margins(
                            relaxed, data.x, pairs, threat_model, n_iterations=n_iterations
                        )
                    seconds = time.process_time() - started
                    rows.append(
                        {
                            "model": name,
                            "parameters": sum(p.numel() for p in model.parameters()),
                            "norm": norm,
                            "eps": eps,
                            "slopes": slopes,
                            "examples": len(data),
                            "objectives": len(least),
                            "proved": int((least > 0).sum()),
                            "seconds": round(seconds, 2),
                        }
                    )
                    print(rows[-1], flush=True)
    measuring.write("relaxation_cost", rows)


if __name__ == "__main__":
    main()
