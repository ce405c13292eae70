"""Sweeps: models x data sets x threat models x seeds, split into shards that an engine runs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from robustbench_dyn.attacks.catalogue import resolve_attacks
from robustbench_dyn.certification.catalogue import named_certifiers
from robustbench_dyn.datasets import dataset_info
from robustbench_dyn.datasets.forms import with_absolute_paths
from robustbench_dyn.errors import InputError, shown
from robustbench_dyn.isolation.limits import Limits
from robustbench_dyn.models.loading import check_model
from robustbench_dyn.models.sources import absolute_name, is_from_source, source_of
from robustbench_dyn.plugins import load_plugins, trust_plugins
from robustbench_dyn.results.sampling import is_spared, spares_none
from robustbench_dyn.results.store import Store
from robustbench_dyn.smoothing.statistics import Smoothing
from robustbench_dyn.strict_yaml import Eps, StrictFile, read_yaml, refuse_truth
from robustbench_dyn.sweeps.engines import ENGINES, Event
from robustbench_dyn.sweeps.shards import Shard
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


@dataclass
class Outcome:
    """The result of a sweep: one leaderboard row for each finished evaluation and eps.

    failed and unsound: the shards that did not finish, with the reason.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[Shard, str] = field(default_factory=dict)
    unsound: dict[Shard, str] = field(default_factory=dict)


def read_sweep(path: Path) -> Sweep:
    """Read sweep.yaml strictly; raises InputError where it breaks the schema."""
    return read_yaml(path, Sweep)


def sweep(
    config: Sweep,
    store: Path,
    *,
    engine: str = "local",
    workers: int | None = None,
    device: str = "cpu",
    plugins: tuple[Path, ...] = (),
    trust: bool = False,
    limits: Limits | None = None,
    data_dir: Path | None = None,
    progress: Callable[[Event, int], None] | None = None,
) -> Outcome:
    """Run a sweep; verdicts that the store already holds are not computed again.

    workers: by default one per core, and never more than there are shards; the cores are divided
    between them. trust and limits: of plugins' code, see load_plugins and limit_plugins. progress:
    called with every event and the number of shards. Raises InputError, before anything runs, for
    an unknown name, a bad eps or a combination that does not exist.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers} must be at least 1")
    # Whether it is there is for the workers to find out; this process does not import torch.
    if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:[0-9]{1,3})?", device):
        raise InputError(f"device={shown(device)} is unknown; give cpu or cuda")
    run = ENGINES.get(engine)
    load_plugins(*plugins)
    if trust:
        trust_plugins()
    folders = tuple(folder.resolve() for folder in plugins)
    _check(config, data_dir, trust=trust)
    config = _anywhere(config)
    shards = list(_split(config, device=device, plugins=folders, data_dir=data_dir))
    workers = min(workers or _cores(), len(shards))
    shards = [replace(shard, trust=trust, limits=limits) for shard in shards]
    shards = [replace(shard, threads=max(1, _cores() // workers)) for shard in shards]
    # Create the store before the workers start, so that they do not race to create it.
    Store(store).close()
    outcome, keys = Outcome(), dict[Shard, str]()

    def events() -> Iterator[Event]:
        yield from run(shards, store, workers)
        # An attack may find nothing on one shard's sample, and something on another's.
        if owing := _sampled_too_little(store, keys):
            yield from run(owing, store, workers)

    for event in events():
        told = event.state in ("started", "done") and event.shard in keys
        if event.state == "done":
            keys[event.shard] = event.message
        elif event.state == "failed":
            outcome.failed[event.shard] = event.message
        elif event.state == "unsound":
            outcome.unsound[event.shard] = event.message
        if progress is not None and not told:
            progress(event, len(shards))
    ended_badly = outcome.failed.keys() | outcome.unsound.keys()
    # In the order of the shards, and not in that of their ends.
    done = {shard: keys[shard] for shard in shards if shard in keys and shard not in ended_badly}
    outcome.rows = _rows(config, store, done)
    return outcome


def _split(
    config: Sweep, *, device: str, plugins: tuple[Path, ...], data_dir: Path | None
) -> Iterator[Shard]:
    # Workers may run in another folder.
    datasets = dict.fromkeys(map(with_absolute_paths, config.datasets))
    seeds = dict.fromkeys(config.seeds)
    for (model, smoothing, weights, certifiers), sizes in config.sizes.items():
        for dataset, grid, seed in product(datasets, config.threat_models, seeds):
            n_examples = sizes.get(grid.norm, 0)
            size = config.examples_per_shard or max(1, n_examples)
            for start in range(0, n_examples, size):
                yield Shard(
                    model=model,
                    dataset=dataset,
                    norm=grid.norm,
                    eps=grid.eps,
                    seed=seed,
                    start=start,
                    stop=min(start + size, n_examples),
                    attacks=config.attacks,
                    certifiers=certifiers,
                    certify_seconds=config.certify_seconds,
                    batch_size=config.batch_size,
                    device=device,
                    plugins=plugins,
                    data_dir=data_dir,
                    smoothing=smoothing,
                    weights=weights,
                )


def _anywhere(config: Sweep) -> Sweep:
    """Return a sweep whose files are found from the folder of any worker."""
    models = tuple(
        entry.model_copy(
            update={
                "name": absolute_name(entry.name),
                "weights": entry.weights and entry.weights.resolve(),
            }
        )
        for entry in config.models
    )
    return config.model_copy(update={"models": models})


def _check(config: Sweep, data_dir: Path | None, *, trust: bool) -> None:
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


def _rows(config: Sweep, path: Path, keys: dict[Shard, str]) -> list[dict[str, Any]]:
    """Return the rows of the evaluations whose shards are all done."""
    # It imports torch, which a sweep that is refused must not wait for.
    from robustbench_dyn.evaluation.api import finalise_run  # noqa: PLC0415

    done: dict[tuple[int, str, tuple[float, ...]], int] = {}
    sizes = config.sizes
    for shard, key in keys.items():
        subject = Subject(shard.model, shard.smoothing, shard.weights, shard.certifiers)
        evaluation = sizes[subject][shard.norm], key, shard.eps
        done[evaluation] = done.get(evaluation, 0) + shard.stop - shard.start
    rows, store = [], Store(path)
    for (n_examples, key, grid), n_done in done.items():
        if n_done < n_examples:
            continue
        for eps in grid:
            verdicts = store.verdicts(key, eps)
            first = [v for v in verdicts if v.example_id < n_examples]
            rows.append(finalise_run(store, key, eps, first))
    store.close()
    return rows


def _sampled_too_little(path: Path, keys: dict[Shard, str]) -> list[Shard]:
    """Return the shards that spared examples an attack which has to run on all, for others' sake.

    keys: of the shards that are done.
    """
    store, owing = Store(path), list[Shard]()
    for shard, key in keys.items():
        flags = store.flags(key)
        attacks = store.record(key).spec.attacks_run(flags, on_signs=True)
        sampled = [attack.name for attack in attacks if attack.sampled]
        for eps in shard.eps if sampled else ():
            verdicts = list(store.verdicts(key, eps))
            own = [v for v in verdicts if shard.start <= v.example_id < shard.stop]
            if any(is_spared(v, name) for v in own for name in sampled) and spares_none(
                verdicts, attacks, signs=store.signs(key, eps), flags=flags
            ):
                owing.append(shard)
                break
    store.close()
    return owing


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system has it
        return os.cpu_count() or 1
