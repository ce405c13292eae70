"""Published rows of models that do not exist, with evidence: as many as a benchmark needs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from robustbench_dyn.datasets import Dataset, load_dataset
from robustbench_dyn.errors import DynbenchError
from robustbench_dyn.reporting.open_flags import open_flags
from robustbench_dyn.reporting.published import Entry, entry_of
from robustbench_dyn.reporting.ranking import ranked
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.spec import EvaluationSpec, Record, StageSpec
from robustbench_dyn.results.verdicts import Outcome, Status, Step, Verdict

THREAT_MODELS: tuple[tuple[str, str, float], ...] = (
    ("fashion_mnist", "L2", 0.25),
    ("fashion_mnist", "L2", 0.5),
    ("fashion_mnist", "L2", 1.0),
    ("fashion_mnist", "Linf", 2 / 255),
    ("fashion_mnist", "Linf", 8 / 255),
    ("fashion_mnist", "Linf", 0.1),
    ("cifar10", "L2", 36 / 255),
    ("cifar10", "Linf", 8 / 255),
)
MODELS: tuple[tuple[str, str], ...] = (
    ("lipflow", "Lipschitz flow"),
    ("orthogonal_cnn", "Orthogonal convolutional network"),
    ("sll", "SDP-based Lipschitz layers"),
    ("gradient_flow", "Gradient flow"),
    ("expansive_contractive", "Expansive-contractive"),
    ("hamiltonian", "Hamiltonian flow"),
    ("sphere_preserving", "Sphere-preserving flow"),
    ("euler_resnet", "Euler ResNet"),
    ("feedforward", "Feedforward network"),
    ("naive_lipschitz", "Naive Lipschitz network"),
    ("neural_ode", "Neural ODE"),
    ("mass_preserving", "Mass-preserving flow"),
    ("volume_preserving", "Volume-preserving flow"),
)
VARIANTS = ("", "eps-0.5", "eps-1.0", "wide")
ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
_SHAPES = {"fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
# Distances in the units of L2 that a margin of one stands for.
_SCALES = {"L2": 1.0, "Linf": 0.06}


def published_rows(
    n_models: int,
    n_examples: int,
    *,
    threat_models: Sequence[tuple[str, str, float]] = THREAT_MODELS,
    seed: int = 0,
) -> list[Entry]:
    """Return ranked entries: each model on each threat model, and rows of every special kind.

    The last model but one has half of the images, the last one an open flag; the third has three
    seeds.
    """
    entries = [
        _flagged(entry_of(evidence, "a row"))
        for evidence in _evidence(n_models, n_examples, threat_models, seed)
    ]
    return ranked(entries)


def _flagged(entry: Entry) -> Entry:
    return entry._replace(row=entry.row | {"open_flags": " ".join(open_flags(entry.row))})


def _evidence(
    n_models: int, n_examples: int, threat_models: Sequence[tuple[str, str, float]], seed: int
) -> Iterator[Evidence]:
    rng = np.random.default_rng(seed)
    difficulty = {name: rng.gamma(2.0, 0.5, n_examples) for name in _SHAPES}
    for k in range(n_models):
        (name, family), variant = MODELS[k % len(MODELS)], VARIANTS[k // len(MODELS)]
        model = f"{name}/{variant}" if variant else name
        skill = rng.uniform(0.6, 1.1)
        own = rng.gamma(4.0, 0.25, n_examples)
        for dataset, norm, eps in threat_models:
            margins = skill * difficulty[dataset] * own - 0.12
            for of_seed in range(3 if k == 2 else 1):
                n = n_examples // 2 if k == n_models - 2 else n_examples
                jitter = 1 + 0.02 * rng.standard_normal(n_examples)
                yield _row(
                    _spec(model, family, dataset, norm, of_seed),
                    margins=(margins * jitter)[:n],
                    eps=eps,
                    flags=("batch_coupled",) if k == n_models - 1 else (),
                    rng=rng,
                )


def _spec(model: str, family: str, dataset: str, norm: Any, seed: int) -> EvaluationSpec:
    certifier = "lipschitz" if norm == "L2" else "linear_relaxation"
    data = _data(dataset)
    return EvaluationSpec(
        model=model,
        family=family,
        plugin_version="1",
        weights_sha256=hashlib.sha256(f"{model} {dataset}".encode()).hexdigest(),
        dataset=dataset,
        data_sha256=data.sha256 if data else hashlib.sha256(dataset.encode()).hexdigest(),
        norm=norm,
        attacks=tuple(StageSpec(name=name, label=name) for name in ATTACKS),
        attacks_if_random=tuple(StageSpec(name=name, label=name) for name in ATTACKS),
        certifiers=(StageSpec(name=certifier, label=certifier),),
        seed=seed,
        torch_version="2.13.0",
        audit_share=0.1,
    )


@cache
def _data(dataset: str) -> Dataset | None:
    try:
        return load_dataset(dataset)
    except DynbenchError:
        return None


def _row(
    spec: EvaluationSpec,
    *,
    margins: np.ndarray[Any, np.dtype[np.float64]],
    eps: float,
    flags: tuple[str, ...],
    rng: np.random.Generator,
) -> Evidence:
    record = Record(
        spec=spec,
        parameters=int(rng.integers(50_000, 2_000_000)),
        lipschitz_bound=float(rng.uniform(1, 1.4)),
    )
    record = replace(record, suite="standard", training_record="0" * 64)
    evidence = Evidence(
        record=record,
        eps=eps,
        verdicts=tuple(
            _verdict(example_id, float(margin), spec=spec, eps=eps, rng=rng)
            for example_id, margin in enumerate(margins)
        ),
        flags=flags,
        signs=(),
        evaluated_at="2026-11-25T05:21:27+00:00",
    )
    kept = set(evidence.sampled())
    return replace(
        evidence,
        verdicts=tuple(
            replace(verdict, x_adv=_adversarial(verdict, spec, rng))
            if verdict.example_id in kept
            else verdict
            for verdict in evidence.verdicts
        ),
    )


def _verdict(
    example_id: int, margin: float, *, spec: EvaluationSpec, eps: float, rng: np.random.Generator
) -> Verdict:
    """Return a verdict by the margin: the certificate is loose by a tenth, the attack by little."""
    data = _data(spec.dataset)
    label = int(data.y[example_id]) if data else example_id % 10
    scale = _SCALES[spec.norm]
    radius, distance = 0.9 * margin * scale, 1.02 * margin * scale
    common: dict[str, Any] = {"example_id": example_id, "label": label, "eps": eps}
    common |= {"prediction": label, "forward_passes": int(rng.integers(4, 60)), "seconds": 0.02}
    if margin <= 0:
        return Verdict(**common | {"prediction": (label + 1) % 10}, status=Status.MISCLASSIFIED)
    certifier = spec.certifiers[0].name
    proved = {"certifier": certifier, "certified_radius": radius}
    survived = tuple(Step(name, Outcome.SURVIVED, eps) for name in ATTACKS)
    if radius >= eps:
        audited = survived if example_id % 10 == 0 else ()
        trail = (Step(certifier, Outcome.CERTIFIED, eps), *audited)
        return Verdict(**common | proved, status=Status.CERTIFIED, trail=trail)
    if distance <= eps:
        attack = ATTACKS[int(rng.integers(4) ** 2 / 4)]
        return Verdict(
            **common | proved,
            status=Status.BROKEN,
            attack=attack,
            adversarial_distance=distance,
            backward_passes=int(rng.integers(10, 80)),
            trail=(Step(attack, Outcome.BROKEN, eps),),
        )
    return Verdict(
        **common | proved,
        status=Status.UNDECIDED,
        reason="survived all attacks",
        backward_passes=400,
        trail=survived,
    )


def _adversarial(verdict: Verdict, spec: EvaluationSpec, rng: np.random.Generator) -> bytes:
    """Return the bytes of an image with a change of the length that the verdict states."""
    shape = _SHAPES[spec.dataset]
    data = _data(spec.dataset)
    if data:
        x = data.x[verdict.example_id].numpy()
    else:
        coarse = rng.uniform(0, 1, (shape[0], shape[1] // 4, shape[2] // 4))
        x = np.kron(coarse, np.ones((4, 4)))
    change = rng.standard_normal(shape)
    length = float(np.linalg.norm(change)) if spec.norm == "L2" else float(np.abs(change).max())
    step = min(verdict.adversarial_distance, math.inf) / length
    return np.clip(x + step * change, 0, 1).astype(np.float32).tobytes()
