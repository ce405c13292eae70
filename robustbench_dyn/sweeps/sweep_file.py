"""Sweep files: the models, data sets, threat models and seeds that a sweep evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from robustbench_dyn.attacks.catalogue import resolve_attacks
from robustbench_dyn.certification.catalogue import named_certifiers
from robustbench_dyn.datasets import dataset_info
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.loading import check_model
from robustbench_dyn.models.sources import is_from_source, source_of
from robustbench_dyn.smoothing.statistics import Smoothing
from robustbench_dyn.strict_yaml import Eps, StrictFile, read_yaml, refuse_truth
from robustbench_dyn.threat_models import Norm, ThreatModel

NonEmpty = Field(min_length=1)
PositiveInt = Annotated[int, BeforeValidator(refuse_truth), Field(ge=1)]
# For all norms, or for each; a bad entry is named as n_examples.number or n_examples.norms.L2.
Sizes = Annotated[
    Annotated[PositiveInt, Tag("number")] | Annotated[dict[Norm, PositiveInt], Tag("norms")],
    Discriminator(lambda given: "norms" if isinstance(given, dict) else "number"),
]
Seconds = Annotated[float, BeforeValidator(refuse_truth), Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, BeforeValidator(refuse_truth)]
# Each is a process's work of seconds at least, and an entry of a list here.
MOST_SHARDS = 100_000


class ThreatModelGrid(StrictFile):
    """All eps of one norm; they share their work, so a shard evaluates all of them."""

    norm: Norm
    eps: Annotated[tuple[Eps, ...], NonEmpty]


class Subject(NamedTuple):
    """What a sweep evaluates: a model, maybe smoothed, maybe with weights from a file, and how."""

    model: str
    smoothing: Smoothing | None
    weights: Path | None
    certifiers: str


class ModelEntry(StrictFile):
    """A model of a sweep; a plain string stands for its name.

    name: NAME or NAME/VARIANT, or SOURCE:REFERENCE (models.sources). n_examples: overrides the
    number of the sweep, in all norms or in those that it names, as in {L2: 10000}. smoothing: where
    given, the sweep evaluates the smoothed classifier of the model. weights: a file of weights, for
    a source that takes one. certifiers: override those of the sweep, as in
    "auto,complete:seconds=300" for a network on which a search takes too long.
    """

    name: str
    n_examples: Sizes | None = None
    smoothing: Smoothing | None = None
    weights: Path | None = None
    certifiers: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_name(cls, entry: object) -> object:
        return {"name": entry} if isinstance(entry, str) else entry

    @model_validator(mode="after")
    def _check_certifiers(self) -> Self:
        if self.smoothing and self.certifiers:
            raise ValueError(
                "a smoothed classifier is certified by its own certificate; drop certifiers"
            )
        return self


class Sweep(StrictFile):
    """The content of sweep.yaml.

    models: names, or mappings with the keys of ModelEntry. A smoothed classifier is evaluated in
    L2 only: it is certified by its own certificate, and attacked in expectation over the noise,
    unless attacks is "none".
    certify_seconds: that the certifiers of a shard may take at each eps; by default no budget.
    examples_per_shard: how many examples a worker takes at a time; by default all of them. Give
    fewer to spread one evaluation over several workers.
    """

    models: Annotated[tuple[ModelEntry, ...], NonEmpty]
    datasets: Annotated[tuple[str, ...], NonEmpty]
    threat_models: Annotated[tuple[ThreatModelGrid, ...], NonEmpty]
    n_examples: PositiveInt
    seeds: Annotated[tuple[Seed, ...], NonEmpty]
    attacks: str = "standard"
    certifiers: str = "auto"
    certify_seconds: Seconds | None = None
    batch_size: PositiveInt = 250
    examples_per_shard: PositiveInt | None = None

    @property
    def sizes(self) -> dict[Subject, dict[Norm, int]]:
        """Return the number of examples of each model in each norm that it is evaluated in.

        The last entry of a model counts.
        """
        return {
            Subject(
                entry.name, entry.smoothing, entry.weights, entry.certifiers or self.certifiers
            ): self._sizes_of(entry)
            for entry in self.models
        }

    def _sizes_of(self, entry: ModelEntry) -> dict[Norm, int]:
        norms = [grid.norm for grid in self.threat_models]
        own = entry.n_examples
        if not isinstance(own, dict):
            own = dict.fromkeys(norms, own or self.n_examples)
        return {
            norm: own.get(norm, self.n_examples)
            for norm in norms
            if norm == "L2" or not entry.smoothing
        }


def read_sweep(path: Path) -> Sweep:
    """Read sweep.yaml strictly; raises InputError where it breaks the schema."""
    return read_yaml(path, Sweep)


def check_sweep(config: Sweep, data_dir: Path | None, *, trust: bool) -> None:
    """Raise InputError for an unknown name, a bad eps or a combination that does not exist.

    trust: whether files that the sweep names may run their code in this process.
    """
    infos = [dataset_info(name, data_dir=data_dir) for name in config.datasets]
    norms = [grid.norm for grid in config.threat_models]
    for entry in config.models:
        named = entry.n_examples if isinstance(entry.n_examples, dict) else {}
        if missing := sorted(named.keys() - set(norms)):
            raise InputError(
                f"n_examples of {entry.name} names {', '.join(missing)}, and the sweep has "
                f"{', '.join(norms)} only; drop it or add a threat model"
            )
    for (model, smoothing, weights, _), sizes in config.sizes.items():
        if smoothing and not sizes:
            raise InputError(
                f"{smoothing.name_of(model)} is a smoothed classifier, which is certified in L2 "
                f"only, and the sweep has {', '.join(norms)} only; add L2 or drop it"
            )
        if is_from_source(model) and source_of(model).source.runs_own_code and not trust:
            raise InputError(
                f"{model} is code of a file that the sweep names, and would run inside this "
                "process; read it, and say --trust"
            )
        for info in infos:
            check_model(model, dataset=info.name, weights=weights)
            if max(sizes.values()) > info.sizes["test"]:
                raise InputError(
                    f"n_examples={max(sizes.values())}, but {info.name} has {info.sizes['test']} "
                    "test examples"
                )
    for info in infos:
        for grid in config.threat_models:
            resolve_attacks(config.attacks, grid.norm, info.n_classes)
            for eps in grid.eps:
                ThreatModel(grid.norm, eps).check_input_shape(info.input_shape)
    if len(set(norms)) < len(norms):
        raise InputError("threat_models lists a norm twice; list it once, with all its eps")
    own = (subject.certifiers for subject in config.sizes)
    for certifiers in dict.fromkeys([config.certifiers, *own]):
        named_certifiers(certifiers)
    _check_number_of_shards(config)


def _check_number_of_shards(config: Sweep) -> None:
    n_shards = sum(
        -(-n_examples // (config.examples_per_shard or n_examples))
        for sizes in config.sizes.values()
        for n_examples in sizes.values()
    )
    n_shards *= len(config.datasets) * len(config.seeds)
    if n_shards > MOST_SHARDS:
        raise InputError(
            f"the sweep has {n_shards:,} shards, and at most {MOST_SHARDS:,} are possible; give "
            "more examples_per_shard, or split it into several sweeps"
        )
