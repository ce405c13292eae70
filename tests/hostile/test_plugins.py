"""Hostile plugins: what they do ends or stays in their own process, and is reported.

Each behaviour is tried at each place where a plugin's code is run. A run either ends in one
sentence, or has the verdicts of an honest plugin; this process stays as it was.
"""

import contextlib
import os
import random
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.hostile_plugin import PLACES, true_statuses, write_plugin

import robustbench_dyn.evaluation.candidates as judge
from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model
from robustbench_dyn.errors import DynbenchError, ForeignCodeError, RegistryError
from robustbench_dyn.isolation.confinement import landlock_version
from robustbench_dyn.isolation.limits import Limits
from robustbench_dyn.plugins import discovery, limit_plugins

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no processes with limits")

EPS = 0.1
# ENDED: the process is gone, and the run with it. FAILED: an error of the plugin, which ends the
# run, or fails what asked for it. HARMLESS: the verdicts are those of an honest plugin.
# EITHER: an error, or the verdicts of an honest plugin.
ENDED, FAILED, HARMLESS, EITHER = "ended", "failed", "harmless", "either"
BEHAVIOURS = {
    "exits": (ENDED, "os._exit(0)"),
    "exits as Python does": (ENDED, "sys.exit(0)"),
    "raises KeyboardInterrupt": (ENDED, "raise KeyboardInterrupt"),
    "kills itself": (ENDED, "os.kill(os.getpid(), signal.SIGKILL)"),
    "never ends": (ENDED, "while True: pass"),
    "closes all files": (ENDED, "os.closerange(3, 100)"),
    "answers by itself": (
        ENDED,
        "[os.write(n, b'x' * 99) for n in range(3, 256) if is_socket(n)]",
    ),
    "raises": (FAILED, "raise RuntimeError('no [/b] \\x1b[31m')"),
    "takes 30 GB": (FAILED, "torch.ones(30 * 2**28)"),
    "opens 10,000 files": (FAILED, "keep = [open(os.devnull) for _ in range(10_000)]"),
    "prints": (HARMLESS, "print('x' * 10_000); os.write(1, b'y'); os.write(2, b'z')"),
    "sets the default dtype": (EITHER, "torch.set_default_dtype(torch.float64)"),
    "seeds": (HARMLESS, "torch.manual_seed(0); np.random.seed(0); random.seed(0)"),
    "sets threads": (HARMLESS, "torch.set_num_threads(3)"),
    "sets the grad mode": (EITHER, "torch.set_grad_enabled(False)"),
    "patches the judge": (
        HARMLESS,
        """
        import robustbench_dyn.evaluation.candidates as judge
        judge.find_hits = lambda *a, **k: [None] * 1000
        torch.equal = torch.allclose = lambda *a, **k: True
        sys.settrace(None)
        """,
    ),
    "attacks the other process": (
        HARMLESS,
        """
        for call in (lambda: os.kill(os.getppid(), signal.SIGKILL),
                     lambda: open(f"/proc/{os.getppid()}/mem", "r+b"),
                     lambda: open(os.environ.get("SECRET_FILE", "FOLDER/secret")),
                     lambda: Path("FOLDER/secret").write_text("changed"),
                     lambda: os.unlink("FOLDER/secret"),
                     lambda: socket.create_connection(("127.0.0.1", PORT), timeout=1),
                     lambda: socket.socket(socket.AF_UNIX),
                     lambda: os.fork() or os._exit(0),
                     lambda: os.execv("/bin/true", ["true"]),
                     lambda: os.memfd_create("more"),
                     lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 5),
                     lambda: os.sched_setaffinity(os.getppid(), {0}),
                     lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (9, 9))):
            try:
                call()
            except OSError:
                continue
            raise SystemError("reached what it must not reach")
        """,
    ),
}
HELP = """
def is_socket(fd):
    try:
        return os.path.stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False
"""
# Each ending is tried at two or three places, each place by several.
TRIED = {
    name: PLACES[start % 2 :: 2] if kind in (ENDED, FAILED) else ("import", "forward", "backward")
    for start, (name, (kind, _)) in enumerate(BEHAVIOURS.items())
}
# One of each kind, at the place where it is most likely, is in every run of the tests.
QUICK = {("exits", "forward"), ("raises", "backward"), ("patches the judge", "import")}
CASES = [
    pytest.param(
        name, place, id=f"{name}-{place}", marks=() if (name, place) in QUICK else pytest.mark.slow
    )
    for name, places in TRIED.items()
    for place in places
]


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits", n_examples=12)


@pytest.fixture
def outside(tmp_path):
    """A file that is none of the plugin's business, and a server that it must not reach."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield folder, server.getsockname()[1]
    assert (folder / "secret").read_text() == "secret"


@pytest.fixture(autouse=True)
def short_limits(untrusted, monkeypatch):
    monkeypatch.setattr(discovery, "_limits", [Limits()])
    limit_plugins(Limits(memory_gib=1, seconds_per_call=5, open_files=64))


def state_of_this_process():
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_rng_state().sum().item(),
        random.getstate()[1][:5],
        np.random.get_state()[1][:5].tolist(),  # noqa: NPY002
        judge.find_hits,
        torch.equal,
        sys.gettrace() is None,
        Path.cwd(),
        dict(os.environ),
        threading.active_count(),
    )


def bracket(model, data):
    return evaluate(
        model, data, ThreatModel("L2", EPS), attacks="pgd:n_steps=5", certifiers="lipschitz"
    )


def n_wrongly_robust(evaluation, data):
    """Count examples that are called certified, or correct, against the truth."""
    wrong, robust = true_statuses(data.x, data.y, EPS)
    statuses = evaluation.examples["status"].tolist()
    return sum(
        (status == "certified" and not robust[k])
        or ((status == "misclassified") != bool(wrong[k]) and status != "error")
        for k, status in enumerate(statuses)
    )


@pytest.mark.parametrize(("name", "place"), CASES)
def test_a_hostile_plugin_stays_in_its_process(name, place, tmp_path, outside, data):
    if name == "attacks the other process" and landlock_version() < 6:
        pytest.skip("this kernel's Landlock cannot take signals away")
    if name == "never ends":
        limit_plugins(Limits(seconds_per_call=1))
    kind, act = BEHAVIOURS[name]
    folder, port = outside
    act = act.replace("FOLDER", str(folder)).replace("PORT", str(port))
    plugin = write_plugin(tmp_path, act, place)
    (plugin / "__init__.py").write_text(
        (plugin / "__init__.py").read_text().replace("def act():", f"{HELP}\n\ndef act():")
    )
    before, model, evaluation, error = state_of_this_process(), None, None, None
    try:
        model = load_model("digits_mean", dataset="digits", plugins=(plugin,))
        evaluation = bracket(model, data)
    except DynbenchError as caught:
        error = caught
    assert state_of_this_process() == before
    if error is not None:
        assert kind != HARMLESS, error
        assert "digits_mean" in str(error) or kind != ENDED
        assert len(str(error).splitlines()) == 1
    if kind == ENDED:
        # Python's own way out of an import is an error of the import.
        assert isinstance(error, (ForeignCodeError, RegistryError))
        if model is not None:
            assert model.process._process.poll() is not None
    if kind == FAILED and evaluation is not None:
        # What asked for it has failed; that is in the row.
        assert place in ("backward", "bound")
        assert "failed" in f"{evaluation.summary} {evaluation.not_applicable}" or place == "bound"
    if evaluation is not None:
        assert n_wrongly_robust(evaluation, data) == 0
        if kind == HARMLESS:
            statuses = set(evaluation.examples["status"])
            assert "certified" in statuses
            assert "error" not in statuses


def test_an_honest_plugin_has_the_same_verdicts_inside_and_outside(tmp_path, data):
    plugin = write_plugin(tmp_path)
    outside = bracket(load_model("digits_mean", dataset="digits", plugins=(plugin,)), data)
    discovery.load_plugins(plugin, trust=True)
    inside = bracket(load_model("digits_mean", dataset="digits"), data)
    columns = [c for c in outside.examples.columns if c != "seconds"]
    assert outside.examples[columns].equals(inside.examples[columns])
    assert n_wrongly_robust(inside, data) == 0
    assert outside.summary["certified_accuracy"] > 0


def test_inside_this_process_the_same_code_does_harm(tmp_path, data):
    """The negative control: the tests above would see what isolation keeps out."""
    act = "import robustbench_dyn.evaluation.candidates as judge; judge.marked_by_a_plugin = True"
    plugin = write_plugin(tmp_path, act, "import")
    load_model("digits_mean", dataset="digits", plugins=(plugin,))
    assert not hasattr(judge, "marked_by_a_plugin")
    discovery.load_plugins(plugin, trust=True)
    try:
        load_model("digits_mean", dataset="digits")
        assert judge.marked_by_a_plugin
    finally:
        with contextlib.suppress(AttributeError):
            del judge.marked_by_a_plugin


def test_a_process_ends_with_its_model(tmp_path):
    model = load_model("digits_mean", dataset="digits", plugins=(write_plugin(tmp_path),))
    process, folder = model.process._process, model.process._folder
    assert process.poll() is None
    assert folder.is_dir()
    del model
    assert process.wait(timeout=10) is not None
    assert not folder.exists()


def test_secrets_of_the_environment_are_not_handed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "secret")
    act = "assert 'SECRET_TOKEN' not in os.environ, 'it knows'"
    load_model("digits_mean", dataset="digits", plugins=(write_plugin(tmp_path, act),))
    with pytest.raises(DynbenchError, match="it knows"):
        plugin = write_plugin(tmp_path / "2", act.replace("SECRET_TOKEN", "PATH"))
        load_model("digits_mean", dataset="digits", plugins=(plugin,))
