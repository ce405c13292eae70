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
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_dyn.attacks import Attack, resolve_attacks, surrogates_of
from robustbench_dyn.batch_size import choose_batch_size, is_out_of_memory
from robustbench_dyn.certification import Certifier, resolve_certifiers
from robustbench_dyn.costs import StageCost
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

# The reason of an example that waits for an attack: these words and the attack's name.
_NEXT = "next: "
# Behind the reason of an example that survived at a larger eps: that eps.
_WITHIN = " within eps "
DEFAULT_AUDIT_SHARE = 0.01
_MIN_AUDITED = 5
# Bump when the cascade's verdicts change, so that no old verdict is taken for a new one.
_CASCADE_VERSION = 4


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
    """Verdicts of one model under one threat model, and the leaderboard row made of them.

    key: what the store calls the evaluation. costs: what it took, stage by stage, in this run and
    in those before it that left verdicts in the store.
    """

    threat_model: ThreatModel
    verdicts: tuple[Verdict, ...]
    summary: dict[str, Any]
    key: str
    costs: tuple[StageCost, ...]

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
    least 5) that is attacked all the same. store: where verdicts are kept and found again; in
    memory by default. name: how an unregistered model is called. Returns one Evaluation a threat
    model, in the given order.
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
        by_eps = {t.eps: cascade.run(t) for t in sorted(threat_models, key=lambda t: -t.eps)}
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


def conclude(store: Store, key: str, eps: float, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the leaderboard row of final verdicts; that of the first n examples is kept."""
    n = len(verdicts)
    from_the_first = {verdict.example_id for verdict in verdicts} == set(range(n))
    known = store.run(key, eps, n) if from_the_first else None
    if known is not None:
        return known.summary
    now = datetime.now(UTC).isoformat(timespec="seconds")
    summary = summarise(verdicts, store.record(key), eps=eps, evaluated_at=now)
    if from_the_first:
        store.add_run(Run(key, eps, n, summary))
    return summary


class _Cascade:
    """One evaluation at work: what it depends on, its model, its data and its store."""

    def __init__(
        self, model: nn.Module, dataset: Dataset, store: Store, norm: str, device: torch.device,
        seed: int, batch_size: int | Literal["auto"], attacks: str | Sequence[str],
        certifiers: str | Sequence[str], audit_share: float, name: str | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:  # fmt: skip
        self.model = CountingModel(model)
        self.dataset, self.store, self.device = dataset, store, device
        self.dimension = math.prod(dataset.x.shape[1:])
        self.seed, self.batch_size, self.audit_share = seed, batch_size, audit_share
        # What one chunk holds now: batch_size until memory runs out; 0 until it is measured.
        self.chunk_size = 0 if batch_size == "auto" else batch_size
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
        self.attacks = resolve_attacks(
            attacks, norm, self.n_classes, has_surrogates=bool(surrogates_of(model))
        )
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
        summary = conclude(self.store, self.key, threat_model.eps, verdicts)
        # A stage that was only carried on takes its place in the order of the cascade.
        stages = ["certify", *(attack.name for attack in self.attacks)]
        costs = sorted(
            self.store.costs(self.key, threat_model.eps), key=lambda cost: stages.index(cost.stage)
        )
        return Evaluation(threat_model, verdicts, summary, self.key, tuple(costs))

    def _classify_and_certify(self, threat_model: ThreatModel) -> None:
        new = [i for i in self.row_of if i not in self.verdicts]
        known = self._known_from_other_eps(threat_model) if new else {}
        self._keep(known[i] for i in new if i in known)
        missing = [i for i in new if i not in known]
        if missing and not self.checked:
            self.n_classes, self.checked = self._first_logits().shape[1], True
        first = self.attacks[0].name if self.attacks else ""
        work = partial(self._first_verdicts, threat_model, first)
        for _ in self._in_chunks(missing, work):
            self._report(threat_model, "certify")

    def _first_verdicts(
        self, threat_model: ThreatModel, first_attack: str, ids: list[int]
    ) -> tuple[list[Verdict], StageCost]:
        started, before = time.perf_counter(), self.model.forward_passes
        x, y = self._tensors(ids)
        with torch.no_grad():
            logits = self.model(x)
        predictions = predict(logits).tolist()
        radii, names = self._certify(logits, y, threat_model)
        forward, seconds = self.model.forward_passes - before, time.perf_counter() - started
        passes = _shares(forward, len(ids))
        verdicts = [
            _first_verdict(
                example_id, int(y[k]), predictions[k], threat_model.eps, radii[k], names[k],
                passes[k], seconds / len(ids), first_attack,
            )
            for k, example_id in enumerate(ids)
        ]  # fmt: skip
        decided = sum(v.status is not Status.UNDECIDED for v in verdicts)
        cost = StageCost(threat_model.eps, "certify", len(ids), decided, forward, 0, seconds)
        return verdicts, cost

    def _certify(
        self, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> tuple[list[float], list[str]]:
        best = [math.nan] * len(y)
        names = [""] * len(y)
        for certifier, prepared in self.certifiers:
            radii = certifier.radii(
                prepared, logits, y, norm=threat_model.norm, dimension=self.dimension
            ).tolist()
            for k, radius in enumerate(radii):
                if radius > 0 and not best[k] >= radius:
                    best[k], names[k] = radius, certifier.label(threat_model.norm)
            # A row always says which certifier was asked, also where it proved nothing.
            names = [name or certifier.label(threat_model.norm) for name in names]
        return best, names

    def _known_from_other_eps(self, threat_model: ThreatModel) -> dict[int, Verdict]:
        known: dict[int, list[Verdict]] = {}
        for verdict in self.store.verdicts(self.key):
            if verdict.example_id in self.row_of and verdict.eps != threat_model.eps:
                known.setdefault(verdict.example_id, []).append(verdict)
        first = self.attacks[0].name if self.attacks else ""
        return {i: _carry_over(others, threat_model.eps, first) for i, others in known.items()}

    def _attack_what_is_left(self, threat_model: ThreatModel) -> None:
        if not self.attacks:
            return
        first = self.attacks[0].name
        self._keep(replace(v, reason=_NEXT + first) for v in self._audit_sample())
        names = [attack.name for attack in self.attacks]
        for attack, following in zip(self.attacks, [*names[1:], ""], strict=True):
            turn = [v for v in self.verdicts.values() if _next_attack(v) == attack.name]
            turn.sort(key=lambda verdict: verdict.example_id)
            if turn:
                self._report(threat_model, attack.name)
            work = partial(self._attack, attack, following, threat_model)
            for _ in self._in_chunks(turn, work):
                self._raise_violations()
                self._report(threat_model, attack.name)

    def _audit_sample(self) -> list[Verdict]:
        certified = [v for v in self.verdicts.values() if v.status is Status.CERTIFIED]
        size = max(_MIN_AUDITED, math.ceil(self.audit_share * len(certified)))
        if self.audit_share == 0:
            size = 0
        # A rank of its own for each example: the sample does not depend on the others.
        certified.sort(
            key=lambda v: hashlib.sha256(f"audit {self.seed} {v.example_id}".encode()).digest()
        )
        return [verdict for verdict in certified[:size] if not verdict.reason]

    def _attack(
        self, attack: Attack, following: str, threat_model: ThreatModel, chunk: list[Verdict]
    ) -> tuple[list[Verdict], StageCost]:
        """Attack a chunk; whoever survives has the attack called `following` before it."""
        started = time.perf_counter()
        forwards, backwards = self.model.forward_passes, self.model.backward_passes
        ids = [verdict.example_id for verdict in chunk]
        x, y = self._tensors(ids)
        hits: dict[int, tuple[str, float, bytes]] = {}
        failure, norm = "", threat_model.norm
        try:
            found = attack.search(
                self.model, x, y, threat_model, seed=self._seed_for(attack),
                batch_size=self.chunk_size, n_classes=self.n_classes,
                rival_radii=self._rival_radii(chunk, x, y, norm) if attack.by_rival else None,
            )  # fmt: skip
            judged = judge(self.model, found, x, y, threat_model)
        # Attacks run somebody's model inside somebody's library: a failure is recorded.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            failure = f"{attack.name} failed: {type(error).__name__}: {error}"
            log.warning("%s", failure)
        else:
            for k in judged.fooled.nonzero().flatten().tolist():
                x_adv = judged.x_adv[k].cpu().contiguous().numpy().tobytes()
                hits[k] = (attack.name, float(judged.distance[k]), x_adv)
        seconds = time.perf_counter() - started
        forward, backward = (
            self.model.forward_passes - forwards,
            self.model.backward_passes - backwards,
        )
        cost = StageCost(
            threat_model.eps, attack.name, len(chunk), len(hits), forward, backward, seconds
        )
        shares = zip(_shares(forward, len(chunk)), _shares(backward, len(chunk)), strict=True)
        verdicts = [
            self._after_attack(
                replace(
                    verdict,
                    forward_passes=verdict.forward_passes + n_forward,
                    backward_passes=verdict.backward_passes + n_backward,
                    seconds=verdict.seconds + seconds / len(chunk),
                ),
                hits.get(k), failure, following, threat_model,
            )
            for k, (verdict, (n_forward, n_backward)) in enumerate(zip(chunk, shares, strict=True))
        ]  # fmt: skip
        return verdicts, cost

    def _rival_radii(self, chunk: list[Verdict], x: Tensor, y: Tensor, norm: Norm) -> Tensor | None:
        """Return the radii inside which each class cannot overtake the label, (n, classes).

        An audit asks whether the certificates are right: there they rule nothing out.
        """
        if not self.certifiers:
            return None
        with torch.no_grad():
            logits = self.model(x)
        of_each = [
            certifier.rival_radii(prepared, logits, y, norm=norm, dimension=self.dimension)
            for certifier, prepared in self.certifiers
        ]
        audited = torch.tensor([verdict.status is Status.CERTIFIED for verdict in chunk])
        return torch.stack(of_each).amax(dim=0).masked_fill(audited[:, None], 0.0)

    def _after_attack(
        self, verdict: Verdict, hit: tuple[str, float, bytes] | None, failure: str,
        following: str, threat_model: ThreatModel,
    ) -> Verdict:  # fmt: skip
        if hit is not None:
            attack, reached, x_adv = hit
            if verdict.certified_radius >= reached:
                self._keep_violation(verdict, attack, reached, x_adv, threat_model)
            return replace(
                verdict, status=Status.BROKEN, attack=attack, adversarial_distance=reached,
                x_adv=x_adv, reason="",
            )  # fmt: skip
        # Failures so far stand behind the name of the attack whose turn it was.
        failures = [*verdict.reason.split("; ")[1:], *([failure] if failure else [])]
        if following:
            return replace(verdict, reason="; ".join([_NEXT + following, *failures]))
        survived = f"survived {'+'.join(attack.name for attack in self.attacks)}"
        if verdict.status is Status.CERTIFIED:
            return replace(verdict, reason=f"audited: {'; '.join(failures) or survived}")
        if failures:
            return replace(verdict, status=Status.ERROR, reason="; ".join(failures))
        return replace(verdict, reason=survived)

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
        first = self._sample()
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

    def _sample(self) -> Tensor:
        """Return the first inputs, as few as any memory holds."""
        size = 4 if self.batch_size == "auto" else min(4, self.batch_size)
        return self.dataset.x[:size].to(self.device)

    @torch.no_grad()
    def _fingerprint(self) -> Tensor:
        """Return the logits of inputs that depend on nothing but their shape.

        Those of the model's surrogates follow: what an attack on them finds depends on them.
        """
        like, generator = self.dataset.x, torch.Generator().manual_seed(0)
        probe = torch.rand(4, *like.shape[1:], generator=generator, dtype=like.dtype)
        logits = [self.model(probe.to(self.device))]
        for name, surrogate in self.model.surrogates().items():
            with frozen(surrogate.to(self.device)):
                logits.append(surrogate(probe.to(self.device)))
            if logits[-1].shape != logits[0].shape:
                raise InputError(
                    f"surrogate {name!r} returns {tuple(logits[-1].shape)} where the model returns "
                    f"{tuple(logits[0].shape)}; it must have the same inputs and classes"
                )
        return torch.cat(logits)

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

    def _in_chunks(
        self, items: list[_Item], work: Callable[[list[_Item]], tuple[list[Verdict], StageCost]]
    ) -> Iterator[None]:
        """Do the work chunk by chunk and keep its verdicts; where memory runs out, halve them."""
        start = 0
        if items and not self.chunk_size:
            self.chunk_size = choose_batch_size(self.model.model, self._sample())
            log.info("batches of %d", self.chunk_size)
        while start < len(items):
            chunk = items[start : start + self.chunk_size]
            try:
                verdicts, cost = work(chunk)
            except Exception as error:
                if not is_out_of_memory(error) or self.chunk_size == 1:
                    raise
                self.chunk_size = max(1, self.chunk_size // 2)
                log.warning("out of memory: batches of %d from here on", self.chunk_size)
                continue
            self._keep(verdicts, cost)
            start += len(chunk)
            yield

    def _keep(self, verdicts: Iterable[Verdict], cost: StageCost | None = None) -> None:
        new = {verdict.example_id: verdict for verdict in verdicts}
        if new:
            self.store.add_verdicts(self.key, new.values(), cost)
            self.verdicts |= new

    def _tensors(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor([self.row_of[example_id] for example_id in ids])
        return self.dataset.x[rows].to(self.device), self.dataset.y[rows].to(self.device)

    def _seed_for(self, attack: Attack) -> int:
        text = f"{self.seed} {attack.name}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def _report(self, threat_model: ThreatModel, stage: str) -> None:
        if self.progress is None:
            return
        verdicts = self.verdicts.values()
        done = sum(v.status is not Status.UNDECIDED or not _next_attack(v) for v in verdicts)
        self.progress(
            Progress(threat_model.eps, stage, done, len(self.row_of), count_statuses(verdicts))
        )


def _first_verdict(
    example_id: int, label: int, prediction: int, eps: float, radius: float, certifier: str,
    passes: int, seconds: float, first_attack: str,
) -> Verdict:  # fmt: skip
    reason = ""
    if prediction == -1:
        status, reason = Status.ERROR, "the logits are not finite"
    elif prediction != label:
        status = Status.MISCLASSIFIED
    elif radius >= eps:
        status = Status.CERTIFIED
    else:
        status = Status.UNDECIDED
        reason = _NEXT + first_attack if first_attack else "no attack was asked for"
    correct = status in (Status.CERTIFIED, Status.UNDECIDED)
    return Verdict(
        example_id=example_id, label=label, prediction=prediction, status=status, eps=eps,
        certified_radius=radius if correct else math.nan, certifier=certifier if correct else "",
        forward_passes=passes, seconds=seconds, reason=reason,
    )  # fmt: skip


def _next_attack(verdict: Verdict) -> str:
    """Name the attack that the example waits for, or nothing."""
    turn, *_ = verdict.reason.split("; ")
    return turn.removeprefix(_NEXT) if turn.startswith(_NEXT) else ""


def _carry_over(known: list[Verdict], eps: float, first_attack: str) -> Verdict:
    """Say at eps what follows from one example's verdicts at other eps, without any pass."""
    at_no_cost = partial(replace, eps=eps, forward_passes=0, backward_passes=0, seconds=0.0)
    for verdict in known:
        if verdict.status is Status.BROKEN and verdict.adversarial_distance <= eps:
            return at_no_cost(verdict)
    for verdict in known:
        survived = verdict.reason.removeprefix("audited: ").startswith("survived ")
        if verdict.eps > eps and survived:
            reason = verdict.reason
            if _WITHIN not in reason:
                reason += f"{_WITHIN}{verdict.eps:g}"
            if verdict.status is Status.UNDECIDED and verdict.certified_radius >= eps:
                return at_no_cost(verdict, status=Status.CERTIFIED, reason=f"audited: {reason}")
            return at_no_cost(verdict, reason=reason)
    first = known[0]
    return _first_verdict(
        first.example_id, first.label, first.prediction, eps, first.certified_radius,
        first.certifier, 0, 0.0, first_attack,
    )  # fmt: skip


def _one_norm(threat_models: Sequence[ThreatModel]) -> str:
    norms = {threat_model.norm for threat_model in threat_models}
    if len(norms) != 1:
        raise InputError(f"a grid needs threat models of one norm; these have {sorted(norms)}")
    return norms.pop()


def _check_options(batch_size: int | str, audit_share: float) -> None:
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
        raise InputError(f"batch_size={batch_size!r} must be 'auto' or a number of at least 1")
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
