"""The command check: each kind by name or folder, and things that are broken on purpose."""

import re
import shutil
from pathlib import Path

import pytest
from oracles.command import dynbench_here, refused

from robustbench_dyn.cli.scaffolding import write_plugin
from robustbench_dyn.errors import DataUnavailableError

EXAMPLE = Path(__file__).parents[1] / "plugins" / "example_plugin"


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    return lambda *arguments: dynbench_here(arguments, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("fab-t", "attack fab-t"),
        ("interval", "certifier interval"),
        ("moons", "data set moons"),
        ("tanh", "operation tanh"),
        ("lipflow/eps-0.5", "claim"),
    ],
)
def test_built_in_things_are_checked_by_name(command, name, title):
    result = command("check", name)
    assert result.returncode == 0, result.stdout + result.stderr
    assert title in result.stdout
    assert "BROKEN" not in result.stdout


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("fabt", "did you mean 'fab-t'? see: dynbench list"),
        ("lipflo", "did you mean 'lipflow'?"),
        ("zzzzzz", "no model, attack, certifier, data set or operation is called 'zzzzzz'; see:"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(command, name, word):
    refused(command("check", name), word)


def test_a_folder_without_a_card_is_no_plugin(command, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(command("check", "empty"), "empty is no plugin: it has no card.yaml")


def test_a_name_of_a_plugin_is_checked(command):
    result = command("check", "ascent", "--plugins", EXAMPLE)
    assert result.returncode == 0, result.stderr
    assert "attack ascent" in result.stdout
    assert "certifier" not in result.stdout


def test_a_data_set_that_is_not_here_cannot_be_checked(command, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DYNBENCH_DATA", raising=False)
    monkeypatch.setattr("robustbench_dyn.datasets.mnist.read_or_fetch", fail)
    refused(command("check", "mnist"), "MNIST is nowhere")


def fail(*_, **__):
    raise DataUnavailableError("MNIST is nowhere")


BROKEN = [
    (
        "attack",
        "x_adv = project(",
        "x_adv = (lambda *a: problem.x)(",
        "adversarial examples are found at 1.5 times their distance",
        "0 of 8, at least 4",
    ),
    (
        "attack",
        "return x_adv",
        "return x_adv + 1e-3 * torch.rand(1).new_tensor(id(x_adv) % 97)",
        "candidates depend on the seed and on no other generator",
        "they differ by up to",
    ),
    (
        "attack",
        "return x_adv",
        "return x_adv + 1e-3 * x_adv.mean()",
        "each example has the same candidate alone as among others",
        "they differ by up to",
    ),
    (
        "attack",
        "return x_adv",
        "return x_adv * float('nan')",
        "projected candidates are finite and inside the ball",
        "0 of 8",
    ),
    (
        "attack",
        "return x_adv",
        "raise RuntimeError('out of ideas')",
        "candidates have the shape, dtype and device of x",
        "raises RuntimeError: out of ideas",
    ),
    (
        "certifier",
        "return Proof(radii",
        "return Proof(1.5 * radii",
        "no class is excluded beyond its exact distance",
        "is at",
    ),
    (
        "certifier",
        "margins > bounds * threat_model.eps * (1 + 1e-9)",
        "margins < torch.inf",
        "ties, mistakes and logits that are not finite are not certified",
        "misclassified",
    ),
    (
        "dataset",
        "white=1",
        "white=1 / 255",
        "x / white lies in [0, 1] and is not scaled twice",
        "x / white goes from",
    ),
    (
        "dataset",
        "astype(np.int64)",
        "astype(np.int64) + 1",
        "labels are whole numbers from 0, and every class occurs",
        "the labels are 1, ..., 2",
    ),
    (
        "dataset",
        "seed=len(split)",
        "seed=4",
        "the test split is not in the training split",
        "100 of 100 are in both",
    ),
    (
        "operation",
        "z.clamp(-1, 1)",
        "z.clamp(-1, 2)",
        "the node computes what the operation computes",
        "does not compute",
    ),
    (
        "operation",
        "-torch.ones_like(slope)",
        "torch.zeros_like(slope)",
        "linear bounds contain samples",
        "exceeded by",
    ),
]


@pytest.mark.parametrize(("kind", "old", "new", "rule", "detail"), BROKEN)
def test_a_broken_plugin_is_told_the_rule_it_breaks(
    command, tmp_path, kind, old, new, rule, detail
):
    folder = write_plugin(tmp_path / "mine", kind)
    source = (folder / "__init__.py").read_text()
    assert old in source
    (folder / "__init__.py").write_text(source.replace(old, new))
    result = command("check", "mine")
    assert result.returncode == 1
    assert rule in result.stderr
    (row,) = re.findall(rf"^{re.escape(rule)} .*BROKEN.*", result.stdout, re.MULTILINE)
    assert detail in row


def test_a_plugin_that_cannot_be_imported_is_refused(command, tmp_path):
    folder = write_plugin(tmp_path / "mine", "attack")
    (folder / "__init__.py").write_text("import no_such_module")
    refused(command("check", "mine"), "attack 'mine' from", "No module named 'no_such_module'")


def test_a_plugin_whose_card_is_wrong_is_refused(command, tmp_path):
    folder = write_plugin(tmp_path / "mine", "attack")
    (folder / "card.yaml").write_text("name: mine\n")
    refused(command("check", "mine"), "the plugin in mine is broken", "'summary' is missing")


def test_all_that_a_plugin_brings_is_checked(command, tmp_path):
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder)
    source = (folder / "certifier.py").read_text()
    (folder / "certifier.py").write_text(source.replace("Proof(radii", "Proof(1.5 * radii"))
    result = command("check", folder)
    assert result.returncode == 1
    assert "certifier bound: no class is excluded beyond its exact distance" in result.stderr
    assert "attack ascent" not in result.stderr


def test_counterexamples_of_a_model_are_kept(command, tmp_path):
    folder = write_plugin(tmp_path / "mine", "architecture")
    source = (folder / "__init__.py").read_text()
    coupled = source.replace("return x + self", "return x - x.mean(dim=0) + self")
    assert coupled != source
    (folder / "__init__.py").write_text(coupled)
    result = command("check", "mine", "--keep", "kept")
    assert result.returncode == 1
    assert "model mine: batch-independent" in result.stderr
    assert list((tmp_path / "kept").glob("mine-batch-independent-*.npy"))
