"""The command check: each kind by name or folder, and things that are broken on purpose."""

import json
import re
import shutil
from pathlib import Path

import pytest
from oracles.command import dynbench_here, refused

from robustbench_dyn.cli.scaffolding import write_package, write_plugin
from robustbench_dyn.errors import DataUnavailableError

EXAMPLE = Path(__file__).parents[1] / "plugins" / "example"


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
        ("euler_resnet/pgd --dataset moons", "variant pgd"),
    ],
)
def test_built_in_things_are_checked_by_name(command, name, title):
    result = command("check", *name.split())
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
        'return x_adv + 1e-3 * (next(globals().setdefault("calls", iter(range(10**6)))) % 7)',
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
        "torch.atan(z)",
        "torch.atan(2 * z)",
        "the node computes what the operation computes",
        "does not compute",
    ),
    (
        "operation",
        "[z, -z]",
        "[]",
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
    refused(command("check", "mine"), "the plugin in mine is broken", "imports 'no_such_module'")


def test_a_plugin_whose_card_is_wrong_is_refused(command, tmp_path):
    folder = write_plugin(tmp_path / "mine", "attack")
    (folder / "card.yaml").write_text("name: mine\n")
    refused(command("check", "mine"), "the plugin in mine is broken", "'summary' is missing")


@pytest.mark.slow
def test_all_that_a_plugin_brings_is_checked(command, tmp_path):
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder)
    source = (folder / "certifier.py").read_text()
    (folder / "certifier.py").write_text(source.replace("Proof(radii", "Proof(1.5 * radii"))
    result = command("check", folder)
    assert result.returncode == 1
    assert "certifier bound: no class is excluded beyond its exact distance" in result.stderr
    assert "attack ascent" not in result.stderr


@pytest.mark.slow
def test_counterexamples_of_a_model_are_kept(command, tmp_path):
    folder = write_plugin(tmp_path / "mine", "architecture")
    source = (folder / "__init__.py").read_text()
    coupled = source.replace("return x + STEP", "return x - x.mean(dim=0) + STEP")
    assert coupled != source
    (folder / "__init__.py").write_text(coupled)
    result = command("check", "mine", "--keep", "kept")
    assert result.returncode == 1
    assert "model mine: batch-independent" in result.stderr
    assert list((tmp_path / "kept").glob("mine-batch-independent-*.npy"))
    assert "batches: expected batches of any size" in result.stdout
    assert "To mend it: use nothing that mixes a batch in eval mode" in result.stdout


def spoilt(tmp_path, old, new):
    """Write a new architecture with one text of its code replaced."""
    folder = write_plugin(tmp_path / "mine", "architecture")
    source = (folder / "__init__.py").read_text()
    assert old in source
    (folder / "__init__.py").write_text(source.replace(old, new))
    return folder


def test_13_outputs_for_two_classes_break_the_contract_with_a_remedy(command, tmp_path):
    spoilt(tmp_path, "UnitRowLinear(features, n_classes)", "UnitRowLinear(features, 13)")
    result = command("check", "mine")
    assert result.returncode == 1
    assert "mine does not keep its contract: model mine: classes" in result.stderr
    assert "as it is built from seed 0, without trained weights" in result.stdout
    assert "the first 4 test examples of moons, 2x1x1, 2 classes" in result.stdout
    (remedy,) = (line for line in result.stdout.splitlines() if line.startswith("classes: "))
    assert "expected logits of shape (batch, classes)" in remedy
    assert "found 13 outputs for 2 classes" in remedy
    assert "To mend it: make the last layer with the n_classes" in remedy


def test_the_checklist_is_one_json_document(command, tmp_path):
    spoilt(tmp_path, "UnitRowLinear(features, n_classes)", "UnitRowLinear(features, 13)")
    result = command("check", "mine", "--json")
    assert result.returncode == 1
    document = json.loads(result.stdout)
    assert not document["holds"]
    (subject,) = document["subjects"]
    assert (subject["kind"], subject["name"]) == ("model", "mine")
    (broken,) = (finding for finding in subject["findings"] if finding["holds"] is False)
    assert (broken["rule"], broken["found"]) == ("classes", "13 outputs for 2 classes")
    write_plugin(tmp_path / "search", "attack")
    sound = command("check", "search", "--json")
    assert (sound.returncode, json.loads(sound.stdout)["holds"]) == (0, True)


def test_a_network_that_is_none_is_refused_with_what_it_must_be(command, tmp_path):
    spoilt(tmp_path, "return Classifier(", "return lambda x: (")
    refused(command("check", "mine"), "build() returned function; it must return a torch.nn.Module")


@pytest.mark.parametrize("layout", ["package", "folder"])
def test_a_folder_of_plugins_is_checked_where_it_holds_one(command, tmp_path, layout):
    if layout == "package":
        write_package(tmp_path / "mine", "dataset")
    else:
        write_plugin(tmp_path / "mine" / "points", "dataset")
    assert command("check", "mine").returncode == 0
    write_plugin(tmp_path / "mine" / "one", "attack")
    write_plugin(tmp_path / "mine" / "two", "attack")
    refused(command("check", "mine"), "mine holds several plugins:", "check one at a time")
