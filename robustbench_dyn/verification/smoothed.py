"""Replay the row of a smoothed classifier: votes on fresh noise, which are assessed as samples."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace

import torch
from scipy.special import bdtr, ndtr
from torch import Tensor

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.evaluation.options import device_of
from robustbench_dyn.evaluation.under_test import under_test
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.store import Store, Votes
from robustbench_dyn.results.verdicts import ABSTAINED, Status, Verdict
from robustbench_dyn.smoothing import Smoothing, evaluate_smoothed
from robustbench_dyn.smoothing.stages import N_DRAWS
from robustbench_dyn.smoothing.statistics import predict
from robustbench_dyn.smoothing.votes import VoteCounter
from robustbench_dyn.threat_models import Norm, ThreatModel
from robustbench_dyn.verification.findings import shown_ids
from robustbench_dyn.verification.options import ReplayOptions
from robustbench_dyn.verification.rebuilding import Subject, smoothing_of
from robustbench_dyn.verification.replay import Replayed, compare_attacks
from robustbench_dyn.verification.rules import (
    LEVEL,
    UNREPEATED,
    how_many_hold,
    is_chance,
)
from robustbench_dyn.verification.sampling import Sample

_BATCH_SIZE = 250


def replay_smoothed(
    found: Replayed, evidence: Evidence, subject: Subject, sample: Sample, options: ReplayOptions
) -> None:
    """Vote again on a sample of the row's examples, with other noise.

    A certificate says that the right class has at least a probability; votes that are too few for
    it, by an exact test at LEVEL over the number of certificates, refute it. One that is not
    repeated, though its votes are no contradiction, is counted, and assessed by how many there are.
    """
    spec = evidence.record.spec
    smoothing, first = smoothing_of(spec), evidence.verdicts[0].example_id
    verdicts = sorted(
        (*sample.certified, *sample.undecided, *sample.broken), key=lambda v: v.example_id
    )
    if verdicts:
        rows = torch.tensor([verdict.example_id - first for verdict in verdicts])
        part = _rows(subject.dataset, rows)
        with closing(Store(None)) as store:
            smoothed = evaluate_smoothed(
                subject.model,
                part,
                [ThreatModel(spec.norm, evidence.eps)],
                smoothing,
                seed=options.seed,
                attacked=bool(spec.attacks),
                audit_share=1.0,
                device=options.device,
                store=store,
                progress=False,
            )
            (evaluation,) = smoothed.evaluations
            votes = store.votes(store.record(evaluation.key).spec.votes_key())
        after = {verdict.example_id: verdict for verdict in evaluation.verdicts}
        dimension = math.prod(subject.dataset.x.shape[1:])
        _assess_certificates(found, evidence, sample, votes, smoothing, dimension)
        _assess_predictions(found, verdicts, votes, smoothing)
        fell = {i for i, verdict in after.items() if verdict.status is Status.BROKEN}
        compare_attacks(found, evidence, sample, fell)
        fallen = [v.example_id for v in sample.certified if v.example_id in fell]
        if fallen and not is_chance(len(fallen), len(sample.certified), rate=smoothing.alpha):
            said = f"{shown_ids(fallen)}: certified, and broken when the attack is run again"
            found.fails("certificate", said, fallen)
    _assess_images(found, evidence, subject, sample, smoothing, options)


def _assess_certificates(
    found: Replayed,
    evidence: Evidence,
    sample: Sample,
    votes: dict[tuple[int, str], Votes],
    smoothing: Smoothing,
    dimension: int,
) -> None:
    refuted, unrepeated = list[int](), list[int]()
    level = LEVEL / max(1, len(sample.certified))
    norm = evidence.record.spec.norm
    for verdict in sample.certified:
        counts = votes[verdict.example_id, "estimate"].counts
        least = float(ndtr(_in_l2(norm, evidence.eps, dimension) / smoothing.sigma))
        stated = float(ndtr(_in_l2(norm, verdict.certified_radius, dimension) / smoothing.sigma))
        right, n = counts[verdict.label], sum(counts)
        if bdtr(right, n, min(stated, 1.0)) < level:
            refuted.append(verdict.example_id)
        elif right < least * n:
            unrepeated.append(verdict.example_id)
    # Each certificate may be wrong with probability alpha, and no more.
    if refuted and not is_chance(len(refuted), len(sample.certified), rate=smoothing.alpha):
        found.fails(
            "certificate",
            f"{shown_ids(refuted)}: {smoothing.n} fresh votes contradict the certified radius",
            refuted,
        )
    held = len(sample.certified) - len(refuted) - len(unrepeated)
    if unrepeated and not is_chance(len(unrepeated), len(sample.certified), rate=UNREPEATED):
        found.fails(
            "certificate",
            f"{shown_ids(unrepeated)}: too many certificates are not repeated by fresh votes",
            unrepeated,
        )
    if sample.certified:
        found.statements.append(
            how_many_hold(
                "certificates",
                sample=len(sample.certified),
                held=held,
                population=sample.n_certified,
            )
        )


def _in_l2(norm: Norm, radius: float, dimension: int) -> float:
    """Return the L2 radius that a certified radius was made of (smoothing.statistics.radius_in)."""
    return radius * math.sqrt(dimension) if norm == "Linf" else radius


def _assess_predictions(
    found: Replayed,
    verdicts: list[Verdict],
    votes: dict[tuple[int, str], Votes],
    smoothing: Smoothing,
) -> None:
    wrong = list[int]()
    for verdict in verdicts:
        now = predict(votes[verdict.example_id, "estimate"].counts, smoothing.alpha)
        if ABSTAINED not in (now, verdict.prediction) and now != verdict.prediction:
            wrong.append(verdict.example_id)
    if wrong and not is_chance(len(wrong), len(verdicts), rate=2 * smoothing.alpha):
        found.fails(
            "predictions",
            f"{shown_ids(wrong)}: fresh votes predict another class than the row says",
            wrong,
        )


def _assess_images(
    found: Replayed,
    evidence: Evidence,
    subject: Subject,
    sample: Sample,
    smoothing: Smoothing,
    options: ReplayOptions,
) -> None:
    """Vote at the kept adversarial examples; where PREDICT names the right class, one is none."""
    if not sample.kept:
        return
    device, first = device_of(subject.model, options.device), evidence.verdicts[0].example_id
    rows = torch.tensor([verdict.example_id - first for verdict in sample.kept])
    x, y = subject.dataset.x[rows].to(device), subject.dataset.y[rows].to(device)
    standing = list[int]()
    with under_test(
        subject.model, subject.dataset, device=device, seed=options.seed, batch_size=_BATCH_SIZE
    ) as tested:
        counter = VoteCounter(tested, smoothing, {}, seed=options.seed, n_draws=N_DRAWS)
        for k, verdict in enumerate(sample.kept):
            image = _image(verdict, x[k : k + 1])
            counts = counter.votes_at(
                image, x[k : k + 1], y[k : k + 1], "check", smoothing.n, size=_BATCH_SIZE
            )
            if predict(counts, smoothing.alpha) == verdict.label:
                standing.append(verdict.example_id)
    if standing and not is_chance(len(standing), len(sample.kept), rate=2 * smoothing.alpha):
        found.fails(
            "adversarial example",
            f"{shown_ids(standing)}: fresh votes name the right class at the kept adversarial "
            "example",
            standing,
        )


def _image(verdict: Verdict, x: Tensor) -> Tensor:
    content = bytearray(verdict.x_adv or b"")
    return torch.frombuffer(content, dtype=torch.float32).reshape(x.shape).to(x)


def _rows(dataset: Dataset, rows: Tensor) -> Dataset:
    return replace(dataset, x=dataset.x[rows], y=dataset.y[rows], ids=dataset.ids[rows], sha256="")
