"""Architectures by name, their weights, and the messages about broken ones."""

import hashlib
import shutil

import pytest
import torch
from safetensors.torch import save_file

from robustbench_dyn.errors import InputError, IntegrityError, RegistryError
from robustbench_dyn.models.identity import registered_identity
from robustbench_dyn.models.loading import build_model, discover, load_model
from robustbench_dyn.plugins import Card
from robustbench_dyn.resources import shipped
from robustbench_dyn.strict_yaml import read_yaml

BUILD = """
from torch import nn

def build(input_shape, n_classes):
    c, h, w = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, n_classes))
"""


def plugin(root, folder_name, *, code=BUILD, **keys):
    folder = root / folder_name
    folder.mkdir(parents=True)
    card = {"name": folder_name, "family": "test", "summary": "A test.", "version": '"1"'} | keys
    (folder / "card.yaml").write_text("".join(f"{k}: {v}\n" for k, v in card.items()))
    (folder / "__init__.py").write_text(code)
    return folder


def with_weights(root, name, *, corrupt=False, shape=(10, 64)):
    folder = plugin(root, name)
    path = folder / "weights.safetensors"
    save_file({"1.weight": torch.zeros(shape), "1.bias": torch.zeros(10)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if corrupt:
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with (folder / "card.yaml").open("a") as card:
        card.write(
            f"weights: [{{file: weights.safetensors, sha256: {digest}, "
            "dataset: digits, recipe: none}]\n"
        )
    return folder


def test_shipped_architectures_are_found():
    assert {"lipflow", "euler_resnet"} <= set(discover())


def test_a_folder_of_plugins_or_one_plugin_can_be_named(tmp_path):
    plugin(tmp_path, "first")
    second = plugin(tmp_path, "second")
    assert {"first", "second", "lipflow"} <= set(discover((tmp_path,)))
    assert "first" not in discover((second,))
    architecture = discover((tmp_path,)).get("first")
    model = build_model(architecture, input_shape=(1, 4, 4), n_classes=3)
    assert model(torch.zeros(2, 1, 4, 4)).shape == (2, 3)
    assert not model.training


def install(site, package, monkeypatch):
    """Lay out what pip leaves of a package with an entry point, and make it importable."""
    info = site / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[robustbench_dyn.architectures]\ndoor = {package}\n")
    monkeypatch.syspath_prepend(site)


def test_entry_points_of_installed_packages_are_found(tmp_path, monkeypatch):
    assert "by_entry_point" not in discover()
    plugin(tmp_path / "site", "door_package", name="by_entry_point")
    install(tmp_path / "site", "door_package", monkeypatch)
    architecture = discover().get("by_entry_point")
    assert "door_package" in architecture.origin
    model = build_model(architecture, input_shape=(1, 4, 4), n_classes=3)
    assert model(torch.zeros(2, 1, 4, 4)).shape == (2, 3)


def test_an_entry_point_that_leads_nowhere_is_listed_as_broken(tmp_path, monkeypatch):
    install(tmp_path / "site", "missing_package", monkeypatch)
    assert "missing_package" in discover().entry("door").problem


def test_the_first_of_two_plugins_keeps_the_name(tmp_path):
    plugin(tmp_path / "a", "twin")
    plugin(tmp_path / "b", "twin")
    models = discover((tmp_path / "a", tmp_path / "b"))
    assert str(tmp_path / "a") in models.get("twin").origin
    (other,) = (entry for name, entry in models.entries().items() if name.startswith("twin ("))
    assert f"the name 'twin' is taken, by the model from the folder {tmp_path / 'a'}" in (
        other.problem
    )


def test_an_unknown_name_gets_suggestions():
    with pytest.raises(RegistryError, match="no model is called 'lipfow'; did you mean 'lipflow'"):
        discover().get("lipfow")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", "no_such_module"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = (", "is no Python in line 1"),
        ("", "must define build"),
    ],
)
def test_a_broken_plugin_says_why_and_leaves_others_usable(tmp_path, code, message):
    plugin(tmp_path, "broken", code=code)
    plugin(tmp_path, "sound")
    registry = discover((tmp_path,))
    assert registry.get("sound").name == "sound"
    with pytest.raises(RegistryError, match=message):
        registry.get("broken")


def test_a_missing_package_is_named_before_the_import(tmp_path):
    code = "raise RuntimeError('imported')"
    plugin(tmp_path, "needy", code=code, requires="[torch, no-such-package]")
    plugin(tmp_path, "content", requires="[torch]")
    registry = discover((tmp_path,))
    assert registry.entry("content").problem == ""
    problem = "needs no-such-package, which is not installed: pip install no-such-package"
    assert problem in registry.entry("needy").problem
    with pytest.raises(RegistryError, match=problem):
        registry.get("needy")


def test_a_build_that_fails_names_its_plugin(tmp_path):
    plugin(tmp_path, "fails", code="def build(input_shape, n_classes): raise ValueError('odd')")
    with pytest.raises(RegistryError, match=r"'fails'.*odd"):
        build_model(discover((tmp_path,)).get("fails"), input_shape=(1, 4, 4), n_classes=2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"name": "Bad-Name"}, "name"),
        ({"weights": "[{file: a}]"}, "missing"),
        ({"family": "[1"}, "not valid YAML"),
    ],
)
def test_cards_are_strict(tmp_path, keys, message):
    folder = plugin(tmp_path, "strict", **keys)
    with pytest.raises(InputError, match=message):
        read_yaml(folder / "card.yaml", Card)
    assert message in discover((tmp_path,)).entry("strict").problem


def test_sound_cards_pass(tmp_path):
    assert read_yaml(plugin(tmp_path, "sound") / "card.yaml", Card).name == "sound"


def test_weights_are_loaded_and_checked(tmp_path):
    with_weights(tmp_path, "weighted")
    model = load_model("weighted", dataset="digits", plugins=(tmp_path,))
    assert registered_identity(model).name == "weighted"
    with pytest.raises(InputError, match="there are weights for: weighted on digits"):
        load_model("weighted", dataset="mnist", plugins=(tmp_path,))


def test_a_corrupted_weights_file_is_refused(tmp_path):
    with_weights(tmp_path, "corrupt", corrupt=True)
    with pytest.raises(IntegrityError, match="SHA-256"):
        load_model("corrupt", dataset="digits", plugins=(tmp_path,))


def test_weights_of_another_shape_are_refused(tmp_path):
    with_weights(tmp_path, "misfit", shape=(10, 65))
    with pytest.raises(IntegrityError, match="does not fit"):
        load_model("misfit", dataset="digits", plugins=(tmp_path,))


def test_missing_weights_are_named(tmp_path):
    (with_weights(tmp_path, "lost") / "weights.safetensors").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        load_model("lost", dataset="digits", plugins=(tmp_path,))


@pytest.mark.parametrize("name", ["lipflow", "euler_resnet"])
def test_shipped_weights_are_what_their_cards_say(name):
    model = load_model(name)
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    for weights in discover().get(name).card.weights:
        path = shipped("plugins") / name / weights.file
        assert path.stat().st_size <= 8_000_000
        assert (shipped("plugins") / name / weights.recipe).is_file()


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(RegistryError, match="does not exist"):
        discover((tmp_path / "nowhere",))


def test_a_plugin_without_a_card_is_listed_as_broken(tmp_path):
    (plugin(tmp_path, "bare") / "card.yaml").unlink()
    assert "cannot be read" in discover((tmp_path,)).entry("bare").problem
    shutil.rmtree(tmp_path / "bare")
    assert "bare" not in discover((tmp_path,))


def add_weights(folder, name, value, **keys):
    """Write a network whose logits are all `value`, and its entry in the card."""
    path = folder / f"{name}.safetensors"
    save_file({"1.weight": torch.zeros(10, 64), "1.bias": torch.full((10,), value)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = {"file": path.name, "sha256": digest, "dataset": "digits", "recipe": "none"} | keys
    return "{" + ", ".join(f"{k}: {v}" for k, v in entry.items()) + "}"


def test_variants_of_weights_are_told_apart_by_name(tmp_path):
    folder = plugin(tmp_path, "several")
    sets = [add_weights(folder, "a", 1.0, variant="wide"), add_weights(folder, "b", 2.0)]
    with (folder / "card.yaml").open("a") as card:
        card.write(f"weights: [{', '.join(sets)}]\n")
    x = torch.zeros(1, 1, 8, 8)
    default = load_model("several", dataset="digits", plugins=(tmp_path,))
    wide = load_model("several/wide", dataset="digits", plugins=(tmp_path,))
    assert float(default(x).detach()[0, 0]) == 2.0
    assert float(wide(x).detach()[0, 0]) == 1.0
    assert (registered_identity(default).name, registered_identity(wide).name) == (
        "several",
        "several/wide",
    )
    with pytest.raises(InputError, match=r"several/narrow' has no weights.*several/wide on"):
        load_model("several/narrow", dataset="digits", plugins=(tmp_path,))


def test_weights_that_cannot_be_told_apart_are_refused(tmp_path):
    folder = plugin(tmp_path, "twice")
    sets = [add_weights(folder, "a", 1.0), add_weights(folder, "b", 2.0)]
    with (folder / "card.yaml").open("a") as card:
        card.write(f"weights: [{', '.join(sets)}]\n")
    with pytest.raises(RegistryError, match="cannot be told apart; give one of them a variant"):
        load_model("twice", dataset="digits", plugins=(tmp_path,))
