"""The command train: accuracies at the end, weights in their place, a picture, other data."""

import hashlib
import json
import re

import numpy as np
import pytest
import yaml
from oracles.command import dynbench_here, refused

from robustbench_dyn import load_dataset
from robustbench_dyn.cli.scaffolding import write_plugin
from robustbench_dyn.training import loop


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    return lambda *arguments: dynbench_here(arguments, tmp_path, monkeypatch, capsys)


@pytest.fixture
def mine(tmp_path):
    """A new plugin whose recipe has two epochs."""
    folder = write_plugin(tmp_path / "mine", "architecture")
    recipe = folder / "recipes" / "moons.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 60", "epochs: 2"))
    return folder


TRAIN = ["train", "--model", "mine", "--plugins", "mine"]


def test_training_ends_with_accuracies_on_held_out_examples(command, mine):
    result = command(*TRAIN)
    assert result.returncode == 0, result.stderr
    assert "on the first 500 test examples of moons: clean " in result.stdout
    assert "certified" in result.stdout
    assert "at L2 0.09 by lipschitz" in result.stdout
    assert "file: weights/moons.safetensors" in result.stdout


def test_accuracies_are_those_of_examples_that_a_recipe_holds_out(command, mine):
    recipe = mine / "recipes" / "moons.yaml"
    recipe.write_text(recipe.read_text() + "held_out: 150\n")
    result = command(*TRAIN, "--quiet")
    assert "on the 150 held-out training examples of moons: clean " in result.stdout, result.stderr


def test_a_radius_may_be_given(command, mine):
    result = command(*TRAIN, "--eps", "0.15", "--quiet")
    assert "at L2 0.15 by lipschitz" in result.stdout
    assert result.stderr == ""


@pytest.mark.slow
def test_accuracies_are_those_of_a_run(command, mine, tmp_path):
    said = command(*TRAIN, "--install", "--eps", "0.02").stdout
    (by,) = re.findall(r"certified .* by (\w+(?:, \w+)*)", said)
    run = ["run", "--model", "mine", "--plugins", "mine", "--dataset", "moons", "--eps", "0.02"]
    result = command(*run, "--n-examples", "500", "--attacks", "none", "--json", "--certifiers", by)
    (row,) = json.loads(result.stdout)["rows"]
    assert f"clean {row['clean_accuracy']:.1%}, certified {row['certified_accuracy']:.1%}" in said
    assert row["certified_accuracy"] > 0


@pytest.mark.slow
def test_installed_weights_and_entry_are_used(command, mine, tmp_path):
    result = command(*TRAIN, "--install")
    assert f"installed: {mine}/weights/moons.safetensors; added its entry" in result.stdout
    assert not (tmp_path / "trained").exists()
    text = (mine / "card.yaml").read_text()
    (entry,) = yaml.safe_load(text)["weights"]
    content = (mine / entry["file"]).read_bytes()
    assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert text.startswith("# What the plugin is and brings")
    assert "; replaced its entry in" in command(*TRAIN, "--install").stdout
    assert len(yaml.safe_load((mine / "card.yaml").read_text())["weights"]) == 1
    assert command("check", "mine").returncode == 0


def test_a_recipe_from_elsewhere_is_copied(command, mine, tmp_path):
    recipe = tmp_path / "slow.yaml"
    recipe.write_text((mine / "recipes" / "moons.yaml").read_text() + "variant: slow\n")
    result = command(*TRAIN, "--recipe", "slow.yaml", "--install")
    assert result.returncode == 0, result.stderr
    assert (mine / "recipes" / "slow.yaml").read_text() == recipe.read_text()
    (entry,) = yaml.safe_load((mine / "card.yaml").read_text())["weights"]
    assert (entry["variant"], entry["recipe"]) == ("slow", "recipes/slow.yaml")
    recipe.write_text(recipe.read_text() + "weight_decay: 0.1\n")
    refused(command(*TRAIN, "--recipe", "slow.yaml", "--install"), "is another recipe than slow")


def test_a_recipe_trains_on_another_data_set(command, mine):
    recipe = ["--recipe", "mine/recipes/moons.yaml"]
    result = command(*TRAIN, *recipe, "--dataset", "spirals", "--install")
    assert "on the first 500 test examples of spirals" in result.stdout
    (entry,) = yaml.safe_load((mine / "card.yaml").read_text())["weights"]
    assert (entry["dataset"], entry["file"]) == ("spirals", "weights/spirals.safetensors")


def test_without_a_recipe_for_a_data_set_those_there_are_named(command, mine):
    words = ["no recipe digits.yaml (it has: moons.yaml)", "--recipe FILE"]
    refused(command(*TRAIN, "--dataset", "digits"), *words)
    other = ["train", "--model", "mine/slow", "--plugins", "mine"]
    refused(command(*other), "no recipe fashion_mnist-slow.yaml (it has: moons.yaml)")


@pytest.mark.parametrize("name", ["t.png", pytest.param("t.svg", marks=pytest.mark.slow)])
def test_the_loss_is_drawn(command, mine, tmp_path, name):
    assert f"loss and accuracy by epoch: {name}" in command(*TRAIN, "--plot", name).stdout
    assert (tmp_path / name).stat().st_size > 1000


def test_a_picture_changes_no_weight(command, mine, tmp_path):
    command(*TRAIN, "--out", "a.safetensors")
    command(*TRAIN, "--out", "b.safetensors", "--plot", "t.png")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_weights_for_files_are_installed_and_used(command, mine, tmp_path):
    moons = {s: load_dataset("moons", split=s, n_examples=60) for s in ("train", "test")}
    arrays = {f"{k}_{s}": getattr(d, k).numpy() for s, d in moons.items() for k in "xy"}
    np.savez(tmp_path / "own.npz", **arrays)
    on_files = ("--plugins", "mine", "--dataset", "npz:own.npz")
    trained = command("train", "--model", "mine", *on_files, "--install")
    assert "on the first 60 test examples of own-" in trained.stdout, trained.stderr
    run = command("run", "--model", "mine", *on_files, "--attacks", "none", "--eps", "0.01")
    assert "mine on 60 examples of own-" in run.stdout, run.stderr
    publish = ("leaderboard", "--store", "dynbench.sqlite", "--to", "tables", "--check")
    published = command(*publish, "--plugins", "mine", "--trust")
    assert published.returncode == 0, published.stderr
    assert "mine is not measured, since its data set own-" in published.stderr
    checked = command("check", "mine")
    assert checked.stdout.startswith("model mine as it is built from seed 0"), checked.stderr
    other = tmp_path / "other.npz"
    np.savez(other, x=arrays["x_test"][:9], y=arrays["y_test"][:9])
    elsewhere = command("run", "--model", "mine", *on_files[:3], "npz:other.npz")
    refused(elsewhere, "has no weights for dataset 'other-", "--dataset FILES")


def test_a_training_that_diverges_installs_nothing(command, mine, monkeypatch):
    true_loss, calls = loop.margin_loss, []

    def loss(*arguments):
        calls.append(1)
        return true_loss(*arguments) * (float("nan") if len(calls) == 25 else 1)

    monkeypatch.setattr(loop, "margin_loss", loss)
    before = (mine / "card.yaml").read_text()
    words = ["training diverged in epoch 2 of 2, step 5: the loss is nan", "after epoch 1"]
    refused_after_progress(command(*TRAIN, "--install"), *words, "Lower learning_rate")
    assert (mine / "card.yaml").read_text() == before
    assert not (mine / "weights").exists()
    assert (mine.parent / "trained" / "mine-moons.checkpoint").is_file()


def refused_after_progress(result, *words):
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in last


def test_certified_training_is_measured_in_its_own_ball(command, mine):
    recipe = mine / "recipes" / "moons.yaml"
    recipe.write_text(recipe.read_text() + "adversary: {norm: Linf, eps: 4/255, n_steps: 1}\n")
    assert "at Linf 4/255 by lipschitz" in command(*TRAIN).stdout


def test_weights_that_cannot_be_installed_are_refused_first(command, mine, tmp_path):
    (mine / "weights").write_text("in the way")
    refused(command(*TRAIN, "--install"), "moons.safetensors cannot be written")
    assert not (tmp_path / "trained").exists()


RECIPE = ["--recipe", "mine/recipes/moons.yaml"]
BAD = {
    "no number": (["--eps", "wide"], "eps='wide' is not a number"),
    "a negative radius": (["--eps", "-1"], "eps=-1.0 is not a positive number"),
    "a wide radius": (["--eps", "9"], "eps=9 in L2 is more than a quarter"),
    "a text as picture": (["--plot", "t.txt"], "t.txt must end in"),
    "a picture in /proc": (["--plot", "/proc/x.png"], "/proc/x.png cannot be written"),
    "no recipe": (["--recipe", "nowhere.yaml"], "nowhere.yaml cannot be read"),
    "a folder as recipe": (["--recipe", "mine"], "mine is no regular file"),
    "a folder to install": (["--recipe", "mine", "--install"], "mine is no regular file"),
    "a card as recipe": (["--recipe", "mine/card.yaml"], "unknown key 'name'"),
    "a recipe of another": (["--recipe", "lipflow.yaml"], "is for model 'lipflow', not 'mine'"),
    "unknown data": ([*RECIPE, "--dataset", "digitz"], "did you mean 'digits'?"),
    "a path as data": ([*RECIPE, "--dataset", "../x"], "no data set is called '../x'"),
    "too few examples": (["--n-examples", "3"], "3 examples are fewer than one batch of 50"),
    "no examples": (["--n-examples", "0"], "n_examples=0 is out of range"),
    "no device": (["--device", "abacus"], "device='abacus' is no device"),
    "another suffix": (["--out", "w.pt"], "w.pt must end in .safetensors"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_option_is_refused_before_the_training(command, mine, tmp_path, options, words):
    text = (mine / "recipes" / "moons.yaml").read_text()
    (tmp_path / "lipflow.yaml").write_text(text.replace("model: mine", "model: lipflow"))
    refused(command(*TRAIN, *options), words)
    assert not (tmp_path / "trained").exists()
    assert not (mine / "weights").exists()
