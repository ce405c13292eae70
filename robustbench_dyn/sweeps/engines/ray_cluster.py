"""Ray, on a laptop or a cluster: each shard has a store of its own, which is merged at the end."""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from robustbench_dyn.errors import InputError
from robustbench_dyn.results.exchange import copy_part, merge
from robustbench_dyn.results.store import Store
from robustbench_dyn.sweeps.engines import Event
from robustbench_dyn.sweeps.shards import Shard, try_shard

# So many workers or nodes may die of one shard; a cluster loses nodes for reasons of its own.
_PATIENCE = 20


def run(shards: Sequence[Shard], store: Path, workers: int) -> Iterator[Event]:
    """Run up to `workers` shards at a time on the cluster that RAY_ADDRESS names or that runs here.

    Where there is none, one is started for the time being. See Engine.
    """
    ray = _import_ray()
    ours = not ray.is_initialized()
    if ours:
        ray.init(logging_level="ERROR", log_to_driver=False, configure_logging=False)
    remote = ray.remote(max_retries=0)(_run_remotely)
    waiting, deaths = deque(shards), dict.fromkeys(shards, 0)
    busy: dict[Any, Shard] = {}
    kept = Store(store)
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                shard = waiting.popleft()
                task = remote.options(
                    num_cpus=shard.threads, num_gpus=int(shard.device.startswith("cuda"))
                )
                busy[task.remote(shard, _known(kept, shard))] = shard
                yield Event(shard, "started")
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            shard = busy.pop(ready)
            try:
                state, message, part = ray.get(ready)
            # What the shard raises comes back as a value: this is the cluster's.
            except ray.exceptions.RayError as error:
                deaths[shard] += 1
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                if deaths[shard] < _PATIENCE:
                    waiting.append(shard)
                    yield Event(shard, "died", reason)
                else:
                    yield Event(shard, "failed", f"{_PATIENCE} workers died of it ({reason})")
                continue
            _merge(kept, part)
            yield Event(shard, state, message)
    finally:
        for task in busy:
            ray.cancel(task, force=True)
        kept.close()
        if ours:
            ray.shutdown()


def _run_remotely(shard: Shard, known: bytes) -> tuple[str, str, bytes]:
    """Run a shard on whatever node this is; return how it ended, its key or error, its store."""
    name = hashlib.sha256(repr(shard).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / "dynbench-parts"
    folder.mkdir(exist_ok=True)
    # A worker that died on this node has left it what it had decided.
    path = folder / f"{name}.sqlite"
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_bytes(known)
        partial.replace(path)
    state, message = try_shard(shard, path)
    part = path.read_bytes()
    path.unlink()
    return state, message, part


def _known(store: Store, shard: Shard) -> bytes:
    """Return a store of what is known already of a shard's examples."""
    specs = {key: record.spec for key, record in store.records().items()}
    begun = {key: spec for key, spec in specs.items() if shard.matches(spec)}
    # A smoothed classifier's votes have a key of their own; several evaluations may share them.
    keys = {*begun, *(spec.votes_key() for spec in begun.values() if spec.smoothing)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.sqlite"
        copy_part(store, path, keys, range(shard.start, shard.stop))
        return path.read_bytes()


def _merge(store: Store, part: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.sqlite"
        path.write_bytes(part)
        merge(store, path)


def _import_ray() -> Any:
    try:
        import ray  # noqa: PLC0415
    except ImportError:
        raise InputError(
            "the engine ray is not installed: pip install 'robustbench-dyn[ray]', "
            "or use --engine local"
        ) from None
    return ray
