"""The soundness alarm: the certificates of the whole zoo under attack, each inside its own radius.

    python benchmarks/soundness.py [--n-examples 100] [--model lipflow] [--norm L2] [--dataset ...]

For every set of weights of every registered architecture, every norm and every certifier that can
treat the network: each certified example is attacked within 0.98 of its certified radius, by
AutoAttack (L1: by FAB-T) and by a minimum-norm attack, whose finds must lie outside the radius. The
certifiers of a network and norm share the attacks, which go as far as the longest of their radii: a
find is a hit on each certificate whose radius it lies within. A certifier that speaks of the ball
of one eps alone is asked, example by example, for the largest eps of a fine grid at which it
proves; one that searches is given two seconds a ball, and 20 examples. A hit means that a
certificate is wrong.

Results: benchmarks/results/soundness.csv, a row as soon as it is known. A run that was stopped goes
on; a row is made anew where the weights, the plugin, the certifiers or what is asked has changed.
Ends with exit code 1 where there is a hit; the counterexample is saved beside the results.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import measuring
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import robustbench_dyn
from robustbench_dyn import load_dataset
from robustbench_dyn.attacks.catalogue import resolve_attacks
from robustbench_dyn.certification.base import Phase, PreparedCertifier, radii
from robustbench_dyn.certification.catalogue import certifier_names, resolve_certifiers
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.evaluation.candidates import check_candidates
from robustbench_dyn.models.architectures import Architecture, full_name
from robustbench_dyn.models.counting import CountingModel, surrogates_of
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.identity import hash_configuration
from robustbench_dyn.models.loading import discover, load_weights
from robustbench_dyn.plugins import Weights, find_plugins, hash_code
from robustbench_dyn.threat_models import NORMS, Norm, ThreatModel, widest_eps

# Networks small enough for the complete certifier are those of the moons.
DATASETS = ("fashion_mnist", "moons")
# Our Auto-PGD and Square know no L1, where pyautoattack's suite costs many times as much.
ATTACKS: dict[Norm, str] = {"L2": "standard", "Linf": "standard", "L1": "fab-t"}
MINIMUM_NORM = "fab-min"
SHARE = 0.98
# Attacks take one eps a call: examples whose radii differ by less share that of the smallest.
STEP = 1.1
BATCH = 250
# Eps at which certifiers of one ball are asked: from these on, in steps of 9 %. A shorter radius,
# which proves nothing that anybody asks for, meets the minimum-norm attack alone.
FIRST: dict[Norm, float] = {"Linf": 5e-5, "L2": 6e-4, "L1": 2.5e-3}
OCTAVES, AN_OCTAVE = 13, 8
# What an exhaustive certifier is given; a ball that takes it longer does not count as certified.
EXHAUSTIVE_EXAMPLES, SECONDS_A_BALL = 20, 2.0
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


class Find(NamedTuple):
    """The nearest adversarial example that an attack found."""

    attack: str
    distance: float
    x_adv: Tensor


class Hit(NamedTuple):
    """An adversarial example inside the certified radius of the example in one row of the data."""

    row: int
    radius: float
    find: Find


class Alarm(NamedTuple):
    """What the attacks found; nearest: the least distance of a find, in certified radii."""

    hits: list[Hit]
    nearest: float


def grid(norm: Norm, input_shape: tuple[int, ...]) -> list[float]:
    steps = (FIRST[norm] * 2 ** (k / AN_OCTAVE) for k in range(OCTAVES * AN_OCTAVE))
    return [eps for eps in steps if eps <= widest_eps(norm, input_shape)]


@torch.no_grad()
def certified_radii(
    model: nn.Module, prepared: PreparedCertifier, x: Tensor, y: Tensor, norm: Norm
) -> Tensor:
    """Return the radius that each example is certified to, (n,) float64; NaN where there is none.

    A certifier of one ball is asked by bisection on the grid: what it returns it has proved.
    """
    logits = torch.cat([model(batch) for batch in x.split(BATCH)])
    scale = grid(norm, tuple(x.shape[1:]))
    if prepared.certifier.radius_based:
        return radii(prepared.prove(x, logits, y, ThreatModel(norm, scale[-1]))).cpu()
    proved, open_from = torch.full((len(x),), -1), torch.full((len(x),), len(scale))
    while bool((open_from - proved > 1).any()):
        middle = ((proved + open_from) // 2).where(open_from - proved > 1, -1)
        for k in sorted(set(middle.tolist()) - {-1}):
            for rows in (middle == k).nonzero().flatten().split(BATCH):
                threat_model = ThreatModel(norm, scale[k])
                proof = prepared.prove(x[rows], logits[rows], y[rows], threat_model)
                holds = (radii(proof) >= scale[k]).cpu()
                proved[rows[holds]], open_from[rows[~holds]] = k, k
    of_each = torch.tensor([math.nan, *scale], dtype=torch.float64)
    return of_each[proved + 1]


def shells(certified: Tensor, smallest: float) -> Iterator[tuple[float, Tensor]]:
    """Split examples by radius; yield an eps, SHARE of the smallest radius in the shell, and rows.

    certified: (n,); those below `smallest`, and NaN, are left out. Every radius of a shell is
    within STEP of the others.
    """
    shell = (certified.log() / math.log(STEP)).floor().where(certified >= smallest, math.nan)
    for k in shell[~shell.isnan()].unique().tolist():
        rows = (shell == k).nonzero().flatten()
        yield SHARE * float(certified[rows].min()), rows


def nearest_finds(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    certified: Tensor,
    norm: Norm,
    *,
    attacks: str | Sequence[str],
    seed: int = 0,
) -> dict[int, Find]:
    """Attack each example inside its certified radius, and return what was found, by row.

    model: frozen, from inputs to logits. x: (n, *input_shape); y: (n,); certified: (n,), in `norm`,
    NaN where there is none. A row whose certificate is hit is not attacked further.
    """
    with torch.no_grad():
        n_classes = model(x[:1]).shape[1]
    has_surrogates = bool(surrogates_of(model))
    suite = resolve_attacks(attacks, norm, n_classes, has_surrogates=has_surrogates)
    (nearest_first,) = resolve_attacks(MINIMUM_NORM, norm, n_classes)
    widest = widest_eps(norm, tuple(x.shape[1:]))
    everybody = (certified > 0).nonzero().flatten()
    runs = [(nearest_first, widest, everybody)] if len(everybody) else []
    runs += [
        (attack, eps, rows) for eps, rows in shells(certified, FIRST[norm]) for attack in suite
    ]
    finds = dict[int, Find]()
    for attack, eps, of_shell in runs:
        rows = torch.tensor(
            [
                row
                for row in of_shell.tolist()
                if row not in finds or finds[row].distance > certified[row]
            ],
            dtype=torch.long,
        )
        if not len(rows):
            continue
        threat_model = ThreatModel(norm, eps)
        found = attack.search(
            model, x[rows], y[rows], threat_model, seed=seed, batch_size=BATCH, n_classes=n_classes
        )
        judged = check_candidates(model, found, x[rows], y[rows], threat_model)
        for k in judged.fooled.nonzero().flatten().tolist():
            row, reached = int(rows[k]), float(judged.distance[k])
            if row not in finds or reached < finds[row].distance:
                finds[row] = Find(attack.name, reached, judged.x_adv[k])
    return finds


def sound_alarm(certified: Tensor, finds: dict[int, Find]) -> Alarm:
    """Hold finds against certified radii, (n,), NaN where there is none."""
    radius_of = {row: float(certified[row]) for row in sorted(finds) if certified[row] > 0}
    hits = [
        Hit(row, radius, finds[row])
        for row, radius in radius_of.items()
        if finds[row].distance <= radius
    ]
    nearest = (finds[row].distance / radius for row, radius in radius_of.items())
    return Alarm(hits, min(nearest, default=math.inf))


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


def certify(
    model: nn.Module, data: Dataset, norm: Norm, certifier: str
) -> tuple[Tensor, dict[str, Any]]:
    """Return the radii that a certifier proves, (n,), NaN where none; and what a row says of it."""
    started = time.perf_counter()
    spec = certifier
    if certifier == "complete":
        spec = f"complete:seconds_per_example={SECONDS_A_BALL}"
    (prepared,) = resolve_certifiers(spec, model, tuple(data.x.shape[1:]), norm)
    asked = data
    if prepared.certifier.phase is Phase.LAST:
        asked = data.rows(0, EXHAUSTIVE_EXAMPLES)
    certified = certified_radii(model, prepared, asked.x, asked.y, norm)
    seconds = time.perf_counter() - started
    of_those = certified[~certified.isnan()]
    missing = torch.full((len(data) - len(asked),), math.nan, dtype=certified.dtype)
    return torch.cat([certified, missing]), {
        "n_examples": len(asked),
        "certified": len(of_those),
        "median_radius": float(of_those.median()) if len(of_those) else "",
        "with_suite": int((of_those >= FIRST[norm]).sum()),
        "certify_seconds": seconds,
    }


def examine(
    model: nn.Module, data: Dataset, norm: Norm, certifiers: Sequence[str], name: str, seed: int
) -> dict[str, dict[str, Any]]:
    """Certify and attack the examples of one network and norm; save the counterexamples.

    Returns what the row of each certifier says.
    """
    certified, rows = dict[str, Tensor](), dict[str, dict[str, Any]]()
    for certifier in certifiers:
        try:
            certified[certifier], rows[certifier] = certify(model, data, norm, certifier)
        except (CertificateError, InputError) as error:
            rows[certifier] = {"problem": str(error)}
    if not certified:
        return rows
    counting, started = CountingModel(model), time.perf_counter()
    longest = torch.stack([radius.nan_to_num(0) for radius in certified.values()]).amax(dim=0)
    finds = nearest_finds(counting, data.x, data.y, longest, norm, attacks=ATTACKS[norm], seed=seed)
    attacked = {
        "attack_seconds": time.perf_counter() - started,
        "forward_passes": counting.forward_passes,
        "backward_passes": counting.backward_passes,
    }
    for certifier, of_this in certified.items():
        alarm = sound_alarm(of_this, finds)
        for hit in alarm.hits:
            file = f"soundness-{name}-{data.name}-{norm}-{certifier}-{int(data.ids[hit.row])}.npz"
            np.savez(
                PATH.with_name(file.replace("/", "~")),
                x=data.x[hit.row].numpy(),
                x_adv=hit.find.x_adv.numpy(),
                label=int(data.y[hit.row]),
                certified_radius=hit.radius,
                distance=hit.find.distance,
                attack=hit.find.attack,
            )
        nearest = alarm.nearest if math.isfinite(alarm.nearest) else ""
        rows[certifier] |= attacked | {"hits": len(alarm.hits), "nearest": nearest}
    return rows


def key_of(architecture: Architecture, weights: Weights, asked: dict[str, Any]) -> str:
    """Return a hash of all that a row depends on; asked: what the run is told to do."""
    package = Path(robustbench_dyn.__file__).parent
    code = {name: hash_code(package / name) for name in ("certification", "flows")}
    constants = (SHARE, STEP, FIRST, OCTAVES, AN_OCTAVE, EXHAUSTIVE_EXAMPLES, SECONDS_A_BALL)
    asked = asked | {"constants": constants}
    depends_on = {"plugin": architecture.code_sha256, "weights": weights.sha256, **code, **asked}
    return hash_configuration(depends_on)[:16]


def read_rows() -> dict[tuple[str, ...], dict[str, Any]]:
    if not PATH.is_file():
        return {}
    # As they stand: what is not computed anew is written as it was read.
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
    options = parser.parse_args(arguments)
    PATH.parent.mkdir(exist_ok=True)
    rows = read_rows()
    for architecture, weights in weights_of_the_zoo(options.model, options.dataset or DATASETS):
        name = full_name(architecture.name, weights.variant)
        data = load_dataset(weights.dataset, n_examples=options.n_examples)
        with frozen_eval(load_weights(architecture, weights)) as model:
            for norm in options.norm or NORMS:
                keys, places = dict[str, str](), dict[str, tuple[str, ...]]()
                for certifier in options.certifier or certifier_names():
                    asked = {
                        "norm": norm,
                        "certifier": certifier,
                        "n_examples": len(data),
                        "seed": options.seed,
                        "attacks": ATTACKS[norm],
                    }
                    place = (name, data.name, norm, certifier)
                    key = key_of(architecture, weights, asked)
                    if place not in rows or rows[place]["key"] != key:
                        keys[certifier], places[certifier] = key, place
                if not keys:
                    continue
                about = {
                    "attacks": f"{ATTACKS[norm]}+{MINIMUM_NORM}",
                    "machine": measuring.machine(),
                }
                found = examine(model, data, norm, list(keys), name, options.seed)
                for certifier, place in places.items():
                    row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
                    row |= dict(zip(ROW, place, strict=True)) | about | found[certifier]
                    rows[place] = row | {"key": keys[certifier]}
                    print({k: v for k, v in row.items() if v != ""}, flush=True)
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
