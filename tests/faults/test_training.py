"""Training writes whole files with finite weights, or says in one sentence why not."""

import io
import os

import pytest
import torch
from oracles.command import dynbench_here, refused
from safetensors.torch import load_file

from robustbench_dyn.errors import DynbenchError, InputError, IntegrityError, TrainingError
from robustbench_dyn.models.loading import discover
from robustbench_dyn.training import loop as training
from robustbench_dyn.training import recipes

RECIPE = """
model: feedforward
dataset: moons
norm: L2
options: {channels: 4, depth: 1, hidden: 8}
optimizer: adam
learning_rate: 0.01
epochs: 3
batch_size: 128
seed: 0
"""
OPTIONS = ["train", "--model", "feedforward", "--dataset", "moons", "--n-examples", "256"]


@pytest.fixture(scope="module")
def architecture():
    return discover().get("feedforward")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "moons.yaml"
    path.write_text(RECIPE)
    return recipes.read_recipe(path)


def train(recipe, architecture, out, **options):
    return training.train(recipe, architecture, out, n_examples=256, **options)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def stop_in_epoch(epoch):
    def stop(report):
        if report.epoch == epoch:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("x.checkpoint", "must end in .safetensors"),
        ("x", "must end in .safetensors"),
        ("folder.safetensors", "folder.safetensors cannot be written: Is a directory"),
        ("taken.safetensors", "taken.checkpoint cannot be written: Is a directory"),
        ("moons.yaml/x.safetensors", "cannot be written"),
        ("/proc/x.safetensors", "cannot be written"),
    ],
)
def test_a_place_that_takes_no_weights_is_refused_first(
    out, words, recipe, tmp_path, monkeypatch, capsys
):
    for name in ("folder.safetensors", "taken.checkpoint"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(training, "load_dataset", None)
    before = sorted(tmp_path.rglob("*"))
    options = [*OPTIONS, "--recipe", "moons.yaml", "--out", out]
    refused(dynbench_here(options, tmp_path, monkeypatch, capsys), words)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_read_only_folder_is_refused_first(recipe, tmp_path, monkeypatch, capsys):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    monkeypatch.setattr(training, "load_dataset", None)
    options = [*OPTIONS, "--recipe", "moons.yaml", "--out", "w.safetensors"]
    refused(dynbench_here(options, tmp_path, monkeypatch, capsys), "Read-only file system")


def test_weights_are_written_to_a_new_folder(recipe, tmp_path, monkeypatch, capsys):
    options = [*OPTIONS, "--recipe", "moons.yaml", "--out", "a/b/w.safetensors"]
    assert dynbench_here(options, tmp_path, monkeypatch, capsys).returncode == 0
    assert list(files(tmp_path / "a" / "b")) == ["w.safetensors"]


@pytest.mark.parametrize(
    "change",
    [
        ("learning_rate: 0.01", "learning_rate: .inf"),
        ("learning_rate: 0.01", "learning_rate: .nan"),
        ("learning_rate: 0.01", "learning_rate: 1.0e+300"),
        ("seed: 0", "weight_decay: .inf"),
        ("seed: 0", "weight_decay: 1.0e+300"),
        ("seed: 0", "orthogonality: .inf"),
        ("seed: 0", "seed: 99999999999999999999"),
        ("seed: 0", "loss: {temperature: 1.0e-300}"),
        ("seed: 0", "loss: {temperature: .inf}"),
        ("seed: 0", "loss: {offset: .nan}"),
        ("seed: 0", "loss: {kind: hinge, margin: .inf}"),
        ("seed: 0", "adversary: {norm: L2, eps: .inf}"),
        ("seed: 0", "adversary: {norm: L2, eps: 0.1, n_steps: 1000000000}"),
        ("seed: 0", "certified_training: {norm: L2, eps: .nan}"),
        ("seed: 0", "decay: {every: 1, factor: .inf}"),
        ("epochs: 3", "epochs: 1000000000000"),
        ("hidden: 8", "hidden: .inf"),
        ("dataset: moons", "dataset: ../../moons"),
    ],
)
def test_recipes_refuse_absurd_numbers(change, tmp_path):
    path = tmp_path / "moons.yaml"
    path.write_text(RECIPE.replace(*change))
    with pytest.raises(InputError, match=r"moons\.yaml"):
        recipes.read_recipe(path)


@pytest.mark.parametrize("section", ["adversary", "certified_training"])
def test_a_ball_as_wide_as_the_inputs_is_refused(section, architecture, tmp_path):
    for norm, eps in (("L2", "1.0e+300"), ("L1", "100"), ("Linf", "1.5")):
        path = tmp_path / "moons.yaml"
        path.write_text(RECIPE + f"{section}: {{norm: {norm}, eps: {eps}}}\n")
        with pytest.raises(InputError, match=r"eps=.*(quarter|wider)"):
            train(recipes.read_recipe(path), architecture, tmp_path / "w.safetensors")


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_loss_that_is_not_finite_stops_the_training(
    step, recipe, architecture, tmp_path, monkeypatch
):
    out, calls, true_loss = tmp_path / "w.safetensors", [], training.margin_loss

    def loss(*arguments):
        calls.append(1)
        return true_loss(*arguments) * (float("nan") if len(calls) == step else 1)

    monkeypatch.setattr(training, "margin_loss", loss)
    with pytest.raises(TrainingError, match="the loss is nan") as caught:
        train(recipe, architecture, out)
    message, epoch = str(caught.value), (step - 1) // 2
    assert f"epoch {epoch + 1} of 3" in message
    assert not out.exists()
    checkpoint = tmp_path / "w.checkpoint"
    assert checkpoint.exists() == (epoch > 0)
    if epoch:
        assert f"w.checkpoint holds the weights after epoch {epoch}" in message
        kept = torch.load(checkpoint, weights_only=True)
        assert all(tensor.isfinite().all() for tensor in kept["model"].values())
    else:
        assert "nothing is kept" in message


@pytest.mark.parametrize("epoch", [0, 2])
def test_weights_that_are_not_finite_are_not_written(
    epoch, recipe, architecture, tmp_path, monkeypatch
):
    out = tmp_path / "w.safetensors"

    def spoil(model):
        # The last step of an epoch: no later loss tells.
        steps.append(1)
        if len(steps) == 2 * (epoch + 1):
            with torch.no_grad():
                next(model.parameters()).fill_(float("inf"))

    steps = []
    monkeypatch.setattr(training, "retract", spoil)
    with pytest.raises(TrainingError, match="a weight is not finite"):
        train(recipe, architecture, out)
    assert not out.exists()
    assert (tmp_path / "w.checkpoint").exists() == (epoch > 0)


def test_weights_without_a_factorisation_end_the_training(
    recipe, architecture, tmp_path, monkeypatch
):
    def retract(_):
        torch.linalg.cholesky(-torch.eye(2))

    monkeypatch.setattr(training, "retract", retract)
    with pytest.raises(TrainingError, match=r"step 1: .*not positive-definite.*nothing is kept"):
        train(recipe, architecture, tmp_path / "w.safetensors")


def test_a_recipe_that_diverges_ends_with_a_sentence(tmp_path, monkeypatch, capsys):
    diverging = (
        RECIPE.replace("adam", "sgd").replace("0.01", "1000").replace("epochs: 3", "epochs: 30")
    )
    (tmp_path / "moons.yaml").write_text(diverging + "weight_decay: 1000\n")
    options = [*OPTIONS, "--recipe", "moons.yaml", "--out", "w.safetensors"]
    result = dynbench_here(options, tmp_path, monkeypatch, capsys)
    assert result.returncode == 2
    assert "training diverged" in result.stderr
    assert not (tmp_path / "w.safetensors").exists()


def damaged(change):
    def damage(content):
        checkpoint = torch.load(io.BytesIO(content), weights_only=True)
        replaced = change(checkpoint)
        written = io.BytesIO()
        torch.save(checkpoint if replaced is None else replaced, written)
        return written.getvalue()

    return damage


def spoil_moment(checkpoint):
    checkpoint["descents"][0]["optimizer"]["state"][0]["exp_avg"] = torch.zeros(99)


def spoil_rate(checkpoint):
    checkpoint["descents"][0]["optimizer"]["param_groups"][0]["lr"] = "x"


def spoil_weights(checkpoint):
    next(iter(checkpoint["model"].values())).fill_(float("nan"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:100], "cannot be read"),
        (lambda content: content[:-100], "cannot be read"),
        (lambda _: b"", "cannot be read"),
        (lambda _: b"\x80\x02cos\nsystem\n(S'true'\ntR.", "cannot be read"),
        (damaged(lambda _: [1]), "cannot be read"),
        (damaged(lambda c: c.pop("epoch") and None), "cannot be read"),
        (damaged(lambda c: c.pop("model") and None), "cannot be read"),
        (damaged(lambda c: c.update(fingerprint=3)), "another recipe"),
        (damaged(lambda c: c.update(fingerprint="{} 256")), "another recipe"),
        (damaged(lambda c: c.update(epoch="1")), "cannot be read"),
        (damaged(lambda c: c.update(epoch=10**9)), "cannot be read"),
        (damaged(lambda c: c.update(epoch=-1)), "cannot be read"),
        (damaged(lambda c: c.update(seconds=float("nan"))), "cannot be read"),
        (damaged(lambda c: c["model"].popitem() and None), "cannot be read"),
        (damaged(lambda c: c["descents"][0].update(optimizer={})), "cannot be read"),
        (
            damaged(lambda c: c["descents"][0].update(schedule={"last_epoch": "x"})),
            "cannot be read",
        ),
        (damaged(lambda c: c.update(descents=[])), "cannot be read"),
        (damaged(spoil_rate), "cannot be read"),
        (damaged(spoil_moment), "cannot be read"),
        (damaged(spoil_weights), "not finite"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_kept(damage, words, recipe, architecture, tmp_path):
    out, checkpoint = tmp_path / "w.safetensors", tmp_path / "w.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, architecture, out, progress=stop_in_epoch(1))
    whole = checkpoint.read_bytes()
    content = damage(whole)
    checkpoint.write_bytes(content)
    with pytest.raises((InputError, IntegrityError), match=words):
        train(recipe, architecture, out)
    assert checkpoint.read_bytes() == content
    assert not out.exists()
    # The control: the whole checkpoint is taken.
    checkpoint.write_bytes(whole)
    epochs = []
    train(recipe, architecture, out, progress=lambda report: epochs.append(report.epoch))
    assert set(epochs) == {1, 2}


@pytest.mark.parametrize("failing", range(1, 5))
def test_a_full_disk_leaves_the_last_checkpoint(
    failing, recipe, architecture, tmp_path, monkeypatch
):
    out, fsync, calls = tmp_path / "w.safetensors", os.fsync, []

    def full(handle):
        # Two a file: its content, and its name.
        calls.append(1)
        if len(calls) == 2 * failing - 1:
            raise OSError(28, "No space left on device")
        fsync(handle)

    before = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DynbenchError, match="No space left"):
            train(recipe, architecture, out)
    expected = {"w.checkpoint"} if failing > 1 else set()
    assert set(files(tmp_path)) == {*before, *expected}
    whole = train(recipe, architecture, tmp_path / "whole.safetensors")
    assert train(recipe, architecture, out).sha256 == whole.sha256
    assert all(tensor.isfinite().all() for tensor in load_file(out).values())


@pytest.mark.parametrize(
    ("dataset", "variant"), [("../../x", ""), ("/etc/x", ""), ("moons", "../../x")]
)
def test_a_recipe_is_found_in_its_folder_only(dataset, variant, architecture):
    with pytest.raises(InputError, match="no valid name"):
        recipes.find_recipe(architecture, dataset, variant)


def test_a_training_on_files_resumes(recipe, architecture, tmp_path, monkeypatch):
    true_load = training.load_dataset
    monkeypatch.setattr(
        training, "load_dataset", lambda _, **options: true_load("moons", **options)
    )
    files_of_user = recipe.model_copy(update={"dataset": "npz:points.npz"})
    with pytest.raises(KeyboardInterrupt):
        train(files_of_user, architecture, tmp_path / "a.safetensors", progress=stop_in_epoch(1))
    resumed = train(files_of_user, architecture, tmp_path / "a.safetensors")
    whole = train(recipe, architecture, tmp_path / "b.safetensors")
    assert resumed.sha256 == whole.sha256
