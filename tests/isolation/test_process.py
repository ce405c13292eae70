"""A process of foreign code: its time, its output, its end."""

import copy
import os
import time

import pytest
from oracles.hostile_plugin import write_plugin

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model, load_plugins
from robustbench_dyn.attacks import ATTACKS
from robustbench_dyn.errors import DataUnavailableError, DynbenchError, ForeignCodeError
from robustbench_dyn.isolation.limits import Limits
from robustbench_dyn.plugins import foreign, limit_plugins, process_of

ATTACK = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from robustbench_dyn import Attack


@dataclass(frozen=True, kw_only=True)
class Odd(Attack):
    name: ClassVar = "odd"

    def perturb(self, problem):
        {body}
        return problem.x


ATTACKS = (Odd,)
"""


@pytest.fixture(autouse=True)
def limits(untrusted):
    limit_plugins(Limits(memory_gib=1, seconds_per_call=5))


def attacked(tmp_path, body, *, n=1):
    """Attack a shipped model by a plugin with this body of perturb."""
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "card.yaml").write_text(
        "name: odd\nsummary: Odd.\nversion: '1'\nprovides: [attacks]\n"
    )
    (folder / "__init__.py").write_text(ATTACK.format(body=body))
    load_plugins(folder)
    data = load_dataset("fashion_mnist", n_examples=n)
    model = load_model("lipflow")
    return evaluate(model, data, ThreatModel("L2", 2.0), attacks="odd", certifiers="none")


@pytest.mark.slow
def test_an_attack_that_asks_for_ever_ends(tmp_path):
    started = time.monotonic()
    with pytest.raises(ForeignCodeError, match="took more than 5 s"):
        attacked(tmp_path, "while True: problem.model(problem.x)")
    assert time.monotonic() - started < 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("problem.model(problem.x.repeat(2000, 1, 1, 1))", "at most 250 inputs"),
        ("problem.model(problem.x.double())", "at most 250 inputs"),
        (
            "kept = [problem.model(problem.x.clone().requires_grad_()) for _ in range(99)]",
            "graphs of at most 64",
        ),
    ],
)
def test_an_attack_may_not_fill_the_memory_of_this_process(tmp_path, body, words):
    evaluation = attacked(tmp_path, body)
    assert "attack_failed:odd:1" in evaluation.summary["flags"]
    assert words in evaluation.verdicts[0].trail[-1].message


@pytest.mark.slow
def test_a_process_that_has_ended_is_started_again(tmp_path):
    with pytest.raises(ForeignCodeError):
        attacked(tmp_path, "import os; os._exit(0)")
    first = process_of(ATTACKS.get("odd").plugin)
    assert not first.has_ended


def test_a_model_in_another_process_cannot_be_copied(tmp_path):
    plugin = write_plugin(tmp_path, "os.ftruncate(1, 2**20); print('x' * 999)", "build")
    model = load_model("digits_mean", dataset="digits", plugins=(plugin,))
    with pytest.raises(ForeignCodeError, match="load it again"):
        copy.deepcopy(model)
    # A fork that ends does not end the process of the one that started it.
    if (child := os.fork()) == 0:
        model.process.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert model(load_dataset("digits", n_examples=1).x).shape == (1, 10)
    assert len(model.process._printed()) <= 300


@pytest.mark.slow
@pytest.mark.parametrize("name", ["class", "settings", "norms", "perturb", "plugin"])
def test_settings_that_no_class_can_have_are_a_problem_of_the_plugin(tmp_path, name):

    told = {"attacks": [{"facts": {"name": "a", "norms": ["L2"], "settings": {name: 1}}}, {}]}
    plugin = write_plugin(tmp_path)
    card = plugin / "card.yaml"
    card.write_text(card.read_text() + "provides: [architecture, attacks]\n")
    load_plugins(plugin)
    patch = pytest.MonkeyPatch()
    patch.setattr(foreign, "_described", lambda *_: told)
    try:
        assert ATTACKS.get("pgd").name == "pgd"
        broken = [e for e in ATTACKS.entries().values() if str(plugin) in e.origin]
        assert broken
        assert all(entry.problem for entry in broken)
    finally:
        patch.undo()


@pytest.mark.slow
def test_an_error_of_a_data_set_is_one_of_its_plugin(tmp_path):
    folder = tmp_path / "sets"
    folder.mkdir()
    (folder / "card.yaml").write_text(
        "name: sets\nsummary: Sets.\nversion: '1'\nprovides: [datasets]\n"
    )
    (folder / "__init__.py").write_text(
        "from robustbench_dyn.datasets import DatasetInfo\n\n\n"
        "def load_raw(split, data_dir):\n    raise ValueError('nothing there')\n\n\n"
        "DATASETS = (DatasetInfo(name='empty', input_shape=(1, 1, 1), class_names=('a', 'b'),\n"
        "    sizes={'test': 2}, availability={'test': 'generated'}, source='', licence='MIT',\n"
        "    load_raw=load_raw),)\n"
    )
    load_plugins(folder)
    with pytest.raises(DynbenchError, match=r"sets.* failed: ValueError: nothing there") as raised:
        load_dataset("empty")
    assert not isinstance(raised.value, DataUnavailableError)
