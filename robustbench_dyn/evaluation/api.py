"""Evaluate a model: the functions that users call, and the row that a run ends with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from robustbench_dyn.datasets import load_dataset
from robustbench_dyn.evaluation.inputs import Data, as_dataset, open_store
from robustbench_dyn.evaluation.options import check_certifiers, check_options, device_of
from robustbench_dyn.evaluation.pipeline import Pipeline
from robustbench_dyn.evaluation.plan import Attacks, Certifiers, NetworkPlan
from robustbench_dyn.evaluation.under_test import under_test
from robustbench_dyn.progress.report import Progress
from robustbench_dyn.results.attempts import Attempt, attempts_of
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.store import Run, Store
from robustbench_dyn.results.summary import summary_row
from robustbench_dyn.results.verdicts import EXAMPLE_COLUMNS, Verdict
from robustbench_dyn.threat_models import Norm, ThreatModel

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_AUDIT_SHARE = 0.01


@dataclass(frozen=True)
class Evaluation:
    """Verdicts of one model under one threat model, and the leaderboard row made of them.

    key: what the store calls the evaluation. costs: what it took, stage by stage, in this run and
    in those before it that left verdicts in the store. not_applicable: certifiers of `auto` that
    cannot treat the model, with the reason. attempts: what each certifier came to.
    """

    threat_model: ThreatModel
    verdicts: tuple[Verdict, ...]
    summary: dict[str, Any]
    key: str
    costs: tuple[StageCost, ...]
    not_applicable: dict[str, str] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()

    @cached_property
    def examples(self) -> pd.DataFrame:
        """Return one row an example, in the order of example_id."""
        import pandas as pd  # noqa: PLC0415  (slow to import, wanted only here)

        rows = [[getattr(v, column) for column in EXAMPLE_COLUMNS] for v in self.verdicts]
        table = pd.DataFrame(rows, columns=list(EXAMPLE_COLUMNS))
        return table.assign(status=table["status"].map(str))


def evaluate(
    model: nn.Module,
    data: Data,
    threat_model: ThreatModel,
    *,
    first: int = 0,
    n_examples: int | None = None,
    seed: int = 0,
    batch_size: int | Literal["auto"] = 250,
    attacks: Attacks = "standard",
    certifiers: Certifiers = "auto",
    audit_share: float = DEFAULT_AUDIT_SHARE,
    strict_rounding: bool = False,
    device: str | torch.device | None = None,
    store: Store | Path | str | None = None,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Say of every example whether it is misclassified, broken, certified or undecided.

    model: any nn.Module from (batch, *input_shape) in [0, 1] to logits (batch, classes); it is
    used in eval mode and given back as it was. data: a name, a Dataset, or (x, y) with x float
    (n, *input_shape) and y integer (n,); its examples first ... first + n_examples - 1 are
    evaluated, from 0. The options are those of evaluate_grid.
    Raises InputError for bad input, SoundnessError where an attack refutes a certificate, and
    MachineError where examples wait because the machine failed.
    """
    return evaluate_grid(
        model,
        data,
        [threat_model],
        first=first,
        n_examples=n_examples,
        seed=seed,
        batch_size=batch_size,
        attacks=attacks,
        certifiers=certifiers,
        audit_share=audit_share,
        strict_rounding=strict_rounding,
        device=device,
        store=store,
        name=name,
        progress=progress,
    )[0]


def evaluate_grid(
    model: nn.Module,
    data: Data,
    threat_models: Sequence[ThreatModel],
    *,
    first: int = 0,
    n_examples: int | None = None,
    seed: int = 0,
    batch_size: int | Literal["auto"] = 250,
    attacks: Attacks = "standard",
    certifiers: Certifiers = "auto",
    audit_share: float = DEFAULT_AUDIT_SHARE,
    strict_rounding: bool = False,
    device: str | torch.device | None = None,
    store: Store | Path | str | None = None,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> list[Evaluation]:
    """Evaluate one model at several eps of one norm; the work is shared between them.

    What is certified at a radius is certified below it, what is broken at a distance is broken
    above it, and what survived the attacks within a radius did so below it; so the largest eps
    comes first. attacks: a suite ("standard", "autoattack", "plus", "rand", "none"), or names and
    objects, each with its settings: [PGD(n_steps=100), "square"], "pgd:n_steps=100,square".
    certifiers: "auto", "none", or names and objects likewise. batch_size: inputs that the model is
    given at once, or "auto", which measures; it is halved where memory runs out. audit_share: the
    share of certified examples (at least 6) that is attacked all the same. strict_rounding: take
    the worst that the model's own rounding may do off its margins, instead of what was measured of
    it (docs/soundness.md). store: where verdicts are kept and found again; in memory by default.
    name: how an unregistered model is called. Returns one Evaluation a threat model, in the given
    order. Raises InputError for bad input, SoundnessError where an attack refutes a certificate,
    and MachineError where memory, the disk or a process failed: what was computed is kept, and the
    next run goes on.
    """
    with open_pipeline(
        model,
        data,
        threat_models,
        first=first,
        n_examples=n_examples,
        seed=seed,
        batch_size=batch_size,
        attacks=attacks,
        certifiers=certifiers,
        audit_share=audit_share,
        strict_rounding=strict_rounding,
        device=device,
        store=store,
        name=name,
        progress=progress,
    ) as pipeline:
        return run_grid(pipeline, threat_models)


@contextmanager
def open_pipeline(
    model: nn.Module,
    data: Data,
    threat_models: Sequence[ThreatModel],
    *,
    first: int = 0,
    n_examples: int | None = None,
    seed: int = 0,
    batch_size: int | Literal["auto"] = 250,
    attacks: Attacks = "standard",
    certifiers: Certifiers = "auto",
    audit_share: float = DEFAULT_AUDIT_SHARE,
    strict_rounding: bool = False,
    device: str | torch.device | None = None,
    store: Store | Path | str | None = None,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[Pipeline[NetworkPlan]]:
    """Check what evaluate_grid is given; yield its pipeline, with the model frozen meanwhile."""
    norm = check_options(
        model,
        threat_models,
        batch_size=batch_size,
        audit_share=audit_share,
        seed=seed,
        name=name,
        progress=progress,
    )
    check_certifiers(certifiers, strict_rounding=strict_rounding)
    dataset = as_dataset(data, n_examples, first=first)
    for threat_model in threat_models:
        threat_model.check_input_shape(tuple(dataset.x.shape[1:]))
    where = device_of(model, device)
    with (
        under_test(
            model, dataset, device=where, seed=seed, batch_size=batch_size, name=name
        ) as tested,
        open_store(store) as opened,
    ):
        plan = NetworkPlan(
            tested,
            dataset,
            norm,
            attacks=attacks,
            certifiers=certifiers,
            strict_rounding=strict_rounding,
            seed=seed,
            batch_size=batch_size,
            audit_share=audit_share,
            device=where,
        )
        yield Pipeline(
            plan, tested, dataset, opened, device=where, batch_size=batch_size, progress=progress
        )


def benchmark(
    model: nn.Module,
    n_examples: int = 10_000,
    dataset: str = "cifar10",
    threat_model: Norm = "Linf",
    *,
    eps: float,
    batch_size: int | Literal["auto"] = 250,
    data_dir: Path | None = None,
    seed: int = 0,
    attacks: Attacks = "standard",
    certifiers: Certifiers = "auto",
    audit_share: float = DEFAULT_AUDIT_SHARE,
    strict_rounding: bool = False,
    device: str | torch.device | None = None,
    store: Store | Path | str | None = None,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[float, float]:
    """Return (clean accuracy, accuracy under AutoAttack), as RobustBench's function of this name.

    Both are fractions of the first n_examples test images. The options are those of evaluate_grid.
    """
    evaluation = evaluate(
        model,
        load_dataset(dataset, n_examples=n_examples, data_dir=data_dir),
        ThreatModel(threat_model, eps),
        seed=seed,
        batch_size=batch_size,
        attacks=attacks,
        certifiers=certifiers,
        audit_share=audit_share,
        strict_rounding=strict_rounding,
        device=device,
        store=store,
        name=name,
        progress=progress,
    )
    return evaluation.summary["clean_accuracy"], evaluation.summary["empirical_accuracy"]


def run_grid(pipeline: Pipeline[Any], threat_models: Sequence[ThreatModel]) -> list[Evaluation]:
    """Run a pipeline at each threat model, the largest eps first; return them in the given order.

    Raises SoundnessError where an adversarial example lies inside a certified radius, and
    MachineError at the first eps at which the machine failed; there the next run goes on.
    """
    falling = sorted(threat_models, key=lambda t: -t.eps)
    by_eps = {t.eps: _evaluate_at(pipeline, t) for t in falling}
    if pipeline.withdrew:
        # Found out at a later eps: what was certified before has the attacks before it again.
        by_eps = {t.eps: _evaluate_at(pipeline, t) for t in falling}
    return [by_eps[threat_model.eps] for threat_model in threat_models]


def _evaluate_at(pipeline: Pipeline[Any], threat_model: ThreatModel) -> Evaluation:
    verdicts = pipeline.run(threat_model)
    return Evaluation(
        threat_model=threat_model,
        verdicts=verdicts,
        summary=finalise_run(pipeline.store, pipeline.key, threat_model.eps, verdicts),
        key=pipeline.key,
        costs=pipeline.costs(threat_model),
        not_applicable=dict(pipeline.record.not_applicable),
        attempts=attempts_of(
            verdicts,
            pipeline.spec,
            eps=threat_model.eps,
            flags=pipeline.flags,
            not_applicable=pipeline.record.not_applicable,
        ),
    )


def finalise_run(store: Store, key: str, eps: float, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the leaderboard row of final verdicts; that of a range of examples is kept."""
    ids = {verdict.example_id for verdict in verdicts}
    examples = range(min(ids), max(ids) + 1)
    is_range = len(ids) == len(verdicts) == len(examples)
    cached = store.run(key, eps, examples) if is_range else None
    if cached is not None:
        return cached.summary
    now = datetime.now(UTC).isoformat(timespec="seconds")
    summary = summary_row(
        verdicts,
        store.record(key),
        eps=eps,
        evaluated_at=now,
        flags=store.flags(key),
        signs=store.signs(key, eps),
    )
    if is_range:
        store.add_run(Run(key, eps, examples.start, len(examples), summary))
    return summary
