"""A sweep: models x data sets x threat models x seeds, as shards that an engine runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from robustbench_dyn.attacks.catalogue import resolve_attacks
from robustbench_dyn.certification.catalogue import named_certifiers
from robustbench_dyn.datasets import dataset_info
from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.api import finalise_run
from robustbench_dyn.models.architectures import split_name
from robustbench_dyn.models.loading import discover
from robustbench_dyn.results.store import Store
from robustbench_dyn.smoothing.statistics import Smoothing
from robustbench_dyn.strict_yaml import Eps, StrictFile, read_yaml
from robustbench_dyn.sweeps.engines import ENGINES, Event
from robustbench_dyn.sweeps.shards import Shard
from robustbench_dyn.threat_models import Norm, ThreatModel

Some = Field(min_length=1)
Count = Annotated[int, Field(ge=1)]


class Radii(StrictFile):
    """All eps of one norm; they share their work, so they belong to one shard."""

    norm: Norm
    eps: Annotated[tuple[Eps, ...], Some]


class Entry(StrictFile):
    """A model of a sweep.

    name: NAME or NAME/VARIANT. n_examples: of its own, where it has its own. smoothing: where it is
    there, the model is the smoothed classifier of the one that is named.
    """

    name: str
    n_examples: Count | None = None
    smoothing: Smoothing | None = None


ModelEntry = Annotated[
    Entry, BeforeValidator(lambda entry: {"name": entry} if isinstance(entry, str) else entry)
]


class Sweep(StrictFile):
    """What sweep.yaml holds.

    models: names, or mappings with the keys of Entry. A smoothed classifier takes part in L2 alone:
    it is certified by its own certificate, and attacked in expectation over noise, unless attacks
    is "none".
    examples_per_shard: how many examples a worker takes at a time; by default all of them, and
    fewer where one evaluation is to be spread over several workers.
    """

    models: Annotated[tuple[ModelEntry, ...], Some]
    datasets: Annotated[tuple[str, ...], Some]
    threat_models: Annotated[tuple[Radii, ...], Some]
    n_examples: Count
    seeds: Annotated[tuple[int, ...], Some]
    attacks: str = "standard"
    certifiers: str = "auto"
    batch_size: Count = 250
    examples_per_shard: Count | None = None

    @property
    def sizes(self) -> dict[tuple[str, Smoothing | None], int]:
        """How many examples each model is tried on; of a model named twice, the last says."""
        return {
            (entry.name, entry.smoothing): entry.n_examples or self.n_examples
            for entry in self.models
        }


@dataclass
class Outcome:
    """How a sweep ended: a leaderboard row for each evaluation and eps that came to its end.

    failed and unsound: the shards that did not, with the reason.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[Shard, str] = field(default_factory=dict)
    unsound: dict[Shard, str] = field(default_factory=dict)


def read_sweep(path: Path) -> Sweep:
    """Read sweep.yaml strictly; raises InputError where it breaks the schema."""
    return read_yaml(path, Sweep)


def sweep(
    content: Sweep,
    store: Path,
    *,
    engine: str = "local",
    workers: int | None = None,
    device: str = "cpu",
    plugins: tuple[Path, ...] = (),
    data_dir: Path | None = None,
    progress: Callable[[Event, int], None] | None = None,
) -> Outcome:
    """Run a sweep; what the store knows already is not run again.

    workers: by default as many as there are cores and shards; the cores are shared out between
    them. progress: is given every event and the number of shards. Raises InputError, before
    anything is run, where a name, an eps or a combination does not exist.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers} must be at least 1")
    run = ENGINES.get(engine)
    pieces = list(_split(content))
    _check(content, plugins)
    workers = min(workers or _cores(), len(pieces))
    shards = [
        Shard(
            model, dataset, radii.norm, radii.eps, seed, start, stop, content.attacks,
            content.certifiers, content.batch_size, device, max(1, _cores() // workers),
            tuple(folder.resolve() for folder in plugins), data_dir, smoothing,
        )
        for model, smoothing, dataset, radii, seed, start, stop in pieces
    ]  # fmt: skip
    # Made here: workers that start together find it in order.
    Store(store).close()
    outcome, keys = Outcome(), dict[Shard, str]()
    for event in run(shards, store, workers):
        if event.state == "done":
            keys[event.shard] = event.message
        elif event.state in ("failed", "unsound"):
            getattr(outcome, event.state)[event.shard] = event.message
        if progress is not None:
            progress(event, len(shards))
    outcome.rows = _rows(content, store, keys)
    return outcome


def _split(
    content: Sweep,
) -> Iterator[tuple[str, Smoothing | None, str, Radii, int, int, int]]:
    for (model, smoothing), n_examples in content.sizes.items():
        size = content.examples_per_shard or n_examples
        for dataset in dict.fromkeys(content.datasets):
            for radii in content.threat_models:
                if smoothing and radii.norm != "L2":
                    continue
                for seed in dict.fromkeys(content.seeds):
                    for start in range(0, n_examples, size):
                        stop = min(start + size, n_examples)
                        yield model, smoothing, dataset, radii, seed, start, stop


def _check(content: Sweep, plugins: tuple[Path, ...]) -> None:
    registry = discover(plugins)
    infos = [dataset_info(name) for name in content.datasets]
    norms = [radii.norm for radii in content.threat_models]
    for (model, smoothing), n_examples in content.sizes.items():
        if smoothing and "L2" not in norms:
            raise InputError(
                f"{smoothing.name_of(model)} is a smoothed classifier, whose certificate is one of "
                f"L2, and the sweep asks for {', '.join(norms)} alone; add L2 or drop it"
            )
        name, variant = split_name(model)
        architecture = registry.get(name)
        for info in infos:
            architecture.weights_for(info.name, variant=variant)
            if n_examples > info.sizes["test"]:
                raise InputError(
                    f"n_examples={n_examples}, but {info.name} has {info.sizes['test']} "
                    "test examples"
                )
    for info in infos:
        for radii in content.threat_models:
            resolve_attacks(content.attacks, radii.norm, info.n_classes)
            for eps in radii.eps:
                ThreatModel(radii.norm, eps).check_input_shape(info.input_shape)
    if len(set(norms)) < len(norms):
        raise InputError("a norm stands twice under threat_models; give it once, with all its eps")
    named_certifiers(content.certifiers)


def _rows(content: Sweep, path: Path, keys: dict[Shard, str]) -> list[dict[str, Any]]:
    """Return the rows of the evaluations of which every shard is done."""
    done: dict[tuple[int, str, tuple[float, ...]], int] = {}
    for shard, key in keys.items():
        evaluation = (content.sizes[shard.model, shard.smoothing], key, shard.eps)
        done[evaluation] = done.get(evaluation, 0) + shard.stop - shard.start
    rows, store = [], Store(path)
    for (n_examples, key, radii), n_done in done.items():
        if n_done < n_examples:
            continue
        for eps in radii:
            verdicts = store.verdicts(key, eps)
            first = [v for v in verdicts if v.example_id < n_examples]
            rows.append(finalise_run(store, key, eps, first))
    store.close()
    return rows


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system says what this process may use
        return os.cpu_count() or 1
