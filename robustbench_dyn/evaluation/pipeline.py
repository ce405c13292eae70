"""The pipeline: it takes examples through the stages of a plan, and keeps what these find.

It alone batches, meters, advances each example's state, writes to the store and reports progress.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Generic, Literal, TypeVar

import torch

from robustbench_dyn.certification.base import Phase
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import MachineError
from robustbench_dyn.evaluation.accounting import charge, stage_cost
from robustbench_dyn.evaluation.audit import audit_failed, sample_for_audit
from robustbench_dyn.evaluation.batching import Batching
from robustbench_dyn.evaluation.examples import Examples
from robustbench_dyn.evaluation.outcomes import Batch, Broken, Classified, Result, Stage
from robustbench_dyn.evaluation.plan import Plan
from robustbench_dyn.evaluation.recall import check_recalled
from robustbench_dyn.evaluation.reports import Reports
from robustbench_dyn.evaluation.samples import called_back
from robustbench_dyn.evaluation.signs import Signs
from robustbench_dyn.evaluation.soundness import (
    describe_hit,
    raise_counterexamples,
    record_counterexample,
)
from robustbench_dyn.evaluation.transitions import (
    Later,
    advance,
    initial_verdict,
    skip_to,
    spared,
    unattacked_by,
    waiting_for,
)
from robustbench_dyn.models.validation import ModelUnderTest
from robustbench_dyn.progress.report import Progress
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.flags import CHANGED, NOT_A_FUNCTION, REFUTED_BOUND
from robustbench_dyn.results.sampling import draw_sample, spares_none
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import Sign, Status, Verdict
from robustbench_dyn.threat_models import ThreatModel, format_eps

log = logging.getLogger(__name__)

AnyPlan = TypeVar("AnyPlan", bound=Plan)


class Pipeline(Generic[AnyPlan]):
    """One evaluation at work: its plan, model, data and store.

    stages: in their order, the clean pass first. flags: found out about the model, in this run and
    in those before it. withdrew: whether certificates of a finished eps were withdrawn.
    """

    def __init__(
        self,
        plan: AnyPlan,
        model: ModelUnderTest,
        dataset: Dataset,
        store: Store,
        *,
        device: torch.device,
        batch_size: int | Literal["auto"],
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.plan, self.model, self.dataset, self.store = plan, model, dataset, store
        self.record, self.spec = plan.record, plan.record.spec
        self.key = self.spec.key()
        self.reports = Reports(model.network, self.spec, progress)
        self._batching = Batching(model, batch_size, self.spec.seed)
        self._examples = Examples(dataset, store, self.key, device)
        self._signs = Signs(model, store, self.key)
        # Whether sampled attacks have to run on all examples for what others in the store showed.
        self._suspect = False
        self.withdrew = False
        # Whether the model was compared with what earlier runs kept, and tested by passes.
        self._held = self._tested = False
        self.flags = set(store.flags(self.key))
        self.stages = plan.stages(self.flags)
        self._withdraw()
        self._flag(*model.flags, *plan.flags)

    def run(
        self, threat_model: ThreatModel, *, only: Collection[int] | None = None
    ) -> tuple[Verdict, ...]:
        """Bring examples to their final verdicts at one eps; return them by example_id.

        only: the example_ids that are wanted, by default all.
        Raises SoundnessError where an adversarial example lies inside a certified radius, and
        MachineError, after all that could be done, where examples wait because the machine failed.
        """
        self._examples.want(only)
        self._load(threat_model)
        self._call_back(threat_model)
        self.reports.begin(threat_model.eps, self.stages, self._verdicts, self._total)
        self._check_recalled()
        if not self._tested and self._examples.need_passes(threat_model.eps, self._later()):
            self._test_model()
            self._load(threat_model)
        self.store.add_evaluation(self.key, self.record)
        raise_counterexamples(self.store, self.key, self.spec.model)
        self._classify(threat_model)
        self._decide(threat_model)
        self._hold_claims(threat_model)
        self._flag(*self.model.keeps_state())
        if self._has_changed():
            self._flag(CHANGED)
            self._load(threat_model)
            self._decide(threat_model)
        self._examples.finish()
        self._raise_failure(threat_model)
        self._report(threat_model, "done")
        return tuple(sorted(self._verdicts, key=_example_id))

    def costs(self, threat_model: ThreatModel) -> tuple[StageCost, ...]:
        """Return what one eps took, in the order of the stages, earlier runs included."""
        order = [*(stage.name for stage in self.stages), "signs"]
        costs = self.store.costs(self.key, threat_model.eps)
        # A stage of an earlier run that is no longer run comes last.
        return tuple(
            sorted(costs, key=lambda c: order.index(c.stage) if c.stage in order else len(order))
        )

    def _check_recalled(self) -> None:
        """Hold an unregistered model to what the store has of it, once a run."""
        if self._held or self.model.registered or self.flags & NOT_A_FUNCTION:
            return
        if self.spec.smoothing or not self._verdicts:
            return
        self._held = True
        verdicts = sorted(self._verdicts, key=_example_id)

        def work(batch: Sequence[Verdict]) -> None:
            x, _ = self._examples.tensors([verdict.example_id for verdict in batch])
            check_recalled(self.model.logits(x), batch)

        for _ in self._batching.over(verdicts, work, stage="recall", example_id=_example_id):
            pass

    # The clean pass

    def _classify(self, threat_model: ThreatModel) -> None:
        self._examples.keep(
            self._examples.known_from_other_eps(threat_model.eps, self._later()).values()
        )
        self._run(self.stages[0], self._examples.new(), threat_model)

    # The stages after it

    def _decide(self, threat_model: ThreatModel) -> None:
        """Take every example that is left, and those that are audited, through its stages."""
        self._examples.left = {
            i: stage for i, stage in self._examples.left.items() if i not in self._examples.verdicts
        }
        names = {stage.name for stage in self.stages}
        gone = [v for v in self._verdicts if v.next_stage and v.next_stage not in names]
        self._examples.keep(skip_to(verdict, self._later()) for verdict in gone)
        # What was proved since the last attack: the next attack audits a sample of it.
        labels = set(self.stages[0].labels)
        place = 1
        while place < len(self.stages):
            stage = self.stages[place]
            # What is done of all examples together waits for those that the machine left behind.
            complete = not self._examples.left
            if _is_attack(stage) and complete:
                self._examples.keep(self._audits(labels, self._later_to_audit(place - 1)))
                labels = set()
            else:
                labels |= set(stage.labels)
            self._run_due(stage, threat_model)
            place += 1
            if stage.sampled and self._call_back(threat_model):
                place = min(k for k, one in enumerate(self.stages) if one.sampled)

    def _run_due(self, stage: Stage, threat_model: ThreatModel) -> None:
        """Run a stage on the examples that wait for it, and that are not spared it."""
        turn = self._examples.waiting(stage.name)
        if turn and stage.sampled and not self._examples.left and not self._spares_none():
            sample = draw_sample(self._verdicts, stage.name, self.spec.seed)
            self._start(stage, [i for i in turn if i in sample], threat_model)
            turn = self._examples.waiting(stage.name)
        sparing = stage.sampled and not self._spares_none()
        if turn and (stage.only_on_signs or sparing):
            signs = None if self._examples.left else self._signs_at(threat_model, turn)
            if signs is None:
                self._examples.left |= dict.fromkeys(turn, stage.name)
                return
            if not signs:
                self._leave_out(stage, turn)
                return
        self._start(stage, turn, threat_model)

    def _start(self, stage: Stage, ids: Sequence[int], threat_model: ThreatModel) -> None:
        if ids:
            self._report(threat_model, stage.name)
            self._run(stage, ids, threat_model)

    def _leave_out(self, stage: Stage, turn: Sequence[int]) -> None:
        later = self._later(self.stages.index(stage))
        if stage.sampled:
            self._examples.keep(spared(self._examples.verdicts[i], stage.name, later) for i in turn)
        else:
            self._examples.keep(skip_to(self._examples.verdicts[i], later) for i in turn)

    # Samples

    def _spares_none(self) -> bool:
        """Say whether the attacks that run on samples have to run on all examples."""
        return self._suspect or spares_none(
            self._verdicts,
            self.spec.attacks_run(self.flags, on_signs=True),
            signs=self._signs.known,
            flags=self.flags,
        )

    def _call_back(self, threat_model: ThreatModel) -> bool:
        """Call examples back to attacks that spare them no more; tell whether there are any."""
        if self._examples.left:
            return False
        everyone = self._spares_none()
        called = called_back(
            self._verdicts,
            [stage.name for stage in self.stages if stage.sampled],
            self.spec.seed,
            everyone=everyone,
        )
        ids = [v.example_id for v in called]
        if finished := [i for i in ids if not self._examples.verdicts[i].next_stage]:
            # What leads to all concerns the runs of other examples, too.
            having = None if everyone else finished
            self.store.remove_runs(self.key, threat_model.eps, having=having)
        self._examples.keep(called)
        return bool(called)

    def _audits(self, labels: Collection[str], later: Sequence[Later]) -> list[Verdict]:
        """Return certified examples that are attacked all the same, waiting for their attack."""
        # By radius: an example that an audit broke stays in the sample when the run goes on.
        certified = [
            v for v in self._verdicts if v.certified_radius >= v.eps and v.certifier in labels
        ]
        sample = sample_for_audit(certified, self.spec.audit_share, self.spec.seed)
        return [
            waiting_for(verdict, attack)
            for verdict in sample
            if verdict.status is Status.CERTIFIED and not verdict.next_stage
            if (attack := unattacked_by(verdict, later))
        ]

    def _run(self, stage: Stage, ids: Sequence[int], threat_model: ThreatModel) -> None:
        """Run a stage on some examples; each batch is kept before the next."""

        def work(batch: Sequence[int]) -> Sequence[Result]:
            self.reports.forecast.batch(len(batch))
            return stage.run(self._batch(batch, threat_model))

        self.reports.enter(stage.name, len(ids), self._verdicts, self._total)
        later = self._later(self.stages.index(stage))
        self._examples.left |= dict.fromkeys(ids, stage.name)
        for metered in self._batching.over(
            ids,
            work,
            stage=stage.name,
            example_id=int,
            copies=stage.copies,
            at_most=stage.at_most,
        ):
            after = [
                self._after(stage, i, result, threat_model, later)
                for i, result in zip(metered.items, metered.result, strict=True)
            ]
            spent = [result.spent for result in metered.result]
            # Those that an attack leaves certified were decided before.
            kept = Status.CERTIFIED if _is_attack(stage) else Status.UNDECIDED
            cost = stage_cost(
                stage.name,
                threat_model.eps,
                metered,
                spent,
                examples=len(after),
                decided=sum(v.status not in (Status.UNDECIDED, kept) for v in after),
            )
            self._examples.keep(charge(after, metered, spent), cost)
            for i in metered.items:
                del self._examples.left[i]
            self.reports.finish(len(after), self._verdicts, self._total)
            raise_counterexamples(self.store, self.key, self.spec.model)
            self._report(threat_model, stage.name)
        self.reports.forecast.leave()

    def _raise_failure(self, threat_model: ThreatModel) -> None:
        """Raise MachineError where the machine left examples behind."""
        if not self._examples.left:
            return
        stages = ", ".join(sorted(set(self._examples.left.values())))
        raise MachineError(
            f"{len(self._examples.left)} of {self._total} examples at eps "
            f"{format_eps(threat_model.eps)} wait for {stages}, because the machine "
            f"failed ({self._batching.failure}); what was computed is kept. Free memory and disk "
            "space, and the same command goes on; what needs more than this machine has can be "
            "left out by the options attacks and certifiers"
        )

    def _after(
        self,
        stage: Stage,
        example_id: int,
        result: Result,
        threat_model: ThreatModel,
        later: Sequence[Later],
    ) -> Verdict:
        """Return the next state of an example; later: the stages after this one."""
        eps = threat_model.eps
        if isinstance(result, Classified):
            label = self._examples.label(example_id)
            return initial_verdict(example_id, label, result, eps, later)
        verdict, flag = self._examples.verdicts[example_id], ""
        if isinstance(result, Broken) and verdict.certified_radius >= result.hit.distance:
            if not any(verdict.certifier in prover.probabilistic for prover in self.stages):
                x = self._examples.image(example_id)
                record_counterexample(self.store, self.key, verdict, threat_model, result.hit, x)
            else:
                flag = describe_hit(verdict, result.hit)
        return advance(verdict, stage.name, result, later, flag=flag)

    def _later(self, place: int = 0) -> list[Later]:
        """Return the stages after the one at a place."""
        return [Later(stage.name, not _is_attack(stage)) for stage in self.stages[place + 1 :]]

    def _later_to_audit(self, place: int) -> list[Later]:
        """Return the stages after the one at a place, but none that signs are missing for."""
        on_signs = {s.name for s in self.stages if s.only_on_signs}
        if self._signs.known:
            on_signs = set()
        return [later for later in self._later(place) if later.name not in on_signs]

    # Signs of masked gradients

    def _signs_at(self, threat_model: ThreatModel, waiting: Sequence[int]) -> list[Sign] | None:
        """Return the signs of masked gradients at one eps, or None where the machine failed.

        Those of the model are sought once. waiting: the examples that are charged with the passes.
        """
        eps = threat_model.eps
        if not self._signs.known and not self._signs.looked:
            metered = self._signs.look(self._examples, self._batching, self.spec.seed)
            if metered is None:
                return None
            verdicts = [self._examples.verdicts[i] for i in waiting]
            cost = stage_cost("signs", eps, metered, examples=len(metered.items[0]), decided=0)
            self._examples.keep(charge(verdicts, metered, [None] * len(waiting)), cost)
        attacks = self.spec.attacks_run(self.flags, on_signs=False)
        return self._signs.find(eps, self._verdicts, attacks)

    # Flags

    def _has_changed(self) -> bool:
        known_to_be_none = self.flags & NOT_A_FUNCTION
        return not known_to_be_none and self.model.has_changed()

    def _flag(self, *found: str) -> None:
        """Keep what was found out about the model, and act on it."""
        new = set(found) - self.flags
        if not new:
            return
        self.flags |= new
        self.store.add_flags(self.key, sorted(new))
        self.stages = self.plan.stages(self.flags)
        if self.spec.voids_certificates(new):
            log.warning("the model is no function of its input: %s", ", ".join(sorted(new)))
        self._withdraw()

    def _test_model(self) -> None:
        """Test the model and its claims before passes are made; nothing is proved of it yet."""
        self._tested = True
        self.model.watch_content()
        if not self.model.examined:
            self._flag(*self.model.examine())
        if REFUTED_BOUND in self.flags or self.spec.voids_certificates(self.flags):
            return
        refuted = self.plan.refute_bounds()
        if refuted:
            log.warning("%s", refuted)
            reasons = dict.fromkeys(self.plan.declared_labels, refuted)
            self.record = replace(
                self.record, not_applicable={**self.record.not_applicable, **reasons}
            )
            self._flag(REFUTED_BOUND)

    def _withdraw(self) -> None:
        """Withdraw the certificates that flags void, at every eps."""
        if self.spec.voids_certificates(self.flags):
            void = ", ".join(sorted(self.flags & NOT_A_FUNCTION))
            self._withdraw_from(None, f"the model is no function of its input: {void}")
        elif REFUTED_BOUND in self.flags:
            self._withdraw_from(self.plan.declared_labels, "the model's own bound is wrong")

    def _hold_claims(self, threat_model: ThreatModel) -> None:
        """Withdraw what rests on the model's word where every attack that was to test it failed."""
        labels = self.plan.declared_labels
        if audit_failed(self._verdicts, labels):
            why = "the model states its bound itself, and every attack on a certificate failed"
            self._withdraw_from(labels, why)
            self._load(threat_model)
            self._decide(threat_model)

    def _withdraw_from(self, labels: Collection[str] | None, why: str) -> None:
        """Withdraw the certificates of some certifiers, or of all, at every eps.

        The examples that they spared are attacked.
        """
        if self._examples.withdraw(labels, why, self._later()):
            self.withdrew = True

    # Store, tensors, progress

    def _load(self, threat_model: ThreatModel) -> None:
        self._examples.load(threat_model.eps)
        self._signs.load(threat_model.eps)
        attacks = self.spec.attacks_run(self.flags, on_signs=True)
        self._suspect = spares_none(self._examples.others, attacks, signs=(), flags=())

    @property
    def _verdicts(self) -> Collection[Verdict]:
        return self._examples.verdicts.values()

    @property
    def _total(self) -> int:
        return len(self._examples.wanted)

    def _batch(self, ids: Sequence[int], threat_model: ThreatModel) -> Batch:
        x, y = self._examples.tensors(ids)
        before = [self._examples.verdicts.get(i) for i in ids]
        return Batch(
            ids=ids,
            x=x,
            y=y,
            threat_model=threat_model,
            audited=[v is not None and v.status is Status.CERTIFIED for v in before],
            size=self._batching.size,
            seed=self.spec.seed,
            tell=self.reports.forecast.tell,
        )

    def _report(self, threat_model: ThreatModel, stage: str) -> None:
        self.reports.report(threat_model.eps, stage, self._verdicts, self._total)


def _is_attack(stage: Stage) -> bool:
    return stage.phase in (Phase.FIRST_ATTACK, Phase.ATTACKS)


def _example_id(verdict: Verdict) -> int:
    return verdict.example_id
