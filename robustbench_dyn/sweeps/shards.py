"""Shards, the units of work of a sweep: one model on a range of examples under one norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robustbench_dyn.errors import SoundnessError
from robustbench_dyn.threat_models import Norm, ThreatModel

if TYPE_CHECKING:
    from robustbench_dyn.evaluation.api import Evaluation
    from robustbench_dyn.isolation.limits import Limits
    from robustbench_dyn.progress.report import Progress
    from robustbench_dyn.results.spec import EvaluationSpec
    from robustbench_dyn.smoothing.statistics import Smoothing


@dataclass(frozen=True)
class Shard:
    """One unit of work: a model on the examples start ... stop - 1, all eps of one norm, one seed.

    smoothing: where given, the shard evaluates the smoothed classifier of the model: with the
    attack in expectation over the noise, unless attacks is "none", and with smoothing's own
    certificate. threads: number of torch threads; the last digits of a verdict's numbers may
    depend on it.
    """

    model: str
    dataset: str
    norm: Norm
    eps: tuple[float, ...]
    seed: int
    start: int
    stop: int
    attacks: str = "standard"
    certifiers: str = "auto"
    batch_size: int = 250
    device: str = "cpu"
    threads: int = 1
    plugins: tuple[Path, ...] = ()
    trust: bool = False
    limits: Limits | None = None
    data_dir: Path | None = None
    smoothing: Smoothing | None = None

    def __str__(self) -> str:
        return (
            f"{self.name} {self.dataset} {self.norm} seed {self.seed} "
            f"examples {self.start}-{self.stop - 1}"
        )

    @property
    def name(self) -> str:
        """The name of the model in the tables."""
        return self.smoothing.name_of(self.model) if self.smoothing else self.model

    def matches(self, spec: EvaluationSpec) -> bool:
        """Return whether the evaluation of this spec may hold verdicts of this shard."""
        expected = (self.name, self.dataset, self.norm, self.seed)
        return expected == (spec.model, spec.dataset, spec.norm, spec.seed)


def try_shard(
    shard: Shard, store: Path, progress: Callable[[Progress], None] | None = None
) -> tuple[Literal["done", "failed", "unsound"], str]:
    """Run a shard; return how it ended, and its key in the store or the error."""
    try:
        return "done", run_shard(shard, store, progress)
    except SoundnessError as error:
        return "unsound", str(error)
    # A plugin may raise any exception, or call sys.exit(); only its own shard fails.
    except (Exception, SystemExit) as error:
        return "failed", f"{type(error).__name__}: {error}"


def run_shard(shard: Shard, store: Path, progress: Callable[[Progress], None] | None = None) -> str:
    """Evaluate a shard into a store; return the key of its evaluation there.

    Verdicts that the store already holds are not computed again. Raises what evaluate_grid and
    evaluate_smoothed raise.
    """
    # Imported by the worker that runs the shard; the process that schedules shards stays light.
    import torch  # noqa: PLC0415

    from robustbench_dyn.datasets import load_dataset  # noqa: PLC0415
    from robustbench_dyn.evaluation.api import evaluate_grid  # noqa: PLC0415
    from robustbench_dyn.models.loading import load_model  # noqa: PLC0415
    from robustbench_dyn.plugins import limit_plugins, load_plugins, trust_plugins  # noqa: PLC0415
    from robustbench_dyn.smoothing import evaluate_smoothed  # noqa: PLC0415

    torch.set_num_threads(shard.threads)
    load_plugins(*shard.plugins)
    if shard.trust:
        trust_plugins()
    if shard.limits is not None:
        limit_plugins(shard.limits)
    data = load_dataset(shard.dataset, n_examples=shard.stop, data_dir=shard.data_dir)
    data = data.rows(shard.start, shard.stop)
    model = load_model(shard.model, dataset=shard.dataset, norm=shard.norm)
    threat_models = [ThreatModel(shard.norm, eps) for eps in shard.eps]
    common: dict[str, Any] = {
        "seed": shard.seed,
        "batch_size": shard.batch_size,
        "device": shard.device,
        "store": store,
        "progress": progress,
    }
    if shard.smoothing is None:
        evaluations: Sequence[Evaluation] = evaluate_grid(
            model, data, threat_models, attacks=shard.attacks, certifiers=shard.certifiers, **common
        )
    else:
        evaluations = evaluate_smoothed(
            model, data, threat_models, shard.smoothing, attacked=shard.attacks != "none", **common
        ).evaluations
    return evaluations[0].key
