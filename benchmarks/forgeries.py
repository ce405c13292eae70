"""Forged tables and honest ones: which forgeries are found, and which honest rows are refused.

    python benchmarks/forgeries.py                # all forgeries, 200 replays: about ten minutes
    python benchmarks/forgeries.py --replays 5 --forgeries 5
    python benchmarks/forgeries.py --times        # a recount of 156 rows, a replay of one row

Each forgery of tests/oracles/forgeries.py changes a folder of honest tables, which is verified at
the depth at which the forgery must be found. Honest tables are replayed with fresh seeds. Exits
with 1 where a forgery is not found, or an honest row is refused.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measuring import write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles.evidence import evidence
from oracles.forgeries import FORGERIES, Forgery, honest_folder

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model
from robustbench_dyn.plugins import trust_plugins
from robustbench_dyn.reporting.published import Entry, entries_of, read_folder
from robustbench_dyn.reporting.publishing import publish
from robustbench_dyn.results.store import Store
from robustbench_dyn.verification.findings import Report
from robustbench_dyn.verification.options import ReplayOptions
from robustbench_dyn.verification.tables import verify

# Model, data set, norm, eps, attacks, certifiers: of networks that a replay takes seconds for.
HONEST = (
    ("lipflow", "moons", "L2", 0.15, "standard", "auto"),
    ("sll", "moons", "L2", 0.15, "standard", "auto"),
    ("naive_lipschitz", "moons", "L2", 0.1, "standard", "auto"),
    ("gradient_flow", "moons", "L2", 0.15, "standard", "auto"),
    ("orthogonal_cnn", "moons", "L2", 0.2, "standard", "lipschitz"),
    ("feedforward", "moons", "Linf", 0.1, "standard", "interval,linear_relaxation"),
    ("mass_preserving", "moons", "L2", 0.25, "standard", "none"),
    ("sphere_preserving", "moons", "L2", 0.25, "standard", "none"),
    ("volume_preserving", "moons", "L2", 0.25, "pgd:n_steps=1", "none"),
    ("gradient_sphere", "moons", "L2", 0.2, "apgd-ce", "none"),
    ("nonautonomous_resnet", "moons", "Linf", 0.1, "pgd", "none"),
    ("feedforward/linf-0.1", "fashion_mnist", "Linf", 0.1, "apgd-ce", "interval"),
    ("orthogonal_cnn", "fashion_mnist", "L2", 0.5, "apgd-ce", "lipschitz"),
    ("euler_resnet/l2-0.25", "fashion_mnist", "L2", 0.25, "pgd", "none"),
)


def honest_rows(folder: Path, n_examples: int) -> Path:
    """Evaluate networks with shipped weights, and publish them into a folder."""
    store = Store(None)
    for name, dataset, norm, eps, attacks, certifiers in HONEST:
        evaluate(
            load_model(name, dataset=dataset, norm=norm),
            load_dataset(dataset, n_examples=n_examples),
            ThreatModel(norm, eps),
            attacks=attacks,
            certifiers=certifiers,
            store=store,
        )
    publish(entries_of(store, n_adversarial=3), folder)
    store.close()
    return folder


def try_forgeries(
    honest: Path, forgeries: Sequence[Forgery], sample: int
) -> Iterator[dict[str, Any]]:
    """Yield a row a forgery: whether it was found, at its depth and by its check."""
    for forgery in forgeries:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(shutil.copytree(honest, Path(place) / "tables"))
            forgery.forge(folder)
            started, seed = time.perf_counter(), secrets.randbelow(2**31)
            reports = verify(folder)
            by_recount = checks_of(reports)
            found = by_recount
            if forgery.depth == "replay":
                options = ReplayOptions(sample, seed)
                found = checks_of(verify(folder, model=forgery.model, replay=options))
            yield {
                "kind": "forgery",
                "name": forgery.name,
                "what": forgery.what,
                "depth": forgery.depth,
                "seed": seed if forgery.depth == "replay" else None,
                "expected": f"fails: {forgery.check}",
                "found": f"fails: {' '.join(sorted(found))}" if found else "holds",
                "as_expected": forgery.check in found
                and (forgery.depth == "recount" or not by_recount),
                "seconds": round(time.perf_counter() - started, 2),
            }


def replay_honest_rows(
    folder: Path, models: Sequence[str], replays: int, sample: int
) -> Iterator[dict[str, Any]]:
    """Yield a row a replay of an honest row; rows take turns, and seeds are fresh."""
    for number in range(replays):
        model, seed = models[number % len(models)], secrets.randbelow(2**31)
        started = time.perf_counter()
        reports = verify(folder, model=model, replay=ReplayOptions(sample, seed))
        found = checks_of(reports)
        yield {
            "kind": "honest",
            "name": model,
            "what": f"{len(reports)} rows",
            "depth": "replay",
            "seed": seed,
            "expected": "holds",
            "found": f"fails: {' '.join(sorted(found))}" if found else "holds",
            "as_expected": not found,
            "seconds": round(time.perf_counter() - started, 2),
        }


def checks_of(reports: Sequence[Report]) -> set[str]:
    return {finding.check for report in reports for finding in report.findings}


def times(sample: int) -> list[dict[str, Any]]:
    """Time a recount of 26 models x 6 threat models, and a replay of one row."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "many"
        publish([*many_rows(26, 500)], folder)
        started = time.perf_counter()
        reports = verify(folder)
        rows.append(
            {
                "what": f"recount of {len(reports)} rows of 500 examples",
                "seconds": round(time.perf_counter() - started, 2),
                "holds": not checks_of(reports),
            }
        )
        one, store = Path(place) / "one", Store(None)
        model = load_model("lipflow", dataset="fashion_mnist", norm="L2")
        data = load_dataset("fashion_mnist", n_examples=200)
        evaluate(model, data, ThreatModel("L2", 0.5), store=store)
        publish(entries_of(store), one)
        started = time.perf_counter()
        reports = verify(one, replay=ReplayOptions(sample, secrets.randbelow(2**31)))
        rows.append(
            {
                "what": f"replay of {sample} examples of lipflow, fashion_mnist L2 0.5",
                "seconds": round(time.perf_counter() - started, 2),
                "holds": not checks_of(reports),
            }
        )
    return rows


def many_rows(n_models: int, n_examples: int) -> Iterator[Entry]:
    """Yield rows of models that were never run, on a data set that is not there."""
    statuses = ("cccccuubbm" * n_examples)[:n_examples]
    for k in range(n_models):
        for eps in (0.1, 0.2, 0.3, 0.5, 1.0, 2.0):
            one = evidence(
                f"model_{k}", statuses, eps=eps, dataset="nowhere", suite="custom", norm="L2"
            )
            one = one.with_sample()
            yield Entry(dict.fromkeys(("open_flags",)) | one.row(), one)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replays", type=int, default=200, help="of honest rows")
    parser.add_argument("--forgeries", type=int, default=len(FORGERIES), help="the first so many")
    parser.add_argument("--sample", type=int, default=16, help="examples of a replay")
    parser.add_argument("--n-examples", type=int, default=50, help="of an honest row")
    parser.add_argument("--times", action="store_true", help="time two commands, and nothing else")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    trust_plugins()
    if options.times:
        write("verification_times", times(50))
        return
    with tempfile.TemporaryDirectory() as place:
        forged = honest_folder(Path(place) / "forged", Path(place) / "plugins")
        rows = [*try_forgeries(forged, FORGERIES[: options.forgeries], max(24, options.sample))]
        if options.replays:
            honest = honest_rows(Path(place) / "honest", options.n_examples)
            models = list(dict.fromkeys(entry.row["model"] for entry in read_folder(honest)))
            rows += replay_honest_rows(honest, models, options.replays, options.sample)
    write("forgeries", rows)
    wrong = [f"{row['kind']} {row['name']}" for row in rows if not row["as_expected"]]
    sys.exit(f"these end otherwise than expected: {wrong}" if wrong else 0)


if __name__ == "__main__":
    main()
