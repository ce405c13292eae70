"""One piece of a sweep, small enough to be lost: a model on some examples under one norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robustbench_dyn.errors import SoundnessError
from robustbench_dyn.threat_models import Norm, ThreatModel

if TYPE_CHECKING:
    from robustbench_dyn.evaluation.api import Evaluation
    from robustbench_dyn.evaluation.pipeline import Progress
    from robustbench_dyn.results.spec import EvaluationSpec
    from robustbench_dyn.smoothing.statistics import Smoothing


@dataclass(frozen=True)
class Shard:
    """What one worker does at a time: examples start ... stop - 1, all eps of one norm, one seed.

    smoothing: what is evaluated is the smoothed classifier of the model, by the attack in
    expectation over noise (or none, where attacks is "none") and by smoothing's own certificate.
    threads: of torch; the last digits of a verdict's numbers may depend on it.
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
    data_dir: Path | None = None
    smoothing: Smoothing | None = None

    def __str__(self) -> str:
        return (
            f"{self.name} {self.dataset} {self.norm} seed {self.seed} "
            f"examples {self.start}-{self.stop - 1}"
        )

    @property
    def name(self) -> str:
        """What the tables call the model."""
        return self.smoothing.name_of(self.model) if self.smoothing else self.model

    def matches(self, spec: EvaluationSpec) -> bool:
        """Say whether an evaluation of this spec may have begun this shard."""
        begun = (self.name, self.dataset, self.norm, self.seed)
        return begun == (spec.model, spec.dataset, spec.norm, spec.seed)


def try_shard(
    shard: Shard, store: Path, progress: Callable[[Progress], None] | None = None
) -> tuple[Literal["done", "failed", "unsound"], str]:
    """Run a shard; say how it ended, and its key in the store or what went wrong."""
    try:
        return "done", run_shard(shard, store, progress)
    except SoundnessError as error:
        return "unsound", str(error)
    # Somebody's plugin may raise anything: it fails its own shard.
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"


def run_shard(shard: Shard, store: Path, progress: Callable[[Progress], None] | None = None) -> str:
    """Bring a shard's examples to their verdicts in a store; return the key they have there.

    What the store knows already is not computed again. Raises what evaluate_grid and
    evaluate_smoothed raise.
    """
    # Imported by the worker that does the work, and not by the one that hands it out.
    import torch  # noqa: PLC0415

    from robustbench_dyn.datasets import load_dataset  # noqa: PLC0415
    from robustbench_dyn.evaluation.api import evaluate_grid  # noqa: PLC0415
    from robustbench_dyn.models.loading import load_model  # noqa: PLC0415
    from robustbench_dyn.smoothing import evaluate_smoothed  # noqa: PLC0415

    torch.set_num_threads(shard.threads)
    data = load_dataset(shard.dataset, n_examples=shard.stop, data_dir=shard.data_dir)
    data = data.rows(shard.start, shard.stop)
    model = load_model(shard.model, dataset=shard.dataset, norm=shard.norm, plugins=shard.plugins)
    threat_models = [ThreatModel(shard.norm, eps) for eps in shard.eps]
    common: dict[str, Any] = {
        "seed": shard.seed, "batch_size": shard.batch_size, "device": shard.device,
        "store": store, "progress": progress,
    }  # fmt: skip
    if shard.smoothing is None:
        evaluations: Sequence[Evaluation] = evaluate_grid(
            model, data, threat_models, attacks=shard.attacks, certifiers=shard.certifiers, **common
        )
    else:
        evaluations = evaluate_smoothed(
            model, data, threat_models, shard.smoothing, attacked=shard.attacks != "none", **common
        ).evaluations
    return evaluations[0].key
