"""The Ray engine, on one machine or a cluster: each shard writes a store, which is merged."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from robustbench_dyn.datasets import load_dataset
from robustbench_dyn.errors import DynbenchError, InputError, OutputError, StoreError
from robustbench_dyn.evaluation.api import finalise_run
from robustbench_dyn.files import write_bytes
from robustbench_dyn.results.exchange import copy_part, merge
from robustbench_dyn.results.parts import Asked, check_part
from robustbench_dyn.results.store import Store
from robustbench_dyn.sweeps.engines import Event, State
from robustbench_dyn.sweeps.shards import Shard, try_shard
from robustbench_dyn.threat_models import format_eps

# A shard fails after this many deaths of workers or nodes; clusters lose nodes for other reasons
# than the shard, too.
_PATIENCE = 20


def run(shards: Sequence[Shard], store: Path, workers: int) -> Iterator[Event]:
    """Run up to `workers` shards at a time on the cluster of RAY_ADDRESS or of this machine.

    Starts a temporary cluster where there is none. See Engine.
    """
    ray = _import_ray()
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(logging_level="ERROR", log_to_driver=False, configure_logging=False)
    remote = ray.remote(max_retries=0)(_run_remotely)
    waiting, deaths = deque(shards), dict.fromkeys(shards, 0)
    busy: dict[Any, Shard] = {}
    # Folders on the nodes have names that nothing else can know beforehand.
    results, token = Store(store), secrets.token_hex(16)
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                shard = waiting.popleft()
                task = remote.options(
                    num_cpus=shard.threads, num_gpus=int(shard.device.startswith("cuda"))
                )
                busy[task.remote(shard, _cached(results, shard), token)] = shard
                yield Event(shard, "started")
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            shard = busy.pop(ready)
            try:
                state, message, part = ray.get(ready)
            # Errors of the shard come back as values; an exception here is one of the cluster.
            except ray.exceptions.RayError as error:
                deaths[shard] += 1
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                if deaths[shard] < _PATIENCE:
                    waiting.append(shard)
                    yield Event(shard, "died", reason)
                else:
                    yield Event(shard, "failed", f"{_PATIENCE} workers died of it ({reason})")
                continue
            yield _merged(results, shard, state, message, part)
    finally:
        for task in busy:
            ray.cancel(task, force=True)
        results.close()
        if started_here:
            ray.shutdown()


def _run_remotely(shard: Shard, cached: bytes, token: str) -> tuple[State, str, bytes]:
    """Run a shard on this node; return how it ended, its key or error, and its store.

    cached: a store with the verdicts that exist already. token: of the sweep; names its folder.
    """
    try:
        folder = private_folder(Path(tempfile.gettempdir()) / f"dynbench-{token}")
        path = folder / f"{hashlib.sha256(repr(shard).encode()).hexdigest()[:16]}.sqlite"
        # The file exists where a worker died on this node; it holds the verdicts so far.
        if not os.path.lexists(path):
            write_bytes(path, cached)
        _read_own(path)
    except DynbenchError as error:
        return "failed", str(error), b""
    state, message = try_shard(shard, path)
    part = _read_own(path)
    path.unlink()
    # Other shards of the sweep may still use it.
    with suppress(OSError):
        folder.rmdir()
    return state, message, part


def private_folder(path: Path) -> Path:
    """Make a folder that is this user's alone, or return it if it is; raises OutputError else."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    ours = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    if not (stat.S_ISDIR(found.st_mode) and ours and not found.st_mode & 0o077):
        raise OutputError(
            f"{path} is not a folder of this user alone; remove it, and run the sweep again"
        )
    return path


def _read_own(path: Path) -> bytes:
    """Return the bytes of a file; raises OutputError for a link, or a file of another user."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}; remove it") from error
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        ours = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
        if not (stat.S_ISREG(found.st_mode) and ours and found.st_nlink == 1):
            raise OutputError(f"{path} is no file of this user alone; remove it")
        return file.read()


def _cached(store: Store, shard: Shard) -> bytes:
    """Return a store with the verdicts and votes on a shard's examples that exist already."""
    specs = {key: record.spec for key, record in store.records().items()}
    begun = {key: spec for key, spec in specs.items() if shard.matches(spec)}
    # The votes of a smoothed classifier have their own key; several evaluations may share them.
    keys = {*begun, *(spec.votes_key() for spec in begun.values() if spec.smoothing)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.sqlite"
        copy_part(store, path, keys, range(shard.start, shard.stop))
        return path.read_bytes()


def _merged(store: Store, shard: Shard, state: State, message: str, part: bytes) -> Event:
    """Merge what came back of a shard, once it is checked; return the event of its end."""
    try:
        if part:
            _merge(store, shard, part)
        if state == "done":
            _finalise(store, shard, key=message)
    except StoreError as error:
        return Event(shard, "failed", str(error))
    return Event(shard, state, message)


def _merge(store: Store, shard: Shard, part: bytes) -> None:
    """Check a part and merge it; raises StoreError where it is refused."""
    data = load_dataset(shard.dataset, n_examples=shard.stop, data_dir=shard.data_dir)
    data = data.rows(shard.start, shard.stop)
    asked = Asked(
        matches=lambda spec: shard.matches(spec) and spec.data_sha256 == data.sha256,
        labels=dict(zip(data.ids.tolist(), data.y.tolist(), strict=True)),
        eps=shard.eps,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.sqlite"
        path.write_bytes(part)
        check_part(store, path, asked)
        # Rows of runs are made anew from the verdicts that were checked.
        merge(store, path, runs=False)


def _finalise(store: Store, shard: Shard, *, key: str) -> None:
    """Make the rows of a shard of the first examples, as a run into the store itself does."""
    for eps in shard.eps:
        found = [v for v in store.verdicts(key, eps) if shard.start <= v.example_id < shard.stop]
        if len(found) != shard.stop - shard.start or any(v.next_stage for v in found):
            raise StoreError(
                f"verdicts of {shard} at eps {format_eps(eps)} are missing in what came back"
            )
        finalise_run(store, key, eps, found)


def _import_ray() -> Any:
    try:
        import ray  # noqa: PLC0415
    except ImportError:
        raise InputError(
            "the engine ray is not installed: pip install 'robustbench-dyn[ray]', "
            "or use --engine local"
        ) from None
    return ray
