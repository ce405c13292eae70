"""The cascade: clean, certify, attack what is left, the cheapest decisive tool first."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.attacks.catalogue import resolve_attacks, suite_names
from robustbench_dyn.certification.base import Phase, Proof, radii
from robustbench_dyn.certification.base import PreparedCertifier as Prepared
from robustbench_dyn.certification.catalogue import Selection, select_certifiers
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.audit import sample_for_audit
from robustbench_dyn.evaluation.candidates import (
    check_candidates,
    check_candidates_in_expectation,
    predict,
    predict_in_expectation,
)
from robustbench_dyn.evaluation.masking import (
    N_EXAMPLES,
    black_box_gains,
    failed_white_box,
    find_signs,
    telling,
)
from robustbench_dyn.evaluation.soundness import raise_counterexamples, record_counterexample
from robustbench_dyn.evaluation.transitions import (
    Tool,
    advance,
    broken,
    certified,
    first_verdict,
    infer_from_other_eps,
    unattacked_by,
    waiting_for,
    without_certificate,
)
from robustbench_dyn.lipschitz.bounds import lipschitz_bound
from robustbench_dyn.models.batch_size import choose_batch_size, is_out_of_memory
from robustbench_dyn.models.counting import CountingModel, surrogates_of
from robustbench_dyn.models.determinism import (
    CHANGED,
    MOST_EXAMPLES,
    NOT_A_FUNCTION,
    RANDOM,
    find_defects,
    has_changed,
    seeded,
)
from robustbench_dyn.models.forward import writes_into_input
from robustbench_dyn.models.identity import (
    hash_configuration,
    identify,
    registered_identity,
)
from robustbench_dyn.models.precision import PRECISION
from robustbench_dyn.models.validation import are_probabilities, probe_logits, validated_logits
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.summary import attacks_that_failed, count_statuses
from robustbench_dyn.results.verdicts import Outcome, Sign, Status, Step, Verdict
from robustbench_dyn.threat_models import Norm, ThreatModel
from robustbench_dyn.version import __version__

log = logging.getLogger(__name__)
_Item = TypeVar("_Item")

# As few inputs as any memory holds.
_SMALLEST_SAMPLE = 4
# An exhaustive search may take its whole time for each example, and what is known is kept.
_SEARCHED_AT_ONCE = 4
# Bump when the cascade's verdicts change, so that no old verdict is taken for a new one.
_CASCADE_VERSION = 8
# What the record tells besides what the verdicts depend on.
_NOT_IN_KEY = ("not_applicable", "evaluated_at")


class Progress(NamedTuple):
    """Where a run stands at one eps: examples whose verdict is final, of all, and the counts.

    stage: "certify", the name of the certifier or of the attack at work, or "done".
    """

    eps: float
    stage: str
    done: int
    total: int
    counts: dict[Status, int]


class Cascade:
    """One evaluation at work: what it depends on, its model, its data and its store."""

    def __init__(
        self, model: nn.Module, dataset: Dataset, store: Store, norm: Norm, device: torch.device,
        seed: int, batch_size: int | Literal["auto"], attacks: str | Sequence[str],
        certifiers: str | Sequence[str], audit_share: float, name: str | None,
        progress: Callable[[Progress], None] | None, *, strict_rounding: bool = False,
    ) -> None:  # fmt: skip
        self.model = CountingModel(model)
        self.dataset, self.store, self.device, self.norm = dataset, store, device, norm
        self.seed, self.batch_size, self.audit_share = seed, batch_size, audit_share
        # What one chunk holds now: batch_size until memory runs out; 0 until it is measured.
        self.chunk_size = 0 if batch_size == "auto" else batch_size
        self.progress = progress
        self.row_of = {int(example): row for row, example in enumerate(dataset.ids)}
        # Signs of masked gradients: of the model, once looked for, and with others by eps.
        self.model_signs: list[Sign] | None = None
        self.signs = dict[float, list[Sign]]()
        # The verdicts at the eps of the moment, by example_id, as the store has them, and of which
        # examples they are wanted.
        self.verdicts = dict[int, Verdict]()
        self.at_work: Collection[int] = self.row_of
        # Logits from before all attacks, once a pass was made, and how many passes were watched.
        self.at_start: Tensor | None = None
        self.watched_passes = 0
        # By certifier and example, the radii of all classes, where they hold at any eps.
        self.class_radii = defaultdict[str, dict[int, Tensor]](dict)
        # Whether the outputs are random, so that predictions are by the majority of passes.
        self.in_expectation = False
        # Whether certificates of a finished eps were withdrawn.
        self.withdrew = False
        # A registered model is examined before its first pass: a repeated run needs none at all.
        known = registered_identity(model) if dataset.n_classes else None
        self.n_classes = dataset.n_classes
        found = [] if known else self._examine()
        with seeded(seed, "preparation"):
            self.identity = known or identify(
                model, probe_logits(self.model, dataset.x, device), name=name
            )
            self.attacks = resolve_attacks(
                attacks, norm, self.n_classes, has_surrogates=bool(surrogates_of(model))
            )
            selection = select_certifiers(
                certifiers, model, tuple(dataset.x.shape[1:]), norm,
                strict_rounding=strict_rounding,
            )  # fmt: skip
        self.suite = attacks if isinstance(attacks, str) and attacks in suite_names() else ""
        self.certifiers, self.strict_rounding = selection.ready, strict_rounding
        self.tools = self._arrange()
        self.record = self._describe(model, norm, selection)
        self.key = hash_configuration(
            {k: self.record[k] for k in self.record if k not in _NOT_IN_KEY}
        )
        # Of this run and of those before it.
        self.flags = set(store.flags(self.key))
        if self.flags & NOT_A_FUNCTION:
            self._distrust()
        self._flag(*found, *(f"certifier_failed:{name}" for name in selection.crashed))

    def run(
        self, threat_model: ThreatModel, *, only: Collection[int] | None = None
    ) -> tuple[Verdict, ...]:
        """Bring examples to their final verdicts at one eps; return them by example_id.

        only: the example_ids that are wanted, by default all.
        """
        self.at_work = self.row_of if only is None else only
        self._load(threat_model)
        new = [i for i in self.at_work if i not in self.verdicts]
        if self.at_start is None and (new or any(v.next_stage for v in self.verdicts.values())):
            known = self._known_from_other_eps(threat_model, new)
            if len(known) < len(new) or any(v.next_stage for v in known.values()):
                self._flag(*self._examine())
                self._load(threat_model)
        self.store.add_evaluation(self.key, self.record)
        raise_counterexamples(self.store, self.key, self.record["model"])
        self.signs[threat_model.eps] = self.store.signs(self.key, threat_model.eps)
        self._classify_and_certify(threat_model)
        self._decide_what_is_left(threat_model)
        if self._has_changed():
            self._flag(CHANGED)
            self._load(threat_model)
            self._decide_what_is_left(threat_model)
        self._report(threat_model, "done")
        return tuple(self.verdicts[i] for i in sorted(self.verdicts))

    def _load(self, threat_model: ThreatModel) -> None:
        kept = self.store.verdicts(self.key, threat_model.eps)
        wanted = set(self.at_work)
        self.verdicts = {v.example_id: v for v in kept if v.example_id in wanted}

    def costs(self, threat_model: ThreatModel) -> tuple[StageCost, ...]:
        """Return what one eps took, in the order of the stages, earlier runs included."""
        # A stage that was only carried on takes its place in the order of the cascade.
        stages = ["certify", *map(_name, self.tools), "signs"]
        costs = self.store.costs(self.key, threat_model.eps)
        # One of an earlier run, that is no longer run, comes last.
        return tuple(
            sorted(costs, key=lambda c: stages.index(c.stage) if c.stage in stages else len(stages))
        )

    def _classify_and_certify(self, threat_model: ThreatModel) -> None:
        new = [i for i in self.at_work if i not in self.verdicts]
        known = self._known_from_other_eps(threat_model, new)
        self._keep(known[i] for i in new if i in known)
        missing = [i for i in new if i not in known]
        work = partial(self._first_verdicts, threat_model)
        for _ in self._in_chunks(missing, work, "certify"):
            self._report(threat_model, "certify")

    def _first_verdicts(
        self, threat_model: ThreatModel, ids: list[int]
    ) -> tuple[list[Verdict], StageCost]:
        started, before = time.perf_counter(), self.model.forward_passes
        x, y = self._tensors(ids)
        with torch.no_grad():
            logits = self.model(x)
        predictions = self._predict(x, logits).tolist()
        found, names, trail = self._certify(ids, x, logits, y, threat_model)
        forward, seconds = self.model.forward_passes - before, time.perf_counter() - started
        passes = _shares(forward, len(ids))
        verdicts = [
            first_verdict(
                example_id, int(y[k]), predictions[k], threat_model.eps, found[k], names[k],
                passes[k], seconds / len(ids), self._stages(), trail[k],
            )
            for k, example_id in enumerate(ids)
        ]  # fmt: skip
        decided = sum(v.status is not Status.UNDECIDED for v in verdicts)
        cost = StageCost(threat_model.eps, "certify", len(ids), decided, forward, 0, seconds)
        return verdicts, cost

    def _certify(
        self, ids: list[int], x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> tuple[list[float], list[str], list[tuple[Step, ...]]]:
        """Return radii, the certifiers that prove them, and what of them could prove nothing."""
        eps, best = threat_model.eps, [math.nan] * len(y)
        names, trails = [""] * len(y), [list[Step]() for _ in ids]
        for prepared in self.certifiers:
            label = prepared.label(threat_model.norm)
            if prepared.certifier.radius_based:
                proof, failure = self._apply(prepared, x, logits, y, threat_model)
                if failure:
                    for trail in trails:
                        trail.append(_not_proved(prepared, eps, failure))
                else:
                    for k in _within_rounding(proof):
                        trails[k].append(_not_proved(prepared, eps))
                    self.class_radii[prepared.certifier.name] |= zip(
                        ids, proof.class_radii, strict=True
                    )
                for k, radius in enumerate(radii(proof).tolist()):
                    if radius > 0 and not best[k] >= radius:
                        best[k], names[k] = radius, label
            # A row always says which certifier was run, also where it proved nothing.
            names = [name or label for name in names]
        return best, names, [tuple(trail) for trail in trails]

    def _known_from_other_eps(
        self, threat_model: ThreatModel, new: list[int]
    ) -> dict[int, Verdict]:
        known: dict[int, list[Verdict]] = {}
        wanted = set(new)
        for verdict in self.store.verdicts(self.key) if new else ():
            if verdict.example_id in wanted and verdict.eps != threat_model.eps:
                known.setdefault(verdict.example_id, []).append(verdict)
        return {
            i: infer_from_other_eps(others, threat_model.eps, self._stages())
            for i, others in known.items()
        }

    def _stages(self, after: Attack | Prepared | None = None) -> list[Tool]:
        """Return all tools, or those after one."""
        start = 0 if after is None else self.tools.index(after) + 1
        return [Tool(_name(tool), isinstance(tool, Prepared)) for tool in self.tools[start:]]

    def _decide_what_is_left(self, threat_model: ThreatModel) -> None:
        names = {_name(tool) for tool in self.tools}
        stale = [v for v in self.verdicts.values() if v.next_stage and v.next_stage not in names]
        self._keep(advance(verdict, self._stages()) for verdict in stale)
        # Proofs since the attack before: a share of what they certified has the next one to pass.
        proofs = [c for c in self.certifiers if c.certifier.radius_based]
        for tool in self.tools:
            name = _name(tool)
            if isinstance(tool, Prepared):
                proofs.append(tool)
            else:
                self._keep(self._audits(proofs, [Tool(name, proves=False), *self._stages(tool)]))
                proofs = []
            turn = [v for v in self.verdicts.values() if v.next_stage == name]
            turn.sort(key=lambda verdict: verdict.example_id)
            if turn and isinstance(tool, Attack) and tool.only_on_signs:
                if not self._signs_at(threat_model, turn):
                    later = self._stages(tool)
                    self._keep(advance(self.verdicts[v.example_id], later) for v in turn)
                    continue
                turn = [self.verdicts[v.example_id] for v in turn]
            if turn:
                self._report(threat_model, name)
            if isinstance(tool, Prepared):
                work = partial(self._prove, tool, threat_model)
                exhaustive = tool.certifier.phase is Phase.LAST
                at_once = _SEARCHED_AT_ONCE if exhaustive else None
            else:
                work, at_once = partial(self._attack, tool, threat_model), None
            for _ in self._in_chunks(turn, work, name, at_once=at_once):
                raise_counterexamples(self.store, self.key, self.record["model"])
                self._report(threat_model, name)

    def _signs_at(self, threat_model: ThreatModel, waiting: list[Verdict]) -> list[Sign]:
        """Return the signs of masked gradients at one eps; those of the model are looked for once.

        waiting: the examples that are charged with the passes.
        """
        eps = threat_model.eps
        if self.signs[eps]:
            return self.signs[eps]
        if self.model_signs is None:
            correct = [v.example_id for v in self.verdicts.values() if v.prediction == v.label]
            # One item: its batches are halved where memory runs out, but it is not split.
            work = partial(self._look_for_signs, threat_model, waiting)
            for _ in self._in_chunks([sorted(correct)[:N_EXAMPLES]], work, "signs"):
                pass
        names = [attack.name for attack in self.attacks if not attack.only_on_signs]
        gains = black_box_gains(self.verdicts.values(), names)
        self.signs[eps] = [
            *(self.model_signs or ()),
            *telling(gains, len(self.verdicts)),
            *failed_white_box(names, attacks_that_failed(self.verdicts.values())),
        ]
        self.store.add_signs(self.key, eps, self.signs[eps])
        if self.signs[eps]:
            log.warning("signs of masked gradients: %s", ", ".join(map(str, self.signs[eps])))
        return self.signs[eps]

    def _look_for_signs(
        self, threat_model: ThreatModel, waiting: list[Verdict], chunk: list[list[int]]
    ) -> tuple[list[Verdict], StageCost]:
        started = time.perf_counter()
        forwards, backwards = self.model.forward_passes, self.model.backward_passes
        x, y = self._tensors(chunk[0])
        self.model_signs = find_signs(
            self.model, x, y, n_classes=self.n_classes, batch_size=self.chunk_size, seed=self.seed
        )
        forward = self.model.forward_passes - forwards
        backward = self.model.backward_passes - backwards
        seconds = time.perf_counter() - started
        cost = StageCost(threat_model.eps, "signs", len(x), 0, forward, backward, seconds)
        shares = zip(_shares(forward, len(waiting)), _shares(backward, len(waiting)), strict=True)
        charged = [
            replace(
                verdict, forward_passes=verdict.forward_passes + n_forward,
                backward_passes=verdict.backward_passes + n_backward,
                seconds=verdict.seconds + seconds / len(waiting),
            )
            for verdict, (n_forward, n_backward) in zip(waiting, shares, strict=True)
        ]  # fmt: skip
        return charged, cost

    def _audits(self, proofs: list[Prepared], tools: list[Tool]) -> Iterator[Verdict]:
        """Yield the certified examples that are attacked all the same, waiting for their attack."""
        labels = {prepared.label(self.norm) for prepared in proofs}
        certified = [
            v
            for v in self.verdicts.values()
            if v.status is Status.CERTIFIED and v.certifier in labels
        ]
        for verdict in sample_for_audit(certified, self.audit_share, self.seed):
            attack = "" if verdict.next_stage else unattacked_by(verdict, tools)
            if attack:
                yield waiting_for(verdict, attack)

    def _prove(
        self, prepared: Prepared, threat_model: ThreatModel, chunk: list[Verdict]
    ) -> tuple[list[Verdict], StageCost]:
        """Run a certifier that looks at the ball."""
        started, before = time.perf_counter(), self.model.forward_passes
        x, y = self._tensors([verdict.example_id for verdict in chunk])
        with torch.no_grad():
            logits = self.model(x)
        proof, failure = self._apply(prepared, x, logits, y, threat_model)
        proved = radii(proof).tolist()
        hits: dict[int, tuple[str, float, bytes]] = {}
        if proof.candidates is not None:
            hits = self._judge(prepared.certifier.name, proof.candidates, x, y, threat_model)
        seconds = time.perf_counter() - started
        forward = self.model.forward_passes - before
        name, eps = prepared.certifier.name, threat_model.eps
        # An exhaustive search ends with a proof, a counterexample, or its time.
        timed_out = "timed out" if prepared.certifier.phase is Phase.LAST else ""
        open_ = Step(name, Outcome.OPEN, eps, timed_out)
        within_rounding = set(_within_rounding(proof))
        verdicts = []
        for k, (verdict, passes) in enumerate(
            zip(chunk, _shares(forward, len(chunk)), strict=True)
        ):
            charged = replace(
                verdict, forward_passes=verdict.forward_passes + passes,
                seconds=verdict.seconds + seconds / len(chunk),
            )  # fmt: skip
            if k in hits:
                charged = self._broken(charged, hits[k], threat_model)
            elif proved[k] >= eps:
                charged = certified(charged, prepared.label(threat_model.norm), proved[k])
            else:
                rounds = failure or k in within_rounding
                step = _not_proved(prepared, eps, failure) if rounds else open_
                charged = advance(charged, self._stages(prepared), step)
            verdicts.append(charged)
        decided = sum(v.status is not Status.UNDECIDED for v in verdicts)
        return verdicts, StageCost(eps, name, len(chunk), decided, forward, 0, seconds)

    def _apply(
        self, prepared: Prepared, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> tuple[Proof, str]:
        """Run a certifier; where it fails, return a proof of nothing, and why."""
        try:
            proof = prepared.prove(x, logits, y, threat_model)
        # A certifier reads a model that anybody may have written: a failure is recorded.
        except Exception as error:
            if is_out_of_memory(error) and self.chunk_size > 1:
                raise
            failure = f"{type(error).__name__}: {error}"
            log.warning("certifier %s failed: %s", prepared.certifier.name, failure)
            return Proof(torch.zeros(logits.shape, dtype=torch.float64)), failure
        self.model.forward_passes += proof.forward_passes
        return proof, ""

    def _attack(
        self, attack: Attack, threat_model: ThreatModel, chunk: list[Verdict]
    ) -> tuple[list[Verdict], StageCost]:
        started = time.perf_counter()
        forwards, backwards = self.model.forward_passes, self.model.backward_passes
        x, y = self._tensors([verdict.example_id for verdict in chunk])
        hits: dict[int, tuple[str, float, bytes]] = {}
        failure = ""
        try:
            found = attack.search(
                self.model, x, y, threat_model, seed=self._seed_of(attack.name),
                batch_size=self.chunk_size, n_classes=self.n_classes,
                class_radii=(
                    self._rival_radii(chunk, x, y, threat_model) if attack.by_rival else None
                ),
            )  # fmt: skip
            hits = self._judge(attack.name, found, x, y, threat_model)
        # Attacks run somebody's model inside somebody's library: a failure is recorded.
        except Exception as error:
            if is_out_of_memory(error) and self.chunk_size > 1:
                raise
            failure = f"{type(error).__name__}: {error}"
            log.warning("%s failed: %s", attack.name, failure)
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
                hits.get(k), failure, attack, threat_model,
            )
            for k, (verdict, (n_forward, n_backward)) in enumerate(zip(chunk, shares, strict=True))
        ]  # fmt: skip
        return verdicts, cost

    def _judge(
        self, name: str, found: Tensor, x: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> dict[int, tuple[str, float, bytes]]:
        """Return (name, distance, bytes of x_adv) of the candidates that fool the model."""
        if self.in_expectation:
            judged = check_candidates_in_expectation(
                self.model, found, x, y, threat_model, seed=self._seed_of(name)
            )
        else:
            judged = check_candidates(self.model, found, x, y, threat_model)
        hits = {}
        for k in judged.fooled.nonzero().flatten().tolist():
            x_adv = judged.x_adv[k].cpu().contiguous().numpy().tobytes()
            hits[k] = (name, float(judged.distance[k]), x_adv)
        return hits

    def _rival_radii(
        self, chunk: list[Verdict], x: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> Tensor | None:
        """Return the radii inside which each class cannot overtake the label, (n, classes).

        What costs little is run again, where it is not known from this run. An audit asks whether
        the certificates are right: there they rule nothing out.
        """
        cheap = [
            c for c in self.certifiers if c.certifier.phase in (Phase.CLEAN, Phase.BEFORE_ATTACKS)
        ]
        if not cheap:
            return None
        with torch.no_grad():
            logits = self.model(x)
        of_each = list[Tensor]()
        for prepared in cheap:
            known = self.class_radii[prepared.certifier.name]
            if all(verdict.example_id in known for verdict in chunk):
                of_each.append(torch.stack([known[verdict.example_id] for verdict in chunk]))
            else:
                proof, _ = self._apply(prepared, x, logits, y, threat_model)
                of_each.append(proof.class_radii)
        audited = torch.tensor([verdict.status is Status.CERTIFIED for verdict in chunk])
        return torch.stack(of_each).amax(dim=0).masked_fill(audited[:, None], 0.0)

    def _after_attack(
        self, verdict: Verdict, hit: tuple[str, float, bytes] | None, failure: str,
        attack: Attack, threat_model: ThreatModel,
    ) -> Verdict:  # fmt: skip
        if hit is not None:
            return self._broken(verdict, hit, threat_model)
        outcome = Outcome.FAILED if failure else Outcome.SURVIVED
        step = Step(attack.name, outcome, threat_model.eps, failure)
        return advance(verdict, self._stages(attack), step)

    def _broken(
        self, verdict: Verdict, hit: tuple[str, float, bytes], threat_model: ThreatModel
    ) -> Verdict:
        attack, reached, x_adv = hit
        if verdict.certified_radius >= reached:
            x, _ = self._tensors([verdict.example_id])
            record_counterexample(
                self.store, self.key, verdict, threat_model, attack=attack, reached=reached,
                x=x[0], x_adv=x_adv,
            )  # fmt: skip
        return broken(verdict, attack, reached, x_adv)

    # What the model is

    def _examine(self) -> list[str]:
        """Check the model on a handful of examples; return flags for what is wrong with it."""
        most = 2 * _SMALLEST_SAMPLE if self.batch_size == "auto" else self.batch_size
        while True:
            x = self._sample(min(MOST_EXAMPLES, max(1, most // 2)))
            try:
                with seeded(self.seed, "validation"):
                    logits = validated_logits(self.model, x, int(self.dataset.y.max()))
                self.at_start, found = find_defects(self.model, x, seed=self.seed, most=most)
                break
            except Exception as error:
                causes = (error, error.__cause__)
                full = any(isinstance(e, Exception) and is_out_of_memory(e) for e in causes)
                if full and most > 1:
                    most //= 2
                    continue
                if isinstance(error, InputError):
                    raise
                raise InputError(
                    "the model takes some inputs and fails on the same ones in other batches: "
                    f"{type(error).__name__}: {error}"
                ) from error
        self.n_classes = logits.shape[1]
        self.watched_passes = self.model.forward_passes
        with seeded(self.seed, "validation"):
            writes = writes_into_input(self.model.model, x)
        if writes:
            found.append("writes_into_input")
            log.warning("the model's forward writes into its input; it was given copies here")
        if are_probabilities(logits):
            found.append("softmax_outputs")
            log.warning("the outputs are probabilities; gradients vanish: return logits instead")
        return found

    def _has_changed(self) -> bool:
        """Say whether the model is another one than it was before the passes of this run."""
        if self.at_start is None or self.model.forward_passes == self.watched_passes:
            return False
        if self.flags & NOT_A_FUNCTION:  # it is known to be none
            return False
        x = self._sample(len(self.at_start))
        changed = has_changed(self.model, x, self.at_start, seed=self.seed)
        self.watched_passes = self.model.forward_passes
        return changed

    def _flag(self, *found: str) -> None:
        """Keep what was found out about the model, and act on it."""
        new = set(found) - self.flags
        if not new:
            return
        self.flags |= new
        self.store.add_flags(self.key, sorted(new))
        if new & NOT_A_FUNCTION:
            log.warning("the model is no function of its input: %s", ", ".join(sorted(new)))
            self._distrust()

    def _distrust(self) -> None:
        """Let no certificate count of a model that is no function of its input.

        Those that were given are withdrawn, at every eps, and the examples that they spared are
        attacked.
        """
        self.certifiers = []
        if RANDOM in self.flags:
            self._attack_in_expectation()
        self.tools = self._arrange()
        why = "the model is no function of its input: " + ", ".join(
            sorted(self.flags & NOT_A_FUNCTION)
        )
        given = [v for v in self.store.verdicts(self.key) if v.certifier]
        if given:
            stages = self._stages()
            self.store.add_verdicts(self.key, [without_certificate(v, why, stages) for v in given])
            self.store.remove_runs(self.key)
            self.withdrew = True

    def _attack_in_expectation(self) -> None:
        """Replace a suite by the one in expectation, where the outputs are random.

        Attacks that were named one by one stay. Predictions and the candidate check are by the
        majority of many passes, with either.
        """
        self.in_expectation = True
        if self.suite in ("", "none", "rand"):
            return
        self.attacks = resolve_attacks("rand", self.norm, self.n_classes)
        self.record["attacks"] = [attack.name for attack in self.attacks]
        self.record["attacks_on_signs"] = []

    def _arrange(self) -> list[Attack | Prepared]:
        """Put the tools in order: each comes in when all before it left an example undecided."""
        by_cost = {c: [p for p in self.certifiers if p.certifier.phase is c] for c in Phase}
        return [
            *by_cost[Phase.BEFORE_ATTACKS], *self.attacks[:1],
            *by_cost[Phase.AFTER_FIRST_ATTACK], *self.attacks[1:],
            *by_cost[Phase.LAST],
        ]  # fmt: skip

    def _sample(self, most: int) -> Tensor:
        """Return the first inputs."""
        return self.dataset.x[:most].to(self.device)

    def _describe(self, model: nn.Module, norm: Norm, selection: Selection) -> dict[str, Any]:
        """Return what the verdicts depend on, and why certifiers of `auto` are not applicable."""
        identity = self.identity
        try:
            bound: float | None = lipschitz_bound(model)
        # The model's own method may raise anything; the certifier tells what.
        except Exception:
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
            # The settings of an attack depend on the suite that it comes from.
            "suite": self.suite,
            "attacks": [attack.name for attack in self.attacks if not attack.only_on_signs],
            "attacks_on_signs": [attack.name for attack in self.attacks if attack.only_on_signs],
            "certifiers": [prepared.label(norm) for prepared in self.certifiers],
            "rounding": "strict" if self.strict_rounding else "measured",
            "precision": PRECISION,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "audit_share": self.audit_share,
            "device": self.device.type,
            "torch_version": torch.__version__,
            "attack_versions": [version("torchattacks"), version("pyautoattack")],
            "cascade_version": _CASCADE_VERSION,
            "package_version": __version__,
            "stage_versions": {
                **{attack.name: attack.version for attack in self.attacks},
                **{p.certifier.name: p.certifier.version for p in self.certifiers},
            },
            "not_applicable": selection.not_applicable,
        }

    def _in_chunks(
        self, items: list[_Item], work: Callable[[list[_Item]], tuple[list[Verdict], StageCost]],
        stage: str, *, at_once: int | None = None,
    ) -> Iterator[None]:  # fmt: skip
        """Do the work chunk by chunk and keep its verdicts; where memory runs out, halve them.

        Each chunk of a stage has random streams of its own, so that identical runs agree, and so do
        the first passes of runs at other eps. at_once: the most items of a chunk, besides.
        """
        start = 0
        if items and not self.chunk_size:
            with seeded(self.seed, "batch size"):
                x = self._sample(_SMALLEST_SAMPLE)
                self.chunk_size = choose_batch_size(self.model.model, x)
            log.info("batches of %d", self.chunk_size)
        while start < len(items):
            chunk = items[start : start + min(self.chunk_size, at_once or self.chunk_size)]
            try:
                with seeded(self.seed, stage, _example_id(chunk[0])):
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

    def _predict(self, x: Tensor, logits: Tensor) -> Tensor:
        """Return the classes that the model predicts, by the majority where it draws at random."""
        if self.in_expectation:
            return predict_in_expectation(self.model, x, seed=self._seed_of("clean"))
        return predict(logits)

    def _seed_of(self, stage: str) -> int:
        text = f"{self.seed} {stage}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def _report(self, threat_model: ThreatModel, stage: str) -> None:
        if self.progress is None:
            return
        verdicts = self.verdicts.values()
        done = sum(v.status is not Status.UNDECIDED or not v.next_stage for v in verdicts)
        self.progress(
            Progress(threat_model.eps, stage, done, len(self.at_work), count_statuses(verdicts))
        )


def _shares(total: int, n: int) -> list[int]:
    """Split a count into n whole shares that add up to it."""
    return [total // n + (k < total % n) for k in range(n)]


def _example_id(item: object) -> int:
    if isinstance(item, list):
        return _example_id(item[0]) if item else 0
    return item.example_id if isinstance(item, Verdict) else cast(int, item)


def _within_rounding(proof: Proof) -> list[int]:
    """Return the rows of which the model's own rounding forbids a proof."""
    rows = proof.within_rounding
    return [] if rows is None else rows.nonzero().flatten().tolist()


def _not_proved(prepared: Prepared, eps: float, failure: str = "") -> Step:
    """Say that a certifier failed, or that rounding forbids what it would prove."""
    name = prepared.certifier.name
    if failure:
        return Step(name, Outcome.NOT_APPLICABLE, eps, failure)
    message = "the network's own rounding may exceed a margin"
    return Step(name, Outcome.WITHIN_ROUNDING, eps, message)


def _name(tool: Attack | Prepared) -> str:
    return tool.certifier.name if isinstance(tool, Prepared) else tool.name
