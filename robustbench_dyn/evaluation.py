"""The cascade: clean, certify, attack what is left, the cheapest decisive tool first."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_dyn.attacks import Attack, resolve_attacks
from robustbench_dyn.certification import Certifier, resolve_certifiers
from robustbench_dyn.datasets import Dataset, load_dataset
from robustbench_dyn.errors import CertificateError, InputError, SoundnessError
from robustbench_dyn.flows import frozen, lipschitz_bound
from robustbench_dyn.identity import (
    hash_configuration,
    hash_tensors,
    identify,
    registered_identity,
)
from robustbench_dyn.judging import CountingModel, judge, predict
from robustbench_dyn.store import Run, Store, Violation
from robustbench_dyn.summary import count_statuses, summarise
from robustbench_dyn.threat_models import Norm, ThreatModel
from robustbench_dyn.verdicts import EXAMPLE_COLUMNS, Status, Verdict

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
_Item = TypeVar("_Item")

PENDING = "not attacked yet"
DEFAULT_AUDIT_SHARE = 0.02
_MIN_AUDITED = 5
# Bump when the cascade's verdicts change, so that no old verdict is taken for a new one.
_CASCADE_VERSION = 1


class Progress(NamedTuple):
    """Where a run stands at one eps: examples whose verdict is final, of all, and the counts.

    stage: "certify", the name of the attack at work, or "done".
    """

    eps: float
    stage: str
    done: int
    total: int
    counts: dict[Status, int]


@dataclass(frozen=True)
class Evaluation:
    """Verdicts of one model under one threat model, and the leaderboard row made of them."""

    threat_model: ThreatModel
    verdicts: tuple[Verdict, ...]
    summary: dict[str, Any]

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
    batch_size: int = 250,
    attacks: str | Sequence[str] = "standard",
    certifiers: str | Sequence[str] = "auto",
    audit_share: float = DEFAULT_AUDIT_SHARE,
    device: str | torch.device | None = None,
    store: Store | Path | str | None = None,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> list[Evaluation]:
    """Evaluate one model at several eps of one norm; the work is shared between them.

    What is certified at a radius is certified below it, what is broken at a distance is broken
    above it. attacks: "standard", "plus", "rand", "none" or names. certifiers: "auto", "none" or
    names. audit_share: the share of certified examples (at least 5) that is attacked all the
    same. store: where verdicts are kept and found again; in memory by default. name: how an
    unregistered model is called. Returns one Evaluation a threat model, in the given order.
    Raises InputError for bad input, SoundnessError where an attack refutes a certificate.
    """
    norm = _one_norm(threat_models)
    dataset = _as_dataset(data, n_examples)
    _check_options(batch_size, audit_share)
    for threat_model in threat_models:
        threat_model.check_input_shape(tuple(dataset.x.shape[1:]))
    opened = nullcontext(store) if isinstance(store, Store) else closing(_open(store))
    where = torch.device(device) if device is not None else _device_of(model)
    with opened as kept, frozen(model.to(where)):
        cascade = _Cascade(
            model, dataset, kept, norm, where, seed, batch_size, attacks, certifiers,
            audit_share, name, progress,
        )  # fmt: skip
        by_eps = {t.eps: cascade.run(t) for t in sorted(threat_models, key=lambda t: t.eps)}
    return [by_eps[threat_model.eps] for threat_model in threat_models]


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


class _Cascade:
    """One evaluation at work: what it depends on, its model, its data and its store."""

    def __init__(
        self, model: nn.Module, dataset: Dataset, store: Store, norm: str, device: torch.device,
        seed: int, batch_size: int, attacks: str | Sequence[str],
        certifiers: str | Sequence[str], audit_share: float, name: str | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:  # fmt: skip
        self.model = CountingModel(model)
        self.dataset, self.store, self.device = dataset, store, device
        self.seed, self.batch_size, self.audit_share = seed, batch_size, audit_share
        self.progress = progress
        self.row_of = {int(example): row for row, example in enumerate(dataset.ids)}
        self.flags = list[str]()
        # A registered model is checked at its first pass: a repeated run needs none at all.
        known = registered_identity(model) if dataset.n_classes else None
        self.checked = known is None
        # The verdicts at the eps of the moment, by example_id, as the store has them.
        self.verdicts = dict[int, Verdict]()
        self.n_classes = dataset.n_classes if known else self._first_logits().shape[1]
        self.identity = known or identify(model, self._fingerprint(), name=name)
        self.attacks = with_prelude(attacks, norm, self.n_classes)
        self.certifiers: list[tuple[Certifier, Tensor]] = [
            (certifier, certifier.prepare(model))
            for certifier in resolve_certifiers(certifiers, model)
        ]
        self.record = self._describe(model, norm)
        self.key = hash_configuration(
            {k: self.record[k] for k in self.record if k not in ("flags", "evaluated_at")}
        )

    def run(self, threat_model: ThreatModel) -> Evaluation:
        """Bring every example to its final verdict at one eps."""
        self.store.add_evaluation(self.key, self.record)
        self._raise_violations()
        kept = self.store.verdicts(self.key, threat_model.eps)
        self.verdicts = {v.example_id: v for v in kept if v.example_id in self.row_of}
        self._classify_and_certify(threat_model)
        self._attack_what_is_left(threat_model)
        self._report(threat_model, "done")
        verdicts = tuple(self.verdicts[i] for i in sorted(self.verdicts))
        finished = {(r.key, r.eps, r.n_examples): r for r in self.store.runs()}
        run = finished.get((self.key, threat_model.eps, len(verdicts)))
        if run is None:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            row = summarise(verdicts, self.record, eps=threat_model.eps, evaluated_at=now)
            run = Run(self.key, threat_model.eps, len(verdicts), row)
            self.store.add_run(run)
        return Evaluation(threat_model, verdicts, run.summary)

    def _classify_and_certify(self, threat_model: ThreatModel) -> None:
        new = [i for i in self.row_of if i not in self.verdicts]
        known = self._known_from_other_eps(threat_model) if new else {}
        self._keep(known[i] for i in new if i in known)
        missing = [i for i in new if i not in known]
        if missing and not self.checked:
            self.n_classes, self.checked = self._first_logits().shape[1], True
        for chunk in _chunks(missing, self.batch_size):
            self._keep(self._first_verdicts(chunk, threat_model))
            self._report(threat_model, "certify")

    def _first_verdicts(self, ids: list[int], threat_model: ThreatModel) -> list[Verdict]:
        started, before = time.perf_counter(), self.model.forward_passes
        x, y = self._tensors(ids)
        with torch.no_grad():
            logits = self.model(x)
        predictions = predict(logits).tolist()
        radii, names = self._certify(logits, y, threat_model)
        passes = _shares(self.model.forward_passes - before, len(ids))
        seconds = (time.perf_counter() - started) / len(ids)
        return [
            _first_verdict(
                example_id, int(y[k]), predictions[k], threat_model.eps, radii[k], names[k],
                passes[k], seconds, bool(self.attacks),
            )
            for k, example_id in enumerate(ids)
        ]  # fmt: skip

    def _certify(
        self, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> tuple[list[float], list[str]]:
        dimension = math.prod(self.dataset.x.shape[1:])
        best = [math.nan] * len(y)
        names = [""] * len(y)
        for certifier, prepared in self.certifiers:
            radii = certifier.radii(
                prepared, logits, y, norm=threat_model.norm, dimension=dimension
            ).tolist()
            for k, radius in enumerate(radii):
                if radius > 0 and not best[k] >= radius:
                    best[k], names[k] = radius, certifier.label(threat_model.norm)
            # A row always says which certifier was asked, also where it proved nothing.
            names = [name or certifier.label(threat_model.norm) for name in names]
        return best, names

    def _known_from_other_eps(self, threat_model: ThreatModel) -> dict[int, Verdict]:
        known: dict[int, Verdict] = {}
        # In the order of eps, so that the attacks' latest find stands last.
        for verdict in self.store.verdicts(self.key):
            if verdict.example_id in self.row_of and verdict.eps != threat_model.eps:
                other = known.get(verdict.example_id)
                if other is None or other.status is not Status.BROKEN:
                    known[verdict.example_id] = verdict
        return {i: _carry_over(v, threat_model.eps, bool(self.attacks)) for i, v in known.items()}

    def _attack_what_is_left(self, threat_model: ThreatModel) -> None:
        if not self.attacks:
            return
        verdicts = list(self.verdicts.values())
        left = [v for v in verdicts if v.status is Status.UNDECIDED and v.reason == PENDING]
        pool = sorted(left + self._audit_sample(verdicts), key=lambda v: v.example_id)
        for chunk in _chunks(pool, self.batch_size):
            self._keep(self._attack(chunk, threat_model))
            self._raise_violations()

    def _audit_sample(self, verdicts: list[Verdict]) -> list[Verdict]:
        certified = [v for v in verdicts if v.status is Status.CERTIFIED]
        size = max(_MIN_AUDITED, math.ceil(self.audit_share * len(certified)))
        if self.audit_share == 0:
            size = 0
        # A rank of its own for each example: the sample does not depend on the others.
        certified.sort(
            key=lambda v: hashlib.sha256(f"audit {self.seed} {v.example_id}".encode()).digest()
        )
        return [verdict for verdict in certified[:size] if not verdict.reason]

    def _attack(self, chunk: list[Verdict], threat_model: ThreatModel) -> list[Verdict]:
        started = time.perf_counter()
        forwards, backwards = self.model.forward_passes, self.model.backward_passes
        ids = [verdict.example_id for verdict in chunk]
        x, y = self._tensors(ids)
        hits: dict[int, tuple[str, float, bytes]] = {}
        failures: dict[str, str] = {}
        for attack in self.attacks:
            alive = torch.tensor([k for k in range(len(ids)) if k not in hits], device=x.device)
            if len(alive) == 0:
                break
            broken = sum(chunk[k].status is Status.UNDECIDED for k in hits)
            self._report(threat_model, attack.name, broken=broken)
            try:
                found = attack.search(
                    self.model, x[alive], y[alive], threat_model,
                    seed=self._seed_for(attack, ids), batch_size=self.batch_size,
                    n_classes=self.n_classes,
                )  # fmt: skip
            # Attacks run somebody's model inside somebody's library: a failure is recorded.
            except Exception as error:
                failures[attack.name] = f"{attack.name} failed: {type(error).__name__}: {error}"
                log.warning("%s", failures[attack.name])
                continue
            judged = judge(self.model, found, x[alive], y[alive], threat_model)
            for k, row in zip(alive.tolist(), range(len(alive)), strict=True):
                if judged.fooled[row]:
                    x_adv = judged.x_adv[row].cpu().contiguous().numpy().tobytes()
                    hits[k] = (attack.name, float(judged.distance[row]), x_adv)
        forward = _shares(self.model.forward_passes - forwards, len(chunk))
        backward = _shares(self.model.backward_passes - backwards, len(chunk))
        seconds = (time.perf_counter() - started) / len(chunk)
        return [
            self._after_attack(
                replace(
                    verdict,
                    forward_passes=verdict.forward_passes + forward[k],
                    backward_passes=verdict.backward_passes + backward[k],
                    seconds=verdict.seconds + seconds,
                ),
                hits.get(k), "; ".join(failures.values()), threat_model,
            )
            for k, verdict in enumerate(chunk)
        ]  # fmt: skip

    def _after_attack(
        self, verdict: Verdict, hit: tuple[str, float, bytes] | None, failure: str,
        threat_model: ThreatModel,
    ) -> Verdict:  # fmt: skip
        tried = "+".join(attack.name for attack in self.attacks)
        if hit is None:
            if verdict.status is Status.CERTIFIED:
                return replace(verdict, reason=f"audited: {failure or f'survived {tried}'}")
            if failure:
                return replace(verdict, status=Status.ERROR, reason=failure)
            return replace(verdict, reason=f"survived {tried}")
        attack, reached, x_adv = hit
        if verdict.certified_radius >= reached:
            self._keep_violation(verdict, attack, reached, x_adv, threat_model)
        return replace(
            verdict, status=Status.BROKEN, attack=attack, adversarial_distance=reached,
            x_adv=x_adv, reason="",
        )  # fmt: skip

    def _keep_violation(
        self, verdict: Verdict, attack: str, reached: float, x_adv: bytes, threat_model: ThreatModel
    ) -> None:
        x, _ = self._tensors([verdict.example_id])
        path = ""
        if self.store.path is not None:
            folder = self.store.path.parent / "counterexamples"
            folder.mkdir(exist_ok=True)
            file = folder / f"{self.key[:12]}-{threat_model.norm}-{verdict.example_id}.npz"
            original = x[0].cpu().numpy()
            np.savez(
                file, x=original, label=verdict.label, eps=threat_model.eps,
                x_adv=np.frombuffer(x_adv, dtype=original.dtype).reshape(original.shape),
                certified_radius=verdict.certified_radius, distance=reached,
            )  # fmt: skip
            path = str(file)
        self.store.add_violation(
            self.key,
            threat_model.eps,
            Violation(verdict.example_id, verdict.certified_radius, reached, attack, path, x_adv),
        )

    def _raise_violations(self) -> None:
        violations = self.store.violations(self.key)
        if violations:
            first = violations[0]
            raise SoundnessError(
                f"{len(violations)} attack(s) landed inside a certified ball of "
                f"{self.record['model']!r}: example {first.example_id} is certified within "
                f"{first.certified_radius:.6g}, and {first.attack} fools the model at "
                f"{first.adversarial_distance:.6g}; the certificate or the model is wrong"
                + (f" (counterexample: {first.path})" if first.path else ""),
                [violation._asdict() for violation in violations],
            )

    def _first_logits(self) -> Tensor:
        """Return the logits of the first examples; raises InputError where they are not logits."""
        first = self.dataset.x[: min(16, self.batch_size)].to(self.device)
        try:
            with torch.no_grad():
                logits = self.model(first)
        except Exception as error:
            raise InputError(
                f"the model cannot classify inputs of shape {tuple(self.dataset.x.shape[1:])}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(first):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"the model must return logits (batch, classes); it returned {shape}")
        n_classes = logits.shape[1]
        highest = int(self.dataset.y.max())
        if n_classes < 2 or highest >= n_classes:
            raise InputError(
                f"the model has {n_classes} outputs, but the labels go up to {highest}; "
                "it needs at least two, and one for each class"
            )
        if _is_softmax(logits):
            self.flags.append("softmax_outputs")
            log.warning("the outputs are probabilities; gradients vanish: return logits instead")
        return logits

    @torch.no_grad()
    def _fingerprint(self) -> Tensor:
        """Return the logits of inputs that depend on nothing but their shape."""
        like, generator = self.dataset.x, torch.Generator().manual_seed(0)
        probe = torch.rand(4, *like.shape[1:], generator=generator, dtype=like.dtype)
        logits: Tensor = self.model(probe.to(self.device))
        return logits

    def _describe(self, model: nn.Module, norm: str) -> dict[str, Any]:
        identity = self.identity
        try:
            bound: float | None = lipschitz_bound(model)
        except CertificateError:
            bound = None
        return {
            "model": identity.name,
            "family": identity.family,
            "plugin_version": identity.plugin_version,
            "weights_sha256": identity.weights_sha256,
            "state_sha256": identity.state_sha256,
            "code_sha256": identity.code_sha256,
            "parameters": sum(p.numel() for p in model.parameters()),
            "lipschitz_bound": bound,
            "dataset": self.dataset.name,
            "data_sha256": self.dataset.sha256,
            "norm": norm,
            "attacks": [attack.name for attack in self.attacks],
            "certifiers": [certifier.label(norm) for certifier, _ in self.certifiers],  # type: ignore[arg-type]
            "seed": self.seed,
            "batch_size": self.batch_size,
            "audit_share": self.audit_share,
            "device": self.device.type,
            "torch_version": torch.__version__,
            "attack_versions": [version("torchattacks"), version("pyautoattack")],
            "cascade_version": _CASCADE_VERSION,
            "flags": self.flags,
        }

    def _keep(self, verdicts: Iterable[Verdict]) -> None:
        new = {verdict.example_id: verdict for verdict in verdicts}
        self.store.add_verdicts(self.key, new.values())
        self.verdicts |= new

    def _tensors(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor([self.row_of[example_id] for example_id in ids])
        return self.dataset.x[rows].to(self.device), self.dataset.y[rows].to(self.device)

    def _seed_for(self, attack: Attack, ids: list[int]) -> int:
        text = f"{self.seed} {attack.name} {ids[0]}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def _report(self, threat_model: ThreatModel, stage: str, *, broken: int = 0) -> None:
        """Tell how far things are; broken: undecided examples of this chunk broken so far."""
        if self.progress is None:
            return
        verdicts = self.verdicts.values()
        done = broken + sum(verdict.reason != PENDING for verdict in verdicts)
        counts = count_statuses(verdicts)
        counts[Status.UNDECIDED] -= broken
        counts[Status.BROKEN] += broken
        self.progress(Progress(threat_model.eps, stage, done, len(self.row_of), counts))


def with_prelude(spec: str | Sequence[str], norm: str, n_classes: int) -> list[Attack]:
    """Return the attacks that spec names; before a suite comes PGD, cheap and often enough."""
    attacks = resolve_attacks(spec, norm, n_classes)
    if spec in ("standard", "plus") and norm != "L1":
        return [*resolve_attacks("pgd", norm, n_classes), *attacks]
    return attacks


def _first_verdict(
    example_id: int, label: int, prediction: int, eps: float, radius: float, certifier: str,
    passes: int, seconds: float, attacked: bool,
) -> Verdict:  # fmt: skip
    reason = ""
    if prediction == -1:
        status, reason = Status.ERROR, "the logits are not finite"
    elif prediction != label:
        status = Status.MISCLASSIFIED
    elif radius >= eps:
        status = Status.CERTIFIED
    else:
        status, reason = Status.UNDECIDED, PENDING if attacked else "no attack was asked for"
    correct = status in (Status.CERTIFIED, Status.UNDECIDED)
    return Verdict(
        example_id=example_id, label=label, prediction=prediction, status=status, eps=eps,
        certified_radius=radius if correct else math.nan, certifier=certifier if correct else "",
        forward_passes=passes, seconds=seconds, reason=reason,
    )  # fmt: skip


def _carry_over(known: Verdict, eps: float, attacked: bool) -> Verdict:
    """Say at eps what follows from a verdict at another eps, without any pass."""
    if known.status is Status.BROKEN and known.adversarial_distance <= eps:
        return replace(known, eps=eps, forward_passes=0, backward_passes=0, seconds=0.0)
    return _first_verdict(
        known.example_id, known.label, known.prediction, eps, known.certified_radius,
        known.certifier, 0, 0.0, attacked,
    )  # fmt: skip


def _one_norm(threat_models: Sequence[ThreatModel]) -> str:
    norms = {threat_model.norm for threat_model in threat_models}
    if len(norms) != 1:
        raise InputError(f"a grid needs threat models of one norm; these have {sorted(norms)}")
    return norms.pop()


def _check_options(batch_size: int, audit_share: float) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be at least 1")
    if not 0 <= audit_share <= 1:
        raise InputError(f"audit_share={audit_share} must be a fraction between 0 and 1")


def _as_dataset(data: Dataset | str | tuple[Tensor, Tensor], n_examples: int | None) -> Dataset:
    if isinstance(data, str):
        return load_dataset(data, n_examples=n_examples)
    if isinstance(data, Dataset):
        x, y, ids, name, sha = data.x, data.y, data.ids, data.name, data.sha256
        classes, split = data.class_names, data.split
    else:
        x, y = data
        _check_tensors(x, y)
        y = y.long()
        ids, name, split, classes = torch.arange(len(x)), "custom", "test", ()
        sha = hash_tensors({"x": x, "y": y})
    if n_examples is not None and not 1 <= n_examples <= len(x):
        raise InputError(f"n_examples={n_examples} must lie between 1 and the {len(x)} there are")
    x, y, ids = x[:n_examples], y[:n_examples], ids[:n_examples]
    return Dataset(x=x, y=y, ids=ids, name=name, split=split, class_names=classes, sha256=sha)


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


def _device_of(model: nn.Module) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def _is_softmax(logits: Tensor) -> bool:
    sums_to_one = (logits.sum(dim=1) - 1).abs().max() < 1e-5
    return bool(logits.min() >= 0 and sums_to_one)


def _open(store: Path | str | None) -> Store:
    return Store(Path(store) if store is not None else None)


def _shares(total: int, n: int) -> list[int]:
    """Split a count into n whole shares that add up to it."""
    return [total // n + (k < total % n) for k in range(n)]


def _chunks(items: list[_Item], size: int) -> Iterator[list[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
