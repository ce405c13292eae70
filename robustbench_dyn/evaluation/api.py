"""Evaluate a model: check what is given, run the cascade, and conclude with a leaderboard row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from robustbench_dyn.datasets import Dataset, load_dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.pipeline import Cascade, Progress
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.identity import hash_tensors
from robustbench_dyn.models.precision import full_precision
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
    cannot treat the model, with the reason.
    """

    threat_model: ThreatModel
    verdicts: tuple[Verdict, ...]
    summary: dict[str, Any]
    key: str
    costs: tuple[StageCost, ...]
    not_applicable: dict[str, str] = field(default_factory=dict)

    @cached_property
    def examples(self) -> pd.DataFrame:
        """Return one row an example, in the order of example_id."""
        import pandas as pd  # noqa: PLC0415  (slow to import, wanted only here)

        rows = [[getattr(v, column) for column in EXAMPLE_COLUMNS] for v in self.verdicts]
        table = pd.DataFrame(rows, columns=list(EXAMPLE_COLUMNS))
        return table.assign(status=table["status"].map(str))


def evaluate(
    model: nn.Module,
    data: Dataset | str | tuple[Tensor, Tensor],
    threat_model: ThreatModel,
    **options: Any,
) -> Evaluation:
    """Say of every example whether it is misclassified, broken, certified or undecided.

    model: any nn.Module from (batch, *input_shape) in [0, 1] to logits (batch, classes); it is
    used in eval mode and given back as it was. data: a name, a Dataset, or (x, y) with x float
    (n, *input_shape) and y integer (n,). options: those of evaluate_grid.
    Raises InputError for bad input, SoundnessError where an attack refutes a certificate.
    """
    return evaluate_grid(model, data, [threat_model], **options)[0]


def evaluate_grid(
    model: nn.Module,
    data: Dataset | str | tuple[Tensor, Tensor],
    threat_models: Sequence[ThreatModel],
    *,
    n_examples: int | None = None,
    seed: int = 0,
    batch_size: int | Literal["auto"] = 250,
    attacks: str | Sequence[str] = "standard",
    certifiers: str | Sequence[str] = "auto",
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
    comes first. attacks: "standard", "autoattack", "plus", "rand", "none" or names. certifiers:
    "auto", "none" or names. batch_size: inputs that the model is given at once, or "auto", which
    measures; it is halved where memory runs out. audit_share: the share of certified examples (at
    least 5) that is attacked all the same. strict_rounding: take the worst that the model's own
    rounding may do off its margins, instead of what was measured of it (docs/soundness.md).
    store: where verdicts are kept and found again; in memory by default. name: how an unregistered
    model is called. Returns one Evaluation a threat model, in the given order.
    Raises InputError for bad input, SoundnessError where an attack refutes a certificate.
    """
    with open_cascade(
        model, data, threat_models, n_examples=n_examples, seed=seed, batch_size=batch_size,
        attacks=attacks, certifiers=certifiers, audit_share=audit_share,
        strict_rounding=strict_rounding, device=device, store=store, name=name, progress=progress,
    ) as cascade:  # fmt: skip
        falling = sorted(threat_models, key=lambda t: -t.eps)
        by_eps = {t.eps: _evaluate_at(cascade, t) for t in falling}
        if cascade.withdrew:
            # Found out at a later eps: what was certified before has the attacks before it again.
            by_eps = {t.eps: _evaluate_at(cascade, t) for t in falling}
    return [by_eps[threat_model.eps] for threat_model in threat_models]


@contextmanager
def open_cascade(
    model: nn.Module,
    data: Dataset | str | tuple[Tensor, Tensor],
    threat_models: Sequence[ThreatModel],
    *,
    n_examples: int | None = None,
    seed: int = 0,
    batch_size: int | Literal["auto"] = 250,
    attacks: str | Sequence[str] = "standard",
    certifiers: str | Sequence[str] = "auto",
    audit_share: float = DEFAULT_AUDIT_SHARE,
    strict_rounding: bool = False,
    device: str | torch.device | None = None,
    store: Store | Path | str | None = None,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[Cascade]:
    """Check what evaluate_grid is given; yield the cascade over it, its model frozen meanwhile."""
    norm = _one_norm(threat_models)
    dataset = as_dataset(data, n_examples)
    _check_options(batch_size, audit_share)
    for threat_model in threat_models:
        threat_model.check_input_shape(tuple(dataset.x.shape[1:]))
    opened = nullcontext(store) if isinstance(store, Store) else closing(_open(store))
    where = torch.device(device) if device is not None else _device_of(model)
    with full_precision(), opened as kept, frozen_eval(model.to(where)):
        yield Cascade(
            model, dataset, kept, norm, where, seed, batch_size, attacks, certifiers,
            audit_share, name, progress, strict_rounding=strict_rounding,
        )  # fmt: skip


def benchmark(
    model: nn.Module,
    n_examples: int = 10_000,
    dataset: str = "cifar10",
    threat_model: Norm = "Linf",
    *,
    eps: float,
    batch_size: int = 250,
    data_dir: Path | None = None,
    **options: Any,
) -> tuple[float, float]:
    """Return (clean accuracy, accuracy under AutoAttack), as RobustBench's function of this name.

    Both are fractions of the first n_examples test images. options: those of evaluate_grid.
    """
    data = load_dataset(dataset, n_examples=n_examples, data_dir=data_dir)
    summary = evaluate(
        model, data, ThreatModel(threat_model, eps), batch_size=batch_size, **options
    ).summary
    return summary["clean_accuracy"], summary["empirical_accuracy"]


def _evaluate_at(cascade: Cascade, threat_model: ThreatModel) -> Evaluation:
    verdicts = cascade.run(threat_model)
    summary = finalise_run(cascade.store, cascade.key, threat_model.eps, verdicts)
    costs, not_applicable = cascade.costs(threat_model), cascade.record["not_applicable"]
    return Evaluation(threat_model, verdicts, summary, cascade.key, costs, not_applicable)


def finalise_run(store: Store, key: str, eps: float, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the leaderboard row of final verdicts; that of the first n examples is kept."""
    n = len(verdicts)
    from_the_first = {verdict.example_id for verdict in verdicts} == set(range(n))
    known = store.run(key, eps, n) if from_the_first else None
    if known is not None:
        return known.summary
    now = datetime.now(UTC).isoformat(timespec="seconds")
    summary = summary_row(
        verdicts,
        store.record(key),
        eps=eps,
        evaluated_at=now,
        flags=store.flags(key),
        signs=store.signs(key, eps),
    )
    if from_the_first:
        store.add_run(Run(key, eps, n, summary))
    return summary


def _one_norm(threat_models: Sequence[ThreatModel]) -> Norm:
    norms = {threat_model.norm for threat_model in threat_models}
    if len(norms) != 1:
        raise InputError(f"a grid needs threat models of one norm; these have {sorted(norms)}")
    return norms.pop()


def _check_options(batch_size: int | str, audit_share: float) -> None:
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
        raise InputError(f"batch_size={batch_size!r} must be 'auto' or a number of at least 1")
    if not 0 <= audit_share <= 1:
        raise InputError(f"audit_share={audit_share} must be a fraction between 0 and 1")


def as_dataset(data: Dataset | str | tuple[Tensor, Tensor], n_examples: int | None) -> Dataset:
    """Return the first examples of a data set by name, a Dataset, or tensors, once checked."""
    if isinstance(data, str):
        data = load_dataset(data, n_examples=n_examples)
    if not isinstance(data, Dataset):
        x, y = data
        _check_tensors(x, y)
        data = Dataset(
            x=x, y=y.long(), ids=torch.arange(len(x)), name="custom", split="test",
            class_names=(), sha256=hash_tensors({"x": x, "y": y}),
        )  # fmt: skip
    _check_tensors(data.x, data.y)
    _check_ids(data)
    n = len(data)
    if n_examples is not None and not 1 <= n_examples <= n:
        raise InputError(f"n_examples={n_examples} must lie between 1 and the {n} there are")
    first = data.rows(0, n if n_examples is None else n_examples)
    return replace(first, y=first.y.long(), ids=first.ids.long())


def _check_tensors(x: Tensor, y: Tensor) -> None:
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise InputError("data must be a data set's name, a Dataset, or a pair of tensors (x, y)")
    if x.dim() < 2 or len(x) == 0 or y.shape != x.shape[:1]:
        raise InputError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; "
            "give x as (n, *input_shape) and y as (n,), n at least 1"
        )
    if not x.is_floating_point() or y.is_floating_point():
        raise InputError(f"x is {x.dtype} and y {y.dtype}; give float inputs and integer labels")
    if not x.isfinite().all() or x.min() < 0 or x.max() > 1:
        raise InputError(
            f"inputs lie in [{float(x.min()):g}, {float(x.max()):g}]; they must lie in [0, 1]: "
            "divide by 255, and put any normalisation inside the model"
        )
    if y.min() < 0:
        raise InputError(f"labels must be 0 or more; the smallest is {int(y.min())}")


def _check_ids(data: Dataset) -> None:
    """Raise InputError where a verdict could be taken for that of another example or class."""
    ids, y = data.ids, data.y
    if not isinstance(ids, Tensor) or ids.shape != y.shape or ids.is_floating_point():
        raise InputError("ids must be a tensor of integers, (n,), one for each example")
    if len(set(ids.tolist())) < len(ids) or ids.min() < 0:
        raise InputError("ids must be different for all examples, and 0 or more")
    if data.n_classes and y.max() >= data.n_classes:
        raise InputError(
            f"labels go up to {int(y.max())}, but {data.name} has {data.n_classes} classes; "
            "labels count from 0"
        )


def _device_of(model: nn.Module) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def _open(store: Path | str | None) -> Store:
    return Store(Path(store) if store is not None else None)
