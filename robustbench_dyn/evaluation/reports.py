"""The reports of a pipeline's progress: to a function after each batch, to a display at will."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from robustbench_dyn.certification.base import Phase
from robustbench_dyn.evaluation.outcomes import Stage
from robustbench_dyn.models.counting import CountingModel
from robustbench_dyn.progress.forecast import Forecast, Outlook, Tally
from robustbench_dyn.progress.report import Progress, Watch, progress_of
from robustbench_dyn.results.spec import EvaluationSpec
from robustbench_dyn.results.summary import count_statuses
from robustbench_dyn.results.verdicts import Outcome, Status, Verdict

# The share of its examples that a stage leaves undecided, before anything is measured: about what
# it was for the models in the tables.
_KEPT = {
    Phase.CLEAN: 0.8,
    Phase.BEFORE_ATTACKS: 0.8,
    Phase.FIRST_ATTACK: 0.8,
    Phase.AFTER_FIRST_ATTACK: 0.8,
    Phase.ATTACKS: 0.97,
    Phase.LAST: 0.5,
}


class Reports:
    """The reports of one pipeline.

    sought: see Progress. report: called with each Progress, if it is given; where it has a method
    `watch`, as displays do, that gets a function which returns the state at any moment, in any
    thread.
    """

    def __init__(
        self,
        network: CountingModel,
        spec: EvaluationSpec,
        report: Callable[[Progress], None] | None,
    ) -> None:
        self._model, self._norm, self._report = spec.model, spec.norm, report
        self.forecast = Forecast(
            lambda: network.forward_passes + network.backward_passes,
            speed=lambda: network.seconds_per_pass,
            audit_share=spec.audit_share,
        )
        self.sought = ""
        self._latest: Progress | None = None

    def begin(
        self, eps: float, stages: Sequence[Stage], verdicts: Collection[Verdict], total: int
    ) -> None:
        """Begin an eps; verdicts: those that are known already, of all examples, total."""
        self.forecast.begin([_outlook(stage) for stage in stages], total - len(verdicts))
        self._note(eps, stages[0].name, verdicts, total)
        # Several pipelines may have one display: it shows the one at work.
        watch: Callable[[Watch], None] | None = getattr(self._report, "watch", None)
        if watch is not None:
            watch(self._now)

    def enter(self, stage: str, n: int, verdicts: Collection[Verdict], total: int) -> None:
        """Begin a stage on n examples."""
        self.forecast.enter(stage, n, _tally(verdicts, total))

    def finish(self, n: int, verdicts: Collection[Verdict], total: int) -> None:
        """End a batch of n examples."""
        self.forecast.finish(n, _tally(verdicts, total))

    def report(self, eps: float, stage: str, verdicts: Collection[Verdict], total: int) -> None:
        """Report the state at one eps."""
        latest = self._note(eps, stage, verdicts, total)
        if self._report is not None:
            self._report(latest)

    def _note(self, eps: float, stage: str, verdicts: Collection[Verdict], total: int) -> Progress:
        self._latest = progress_of(eps, stage, verdicts, total)._replace(
            model=self._model,
            norm=self._norm,
            place=max(1, self.forecast.place),
            n_eps=self.forecast.n_eps,
            work=self.forecast.work(),
            sought=self.sought,
        )
        return self._latest

    def _now(self) -> Progress | None:
        latest = self._latest
        return None if latest is None else latest._replace(work=self.forecast.work())


def _outlook(stage: Stage) -> Outlook:
    return Outlook(
        name=stage.name,
        passes=stage.passes,
        kept=_KEPT[stage.phase],
        makes_passes=stage.makes_passes,
        is_attack=stage.phase in (Phase.FIRST_ATTACK, Phase.ATTACKS),
        on_signs=stage.only_on_signs,
        sampled=stage.sampled,
    )


def _tally(verdicts: Collection[Verdict], total: int) -> Tally:
    counts = count_statuses(verdicts)
    return Tally(
        waiting=sum(bool(v.next_stage) for v in verdicts) + total - len(verdicts),
        attacked=sum(bool(v.next_stage) and _attacked_at_larger(v) for v in verdicts),
        decided=len(verdicts) - counts[Status.UNDECIDED],
        certified=counts[Status.CERTIFIED],
        broken=counts[Status.BROKEN],
    )


def _attacked_at_larger(verdict: Verdict) -> bool:
    return any(s.outcome is Outcome.SURVIVED and s.eps > verdict.eps for s in verdict.trail)
