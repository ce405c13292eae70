"""Sweeps: models x data sets x threat models x seeds, split into shards that an engine runs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from robustbench_dyn.datasets.forms import with_absolute_paths
from robustbench_dyn.errors import InputError, shown
from robustbench_dyn.isolation.limits import Limits
from robustbench_dyn.models.sources import absolute_name
from robustbench_dyn.plugins import load_plugins, trust_plugins
from robustbench_dyn.results.sampling import is_spared, spares_none
from robustbench_dyn.results.store import Store
from robustbench_dyn.sweeps.engines import ENGINES, Event
from robustbench_dyn.sweeps.shards import Shard
from robustbench_dyn.sweeps.sweep_file import Subject, Sweep, check_sweep


@dataclass
class Outcome:
    """The result of a sweep: one leaderboard row for each finished evaluation and eps.

    failed and unsound: the shards that did not finish, with the reason.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[Shard, str] = field(default_factory=dict)
    unsound: dict[Shard, str] = field(default_factory=dict)


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
    check_sweep(config, data_dir, trust=trust)
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
