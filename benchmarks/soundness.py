"""Audit the certificates of all published weights: attacks inside every certified radius.

    python benchmarks/soundness.py [--n-examples 100] [--model lipflow] [--norm L2] [--dataset ...]

For every set of weights of every registered architecture, every norm and every certifier that
supports the network, audit_certificates attacks each certified example (docs/certification.md). A
certifier that searches exhaustively gets 2 seconds a ball and 20 examples. A hit is an adversarial
example inside a certified radius: the certificate is wrong.

Results: benchmarks/results/soundness.csv, written after each network and norm. A run that was
stopped continues. A row is computed again where the weights, the plugin, the certifiers or the
options have changed. The exit code is 1 where there is a hit; its counterexample is saved beside
the results.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import pandas as pd
from torch import nn

import robustbench_dyn
from robustbench_dyn import load_dataset
from robustbench_dyn.certification.catalogue import certifier_names
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.certificate_audit import (
    DEFAULT_ATTACKS,
    SHARE_OF_RADIUS,
    SHELL_RATIO,
    AuditResult,
    audit_certificates,
)
from robustbench_dyn.evaluation.certified_radii import OCTAVES, SMALLEST_EPS, STEPS_PER_OCTAVE
from robustbench_dyn.evaluation.distances import MINIMUM_NORM_ATTACK
from robustbench_dyn.models.architectures import Architecture, full_name
from robustbench_dyn.models.identity import hash_configuration
from robustbench_dyn.models.loading import discover, load_weights
from robustbench_dyn.plugins import Weights, find_plugins, hash_code
from robustbench_dyn.threat_models import NORMS, Norm

# Only the networks of moons are small enough for the complete certifier.
DATASETS = ("fashion_mnist", "moons")
# Limits of exhaustive certifiers; a ball that takes longer does not count as certified.
EXHAUSTIVE_EXAMPLES, SECONDS_PER_BALL = 20, 2.0
PATH = measuring.RESULTS / "soundness.csv"
ROW = ("model", "dataset", "norm", "certifier")
COLUMNS = (
    *ROW,
    "attacks",
    "n_examples",
    "certified",
    "median_radius",
    "with_suite",
    "hits",
    "nearest",
    "certify_seconds",
    "attack_seconds",
    "forward_passes",
    "backward_passes",
    "problem",
    "key",
    "machine",
)


def weights_of_the_zoo(
    names: Sequence[str] | None, datasets: Sequence[str]
) -> Iterator[tuple[Architecture, Weights]]:
    registry, known = discover(), set[str]()
    for plugin in find_plugins():
        for weights in plugin.card.weights if plugin.card else ():
            called = {plugin.name, full_name(plugin.name, weights.variant)}
            known |= called
            if weights.dataset in datasets and (not names or called & set(names)):
                yield registry.get(plugin.name), weights
    if missing := set(names or ()) - known:
        raise InputError(f"no weights are called {', '.join(sorted(missing))}")


def examine(
    model: nn.Module,
    data: Dataset,
    norm: Norm,
    certifiers: Sequence[str],
    name: str,
    *,
    attacks: str,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Audit the certificates of one network and norm; save the counterexamples.

    Returns the entries of the row of each certifier, by its name.
    """
    limits = {"complete": f"complete:seconds_per_example={SECONDS_PER_BALL}"}
    results = audit_certificates(
        model,
        data.x,
        data.y,
        norm,
        [limits.get(certifier, certifier) for certifier in certifiers],
        attacks=attacks,
        exhaustive_examples=EXHAUSTIVE_EXAMPLES,
        seed=seed,
    )
    rows = dict[str, dict[str, Any]]()
    for result in results.values():
        rows[result.certifier.name] = entries(result, norm)
        save_counterexamples(result, data, norm, name)
    return rows


def entries(result: AuditResult, norm: Norm) -> dict[str, Any]:
    """Return the entries of a row on one certifier's audit."""
    cost = result.attack_cost
    if cost is None:
        return {"problem": result.not_applicable}
    certified = result.radii[~result.radii.isnan()]
    return {
        "n_examples": result.n_examples,
        "certified": len(certified),
        "median_radius": float(certified.median()) if len(certified) else "",
        "with_suite": int((certified >= SMALLEST_EPS[norm]).sum()),
        "hits": len(result.refutations),
        "nearest": result.nearest if math.isfinite(result.nearest) else "",
        "certify_seconds": result.certify_seconds,
        "attack_seconds": cost.seconds,
        "forward_passes": cost.forward_passes,
        "backward_passes": cost.backward_passes,
    }


def save_counterexamples(result: AuditResult, data: Dataset, norm: Norm, name: str) -> None:
    """Save each refutation of one certifier as a file beside the results."""
    for row, radius, example in result.refutations:
        place = f"{name}-{data.name}-{norm}-{result.certifier.name}-{int(data.ids[row])}"
        np.savez(
            PATH.with_name(f"soundness-{place}.npz".replace("/", "~")),
            x=data.x[row].numpy(),
            x_adv=example.x_adv.numpy(),
            label=int(data.y[row]),
            certified_radius=radius,
            distance=example.distance,
            attack=example.attack,
        )


def key_of(architecture: Architecture, weights: Weights, settings: dict[str, Any]) -> str:
    """Return a hash of all that a row depends on; settings: of the audit."""
    package = Path(robustbench_dyn.__file__).parent
    code = {name: hash_code(package / name) for name in ("certification", "flows")}
    constants = (
        SHARE_OF_RADIUS,
        SHELL_RATIO,
        SMALLEST_EPS,
        OCTAVES,
        STEPS_PER_OCTAVE,
        EXHAUSTIVE_EXAMPLES,
        SECONDS_PER_BALL,
    )
    depends_on = {
        "plugin": architecture.code_sha256,
        "weights": weights.sha256,
        **code,
        **settings,
        "constants": constants,
    }
    return hash_configuration(depends_on)[:16]


def read_rows() -> dict[tuple[str, ...], dict[str, Any]]:
    if not PATH.is_file():
        return {}
    # As text, so that a row that is not computed again is written as it was read.
    rows = pd.read_csv(PATH, keep_default_na=False, dtype=str).to_dict("records")
    return {tuple(str(row[column]) for column in ROW): dict(row) for row in rows}


def write_rows(rows: dict[tuple[str, ...], dict[str, Any]]) -> None:
    partial = PATH.with_suffix(".partial")
    table = pd.DataFrame([rows[place] for place in sorted(rows)], columns=list(COLUMNS))
    table.to_csv(partial, index=False, lineterminator="\n")
    partial.replace(PATH)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-examples", type=int, default=100)
    parser.add_argument("--model", action="append", help="NAME or NAME/VARIANT; by default all")
    parser.add_argument("--dataset", action="append")
    parser.add_argument("--norm", action="append", choices=NORMS)
    parser.add_argument("--certifier", action="append", choices=list(certifier_names()))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attacks", help="inside the radii; by default those of the norm")
    options = parser.parse_args(arguments)
    PATH.parent.mkdir(exist_ok=True)
    rows = read_rows()
    for architecture, weights in weights_of_the_zoo(options.model, options.dataset or DATASETS):
        name = full_name(architecture.name, weights.variant)
        data = load_dataset(weights.dataset, n_examples=options.n_examples)
        model = load_weights(architecture, weights)
        for norm in options.norm or NORMS:
            attacks = options.attacks or DEFAULT_ATTACKS[norm]
            keys = dict[str, str]()
            for certifier in options.certifier or certifier_names():
                settings = {
                    "norm": norm,
                    "certifier": certifier,
                    "n_examples": len(data),
                    "seed": options.seed,
                    "attacks": attacks,
                }
                key = key_of(architecture, weights, settings)
                row = rows.get((name, data.name, norm, certifier))
                if row is None or row["key"] != key:
                    keys[certifier] = key
            if not keys:
                continue
            results = examine(
                model, data, norm, list(keys), name, attacks=attacks, seed=options.seed
            )
            for certifier, key in keys.items():
                place = (name, data.name, norm, certifier)
                rows[place] = dict.fromkeys(COLUMNS, "") | dict(zip(ROW, place, strict=True))
                rows[place] |= {
                    "attacks": f"{attacks}+{MINIMUM_NORM_ATTACK}",
                    **results[certifier],
                    "key": key,
                    "machine": measuring.machine(),
                }
                print({k: v for k, v in rows[place].items() if v != ""}, flush=True)
            write_rows(rows)
    refuted = [place for place, row in rows.items() if row["hits"] not in ("", "0", 0)]
    if refuted:
        sys.exit(
            "certificates are wrong: an attack landed inside certified balls of "
            f"{'; '.join(' '.join(place) for place in sorted(refuted))}; "
            f"the counterexamples lie in {PATH.parent}"
        )


if __name__ == "__main__":
    main()
