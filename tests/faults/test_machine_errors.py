"""Errors of the machine: tried again, never taken for a result. Errors of the model stay one."""

import errno
import subprocess
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict

import pytest
import torch
from oracles import halfspaces, points
from oracles.attacks import attack_of
from oracles.certifiers import proving
from torch import nn

from robustbench_dyn import Smoothing, ThreatModel, evaluate_grid, evaluate_smoothed
from robustbench_dyn.certification.base import Phase, Proof
from robustbench_dyn.errors import InputError, MachineError, StoreError
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.results.store import Store

OF_THE_MACHINE = {
    "MemoryError": MemoryError(),
    "numpy": MemoryError("Unable to allocate 3.00 GiB for an array with shape (9,)"),
    "torch CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 802816 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "torch CPU, Windows": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: not enough memory: you "
        "tried to allocate 64 bytes."
    ),
    "oneDNN": RuntimeError("could not create a primitive"),
    "oneDNN, memory": RuntimeError("could not create a memory object"),
    "std::bad_alloc": RuntimeError("std::bad_alloc"),
    "CUDA": torch.cuda.OutOfMemoryError("Tried to allocate 2.00 GiB"),
    "CUDA, other words": RuntimeError("CUDA error: out of memory"),
    "CUDA, busy": RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "cuBLAS, handle": RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling"),
    "MKL": RuntimeError("INTEL MKL ERROR: not enough memory for the work array"),
    "OpenBLAS": RuntimeError("OpenBLAS error: Memory allocation still failed after 10 retries."),
    "LAPACK": RuntimeError("Not enough memory to allocate work array in LAPACKE_dgesdd"),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
    "ENOMEM": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "ENOSPC": OSError(errno.ENOSPC, "No space left on device"),
    "EMFILE": OSError(errno.EMFILE, "Too many open files"),
    "fork": BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    "thread": RuntimeError("can't start new thread"),
    "dlopen": ImportError("libx.so: failed to map segment: Cannot allocate memory"),
    "DataLoader": RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
    "pool": BrokenProcessPool("A process in the process pool was terminated abruptly"),
    "child": subprocess.CalledProcessError(-9, ["solver"]),
}
OF_THE_MODEL = {
    "shapes": RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    "no kernel": RuntimeError("could not create a primitive descriptor for a convolution"),
    "value": ValueError("out of memory cells of the LSTM"),
    "arithmetic": ZeroDivisionError("division by zero"),
    "file": FileNotFoundError(errno.ENOENT, "No such file or directory"),
    "child": subprocess.CalledProcessError(2, ["solver"]),
    "assertion": RuntimeError("CUDA error: device-side assert triggered"),
    "quoted": InputError("the model says: out of memory"),
}


@pytest.mark.parametrize("error", OF_THE_MACHINE.values(), ids=OF_THE_MACHINE)
def test_an_error_of_the_machine_is_told_by_type_or_text(error):
    assert is_machine_error(error)
    wrapped = InputError("the model cannot be run")
    wrapped.__cause__ = error
    assert is_machine_error(wrapped)
    within = RuntimeError("the pass failed")
    within.__context__ = wrapped
    assert is_machine_error(within)
    assert is_machine_error(ExceptionGroup("several", [ValueError(), error]))


@pytest.mark.parametrize("error", OF_THE_MODEL.values(), ids=OF_THE_MODEL)
def test_an_error_of_the_model_is_none_of_the_machine(error):
    assert not is_machine_error(error)
    wrapped = MemoryError()
    error.__context__, error.__suppress_context__ = wrapped, True
    assert not is_machine_error(error)


class Faulty:
    """Raises an error at some of its calls: the first ones, or those that `where` picks."""

    def __init__(self, error, times, where=lambda _x: True):
        self.error, self.left, self.where, self.calls = error, times, where, 0

    def __call__(self, x):
        self.calls += 1
        if self.left and self.where(x):
            self.left -= 1
            raise self.error


class FaultyModel(nn.Module):
    def __init__(self, faulty, *, with_gradient_only=False):
        super().__init__()
        self.inner, self.faulty, self.only = halfspaces(), faulty, with_gradient_only

    def forward(self, x):
        if x.requires_grad or not self.only:
            self.faulty(x)
        return self.inner(x)


DATA = points([0.03, 0.1, 0.15, 0.2, 0.3, 0.35, 0.4, 0.45])
GRID = [ThreatModel("L2", eps) for eps in (0.25, 0.12)]
# The last example alone is light in its lower half, in its whole ball.
DATA[0][-1, :, 2:] = 0.9


def has_the_last(x):
    return bool((x.reshape(len(x), -1)[:, 8:].mean(dim=1) > 0.7).any())


def proofs(faulty):
    """A prover of balls up to 0.12 around examples at least as far from the border."""

    def prove(_state, x, logits, _y, threat_model):
        faulty(x)
        far = (x.flatten(1)[:, 0] - x.flatten(1)[:, 1]).abs() > 0.3
        radius = threat_model.eps if threat_model.eps <= 0.12 else 0.0
        return Proof(torch.full(logits.shape, radius, dtype=torch.float64) * far[:, None])

    return prove


def run(store, faulty, place, *, attacked=True):
    """Evaluate with the fault in one place; return all evaluations."""
    nowhere = Faulty(None, 0)
    faults = dict.fromkeys(("model", "gradient", "certifier", "late", "clean", "attack"), nowhere)
    faults[place] = faulty

    def perturb(problem):
        faults["attack"](problem.x)
        return problem.x

    certifiers = [
        proving("at-once", proofs(faults["clean"]), phase=Phase.CLEAN),
        proving("early", proofs(faults["certifier"])),
        proving("late", proofs(faults["late"]), phase=Phase.AFTER_FIRST_ATTACK),
    ]
    model = FaultyModel(
        faults["model"] if place != "gradient" else faulty, with_gradient_only=place == "gradient"
    )
    return evaluate_grid(
        model,
        DATA,
        GRID,
        batch_size=8,
        attacks=[attack_of(perturb, name="idle"), *(["apgd-ce"] if attacked else [])],
        certifiers=[one.certifier for one in certifiers],
        store=store,
    )


def states(evaluations):
    """Return all that verdicts say, without seconds and passes, which a repeated batch adds to."""
    free = ("seconds", "forward_passes", "backward_passes")
    return [
        {k: repr(v) for k, v in asdict(verdict).items() if k not in free}
        for evaluation in evaluations
        for verdict in evaluation.verdicts
    ]


@pytest.fixture(scope="module")
def unattacked():
    return states(run(None, Faulty(None, 0), "attack", attacked=False))


PLACES = ("model", "gradient", "certifier", "late", "clean", "attack")


@pytest.fixture(scope="module")
def undisturbed():
    return states(run(None, Faulty(None, 0), "model"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["MemoryError", "oneDNN"])
def test_what_fails_three_times_has_the_same_verdicts(name, place, undisturbed):
    faulty = Faulty(OF_THE_MACHINE[name], 3)
    assert states(run(None, faulty, place)) == undisturbed
    assert faulty.left == 0


@pytest.mark.parametrize("error", OF_THE_MACHINE.values(), ids=OF_THE_MACHINE)
def test_every_text_is_tried_again_in_an_attack(error, unattacked):
    assert states(run(None, Faulty(error, 3), "attack", attacked=False)) == unattacked


@pytest.mark.parametrize("place", PLACES)
def test_what_keeps_failing_waits_and_the_next_run_ends_it(place, undisturbed):
    store = Store()
    # The machine fails on one example alone: the others come to their end.
    one = Faulty(RuntimeError("could not create a primitive"), -1, has_the_last)
    with pytest.raises(MachineError) as caught:
        run(store, one, place)
    (key,) = store.records() or ("",)
    kept = list(store.verdicts(key))
    assert "error" not in {verdict.status for verdict in kept}
    assert "primitive" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.runs() == []
    if place != "model":
        assert "1 of 8 examples at eps 0.25 wait for" in str(caught.value)
        assert sum(verdict.next_stage == "" for verdict in kept) == 7
    assert states(run(store, Faulty(None, 0), "model")) == undisturbed


@pytest.mark.parametrize("place", PLACES[1:])
@pytest.mark.parametrize("name", ["no kernel", "quoted"])
def test_an_error_of_the_model_stays_a_result(name, place):
    error = OF_THE_MODEL[name]
    store, faulty = Store(), Faulty(error, -1, has_the_last)
    first = run(store, faulty, place, attacked=place == "gradient")
    messages = [step.message for v in first[0].verdicts for step in v.trail if step.message]
    assert any(type(error).__name__ in message for message in messages)
    # It is final: a run without the fault asks for nothing again.
    again = run(store, Faulty(None, 0), place, attacked=place == "gradient")
    assert states(again) == states(first)


def test_a_smoothed_classifier_is_tried_again():
    def smooth(faulty, store=None):
        return evaluate_smoothed(
            FaultyModel(faulty),
            DATA,
            [GRID[1]],
            Smoothing(0.25, n0=20, n=60),
            batch_size=20,
            store=store,
        ).evaluations

    undisturbed = states(smooth(Faulty(None, 0)))
    faulty = Faulty(RuntimeError("std::bad_alloc"), 0)
    assert states(smooth(faulty)) == undisturbed
    for when in (3, 40, faulty.calls - 40):
        store, late = Store(), Faulty(RuntimeError("std::bad_alloc"), 100)
        late.where = lambda _x, late=late, when=when: late.calls > when
        with pytest.raises(MachineError):
            smooth(late, store)
        assert states(smooth(Faulty(None, 0), store)) == undisturbed


def test_a_full_store_is_no_error_of_the_model(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    (pages,) = store.connection.execute("PRAGMA page_count").fetchone()
    store.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="full"):
        run(store, Faulty(None, 0), "model")
