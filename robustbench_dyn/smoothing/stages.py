"""The bracket of a smoothed classifier, from votes that survive a kill in the middle of an example.

A probabilistic certificate belongs to the smoothed classifier, not to the network that it is made
of; so the classifier is a model of its own in the tables.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.api import (
    DEFAULT_AUDIT_SHARE,
    Evaluation,
    as_dataset,
    finalise_run,
)
from robustbench_dyn.evaluation.audit import sample_for_audit
from robustbench_dyn.evaluation.pipeline import Progress
from robustbench_dyn.evaluation.transitions import (
    Tool,
    first_verdict,
    infer_from_other_eps,
    unattacked_by,
    waiting_for,
)
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.identity import (
    hash_configuration,
    identify,
    registered_identity,
)
from robustbench_dyn.models.precision import full_precision
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.store import Store, Votes
from robustbench_dyn.results.summary import count_statuses
from robustbench_dyn.results.verdicts import ABSTAINED, Status, Verdict
from robustbench_dyn.smoothing.attack import ATTACK, N_DRAWS, N_STEPS, attack
from robustbench_dyn.smoothing.statistics import Smoothing, certify, predict, radius_in
from robustbench_dyn.smoothing.votes import NoisyExamples
from robustbench_dyn.threat_models import Norm, ThreatModel
from robustbench_dyn.version import __version__

# Bump when votes or verdicts change, so that no old one is taken for a new one.
_VERSION = 2


class CertifiedExample(NamedTuple):
    """What CERTIFY says of one example; radius is in L2, and 0 where it abstained."""

    example_id: int
    label: int
    prediction: int
    radius: float
    seconds: float


@dataclass(frozen=True)
class SmoothedEvaluation:
    """One Evaluation a threat model, as for any model, and one certificate an example."""

    evaluations: tuple[Evaluation, ...]
    certificates: tuple[CertifiedExample, ...]


def evaluate_smoothed(
    model: nn.Module,
    data: Dataset | str | tuple[Tensor, Tensor],
    threat_models: Sequence[ThreatModel],
    smoothing: Smoothing,
    *,
    n_examples: int | None = None,
    seed: int = 0,
    batch_size: int | Literal["auto"] = 250,
    attacked: bool = True,
    audit_share: float = DEFAULT_AUDIT_SHARE,
    device: str | torch.device | None = None,
    store: Store | Path | str | None = None,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SmoothedEvaluation:
    """Bracket the robust accuracy of the smoothed classifier of model, at eps of one norm.

    Its prediction is PREDICT's and its radius CERTIFY's, both from n votes, each right with
    probability 1 - alpha an example; an abstention counts as misclassified. Whoever is not
    certified, and a share of the others (audit_share, at least 5), is attacked by projected
    gradient ascent in expectation over noise; it is broken where PREDICT, from noise that neither
    the attack nor the certificate has seen, answers another class.
    Votes do not depend on alpha, norm and eps, and each batch of them is kept in the store: a run
    that was killed goes on in the middle of an example. batch_size: noisy copies that the model is
    given at once, or "auto". The other options are those of evaluation.evaluate_grid. The row's
    [ci_low, ci_high] takes the verdicts as they are; what alpha leaves open comes on top.
    Raises InputError for bad input.
    """
    if len({threat_model.norm for threat_model in threat_models}) != 1:
        raise InputError("give threat models of one norm, and at least one")
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
        raise InputError(f"batch_size={batch_size!r} must be 'auto' or a number of at least 1")
    if not 0 <= audit_share <= 1:
        raise InputError(f"audit_share={audit_share} must be a fraction between 0 and 1")
    dataset = as_dataset(data, n_examples)
    for threat_model in threat_models:
        threat_model.check_input_shape(tuple(dataset.x.shape[1:]))
    first = next(chain(model.parameters(), model.buffers()), torch.empty(0))
    where = torch.device(device) if device is not None else first.device
    opened = nullcontext(store) if isinstance(store, Store) else closing(_open(store))
    with full_precision(), opened as kept, frozen_eval(model.to(where)):
        noisy = NoisyExamples(
            model, dataset, smoothing, seed=seed, batch_size=batch_size, device=where,
            n_draws=N_DRAWS,
        )  # fmt: skip
        norm = threat_models[0].norm
        run = _SmoothedRun(model, noisy, kept, norm, attacked, audit_share, name, progress)
        by_eps = {t.eps: run.run(t) for t in sorted(threat_models, key=lambda t: -t.eps)}
        certificates = tuple(run.certified(example_id) for example_id in noisy.row_of)
    return SmoothedEvaluation(tuple(by_eps[t.eps] for t in threat_models), certificates)


class _SmoothedRun:
    """One evaluation at work: the examples with their noise, their votes, and the store."""

    def __init__(
        self, model: nn.Module, noisy: NoisyExamples, store: Store, norm: Norm, attacked: bool,
        audit_share: float, name: str | None, progress: Callable[[Progress], None] | None,
    ) -> None:  # fmt: skip
        self.noisy, self.smoothing, self.store, self.norm = noisy, noisy.smoothing, store, norm
        self.attacked, self.audit_share, self.progress = attacked, audit_share, progress
        self.tools = [Tool(ATTACK, proves=False)] if attacked else []
        record, self.votes_key = self._describe(model, name)
        self.key = hash_configuration(record)
        record["votes_key"] = self.votes_key
        store.add_evaluation(self.key, record)
        self.votes: dict[tuple[int, str], Votes] = store.votes(self.votes_key)
        # The verdicts at the eps of the moment, by example_id, as the store has them.
        self.verdicts = dict[int, Verdict]()

    def run(self, threat_model: ThreatModel) -> Evaluation:
        """Bring every example to its final verdict at one eps."""
        eps = threat_model.eps
        kept = self.store.verdicts(self.key, eps)
        self.verdicts = {v.example_id: v for v in kept if v.example_id in self.noisy.row_of}
        self._classify_and_certify(eps)
        if self.attacked:
            self._keep(waiting_for(v, ATTACK) for v in self._audit_sample(eps))
            self._attack_what_is_left(threat_model)
        self._report(eps, "done")
        verdicts = tuple(self.verdicts[i] for i in sorted(self.verdicts))
        summary = finalise_run(self.store, self.key, eps, verdicts)
        costs = sorted(self.store.costs(self.key, eps), key=lambda cost: cost.stage == ATTACK)
        return Evaluation(threat_model, verdicts, summary, self.key, tuple(costs))

    def certified(self, example_id: int) -> CertifiedExample:
        """Bring an example's votes to n0 and n draws, and return what CERTIFY makes of them."""
        selection = self._count(example_id, "select", self.smoothing.n0)
        estimate = self._count(example_id, "estimate", self.smoothing.n)
        found = certify(selection.counts, estimate.counts, self.smoothing)
        seconds = selection.seconds + estimate.seconds
        return CertifiedExample(example_id, self.noisy.label(example_id), *found, seconds)

    def _count(self, example_id: int, stage: Literal["select", "estimate"], n: int) -> Votes:
        """Bring the votes on an example to n draws; each batch is kept before the next."""
        noisy = self.noisy
        none = Votes(0, (0,) * (noisy.n_classes + 1), 0.0)
        votes = self.votes.get((example_id, stage), none)
        if votes.draws < n:
            x, _, streams = noisy.inputs([example_id], stage)
        while votes.draws < n:
            started = time.perf_counter()
            batch = range(votes.draws, min(votes.draws + noisy.batch_size, n))
            try:
                noisy.examine()
                new = noisy.classifier.votes(x, streams, batch)[0].tolist()
            except Exception as error:
                noisy.halve_batches(error)
                continue
            counts = tuple(a + b for a, b in zip(votes.counts, new, strict=True))
            seconds = votes.seconds + time.perf_counter() - started
            votes = Votes(batch.stop, counts, seconds)
            self.store.add_votes(self.votes_key, example_id, stage, votes)
        self.votes[example_id, stage] = votes
        return votes

    def _classify_and_certify(self, eps: float) -> None:
        others: dict[int, list[Verdict]] = {}
        for verdict in self.store.verdicts(self.key):
            if verdict.eps != eps:
                others.setdefault(verdict.example_id, []).append(verdict)
        new = [i for i in self.noisy.row_of if i not in self.verdicts]
        carried = [infer_from_other_eps(others[i], eps, self.tools) for i in new if i in others]
        self._keep(_explained(verdict) for verdict in carried)
        for example_id in new:
            if example_id not in others:
                verdict = self._first_verdict(example_id, eps)
                decided, passes = verdict.status is not Status.UNDECIDED, verdict.forward_passes
                cost = StageCost(eps, "certify", 1, int(decided), passes, 0, verdict.seconds)
                self._keep([verdict], cost)
                self._report(eps, "certify")

    def _first_verdict(self, example_id: int, eps: float) -> Verdict:
        found = self.certified(example_id)
        prediction = predict(self.votes[example_id, "estimate"].counts, self.smoothing.alpha)
        radius = math.nan
        if found.prediction == found.label:
            radius = radius_in(self.norm, found.radius, self.noisy.dimension)
        return _explained(
            first_verdict(
                example_id, found.label, prediction, eps, radius, self.smoothing.label(self.norm),
                self.smoothing.n0 + self.smoothing.n, found.seconds, self.tools,
            )
        )  # fmt: skip

    def _audit_sample(self, eps: float) -> list[Verdict]:
        # By radius: what an audit broke stays in the sample when the run goes on.
        certified = [v for v in self.verdicts.values() if v.certified_radius >= eps]
        sample = sample_for_audit(certified, self.audit_share, self.noisy.seed)
        return [v for v in sample if v.status is Status.CERTIFIED and unattacked_by(v, self.tools)]

    def _attack_what_is_left(self, threat_model: ThreatModel) -> None:
        turn = sorted(v.example_id for v in self.verdicts.values() if v.next_stage == ATTACK)
        start = 0
        while start < len(turn):
            chunk = turn[start : start + max(1, self.noisy.batch_size // N_DRAWS)]
            try:
                judged, cost = attack(self.noisy, [self.verdicts[i] for i in chunk], threat_model)
            except Exception as error:
                self.noisy.halve_batches(error)
                continue
            self._keep(judged, cost)
            start += len(chunk)
            self._report(threat_model.eps, ATTACK)

    def _describe(self, model: nn.Module, name: str | None) -> tuple[dict[str, Any], str]:
        """Return all that the verdicts depend on, and the key of what the votes depend on."""
        like, generator = self.noisy.dataset.x, torch.Generator().manual_seed(0)
        probe = torch.rand(4, *like.shape[1:], generator=generator, dtype=like.dtype)
        known, smoothing = registered_identity(model), self.smoothing
        if known is None:
            with torch.no_grad():
                logits = self.noisy.network(probe.to(self.noisy.device))
            known = identify(model, logits, name=name)
        of_votes = {
            "weights_sha256": known.weights_sha256,
            "state_sha256": known.state_sha256,
            "code_sha256": known.code_sha256,
            "data_sha256": self.noisy.dataset.sha256,
            "sigma": smoothing.sigma,
            "n0": smoothing.n0,
            "n": smoothing.n,
            "seed": self.noisy.seed,
            "device": self.noisy.device.type,
            "torch_version": torch.__version__,
            "smoothing_version": _VERSION,
        }
        record = of_votes | {
            "model": smoothing.name_of(known.name),
            "family": known.family,
            "plugin_version": known.plugin_version,
            "parameters": sum(p.numel() for p in model.parameters()),
            "lipschitz_bound": None,
            "dataset": self.noisy.dataset.name,
            "norm": self.norm,
            "alpha": smoothing.alpha,
            "attacks": [ATTACK] if self.attacked else [],
            "attack_settings": {"n_steps": N_STEPS, "n_draws": N_DRAWS},
            "certifiers": [smoothing.label(self.norm)],
            "audit_share": self.audit_share,
            "package_version": __version__,
        }
        return record, hash_configuration(of_votes)

    def _keep(self, verdicts: Iterable[Verdict], cost: StageCost | None = None) -> None:
        new = {verdict.example_id: verdict for verdict in verdicts}
        if new:
            self.store.add_verdicts(self.key, new.values(), cost)
            self.verdicts |= new

    def _report(self, eps: float, stage: str) -> None:
        if self.progress is not None:
            verdicts = self.verdicts.values()
            # Votes take longest: while they are counted, an example is done when its are.
            done = sum(stage == "certify" or not v.next_stage for v in verdicts)
            total = len(self.noisy.row_of)
            self.progress(Progress(eps, stage, done, total, count_statuses(verdicts)))


def _explained(verdict: Verdict) -> Verdict:
    """Say why there is no prediction."""
    if verdict.prediction == ABSTAINED:
        return replace(verdict, reason="abstained")
    if verdict.prediction == -1:
        reason = "most noisy copies have no class: their logits tie or are not finite"
        return replace(verdict, reason=reason)
    return verdict


def _open(store: Path | str | None) -> Store:
    return Store(Path(store) if store is not None else None)
