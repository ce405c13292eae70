"""Training: seeded, resumable, on the manifold, and strict about its recipe."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from oracles.command import dynbench_here
from safetensors.torch import load_file
from torch.nn import functional as F

from robustbench_dyn.errors import InputError, IntegrityError
from robustbench_dyn.flows import lipschitz_bound
from robustbench_dyn.models.loading import discover
from robustbench_dyn.training import augmentation, recipes
from robustbench_dyn.training import loop as training
from robustbench_dyn.training.cards import card_entry
from robustbench_dyn.training.losses import Loss, orthogonality_penalty
from robustbench_dyn.training.optimizers import (
    Decay,
    OptimizerSettings,
    make_optimizer,
    make_schedule,
)

PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "seed_experiment"

RECIPE = """
model: lipflow
dataset: digits
norm: L2
options: {channels: 8, terms: 16, depth: 1, dense_depth: 2}
loss: {offset: 0.3, temperature: 0.25}
optimizer: adam
learning_rate: 0.01
augmentation: {shift: 1}
epochs: 3
batch_size: 128
seed: 0
"""


@pytest.fixture
def architecture():
    return discover().get("lipflow")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "digits.yaml"
    path.write_text(RECIPE)
    return recipes.read_recipe(path)


def weights(path):
    return torch.cat([tensor.flatten() for tensor in load_file(path).values()])


def test_training_is_fixed_by_its_seed_and_learns(architecture, recipe, tmp_path):
    first = training.train(recipe, architecture, tmp_path / "a.safetensors")
    training.train(recipe, architecture, tmp_path / "b.safetensors")
    other = recipe.model_copy(update={"seed": 1})
    training.train(other, architecture, tmp_path / "c.safetensors")
    a, b, c = (weights(tmp_path / f"{name}.safetensors") for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    data = training.load_dataset("digits", split="test")
    with torch.no_grad():
        accuracy = (first.model(data.x).argmax(dim=1) == data.y).double().mean()
    assert accuracy > 0.6
    assert lipschitz_bound(first.model.features) <= 1 + 1e-4


@pytest.mark.parametrize("stop_at", [16, 22])
def test_a_stopped_training_ends_with_the_same_weights(stop_at, architecture, recipe, tmp_path):
    def stop(report):
        if report.step == stop_at:
            raise KeyboardInterrupt

    training.train(recipe, architecture, tmp_path / "whole.safetensors")
    out = tmp_path / "stopped.safetensors"
    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, architecture, out, progress=stop)
    assert not out.exists()
    steps = []
    training.train(recipe, architecture, out, progress=lambda report: steps.append(report.step))
    assert torch.equal(weights(out), weights(tmp_path / "whole.safetensors"))
    assert steps[0] > 1, "it started anew instead of going on"
    assert not out.with_suffix(".checkpoint").exists()


@pytest.mark.slow
def test_a_killed_training_goes_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "digits.yaml").write_text(RECIPE.replace("epochs: 3", "epochs: 30"))
    options = ["train", "--model", "lipflow", "--dataset", "digits"]
    options += ["--recipe", "digits.yaml", "--out", "w.safetensors"]
    killed = subprocess.Popen(
        [sys.executable, "-c", "from robustbench_dyn.cli import main; main()", *options],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = tmp_path / "w.checkpoint"
    deadline = time.monotonic() + 120
    while not checkpoint.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert checkpoint.is_file()
    assert not (tmp_path / "w.safetensors").exists(), "it ended before it was killed"
    resumed = dynbench_here(options, tmp_path, monkeypatch, capsys)
    assert resumed.returncode == 0, resumed.stderr
    assert "sha256" in resumed.stdout
    assert (tmp_path / "w.safetensors").is_file()


def test_a_damaged_or_foreign_checkpoint_is_refused(architecture, recipe, tmp_path):
    def stop(report):
        if report.epoch == 1:
            raise KeyboardInterrupt

    out = tmp_path / "w.safetensors"
    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, architecture, out, progress=stop)
    other = recipe.model_copy(update={"learning_rate": 0.02})
    with pytest.raises(InputError, match="belongs to another recipe"):
        training.train(other, architecture, out)
    checkpoint = out.with_suffix(".checkpoint")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(IntegrityError, match="cannot be read"):
        training.train(recipe, architecture, out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epochs: 3", "epochs: 0"), "epochs"),
        (("optimizer: adam", "optimizer: magic"), "optimizer"),
        (("seed: 0", "seeds: 0"), "unknown key 'seeds'"),
        (("learning_rate: 0.01", "learning_rate: -1"), "learning_rate"),
        (("seed: 0", "momentum: 0.9"), "only sgd has momentum"),
        (("seed: 0", "decay: {every: 0}"), "decay.every"),
        (("seed: 0", "warmup: 0.1\ndecay: {every: 1}"), "warmup belongs"),
        (("offset: 0.3, temperature: 0.25", "kind: hinge"), "hinge requires a margin"),
        (("offset: 0.3", "margin: 0.3"), "hinge requires a margin"),
        (("offset: 0.3", "kind: hinge, margin: 0.3"), "temperature belongs to cross_entropy"),
        (("{shift: 1}", "{noise: -0.1}"), "noise"),
        (("{shift: 1}", "{noise: 64}"), "noise"),
        (
            ("{shift: 1}", "{noise: 0.1}\nadversary: {norm: L2, eps: 0.5}"),
            "and an adversary must not; drop one",
        ),
    ],
)
def test_recipes_are_strict(change, message, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace(*change))
    with pytest.raises(InputError, match=message):
        recipes.read_recipe(path)


def test_another_model_and_too_few_examples_are_refused(architecture, recipe, tmp_path):
    other = recipe.model_copy(update={"model": "euler_resnet"})
    with pytest.raises(InputError, match="for model 'euler_resnet'"):
        training.train(other, architecture, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="fewer than one batch"):
        training.train(recipe, architecture, tmp_path / "w.safetensors", n_examples=100)
    with pytest.raises(InputError, match=r"no recipe digits\.yaml \(it has: .*fashion_mnist\.yaml"):
        recipes.find_recipe(architecture, "digits")
    with pytest.raises(InputError, match=r"no recipe fashion_mnist-other\.yaml"):
        recipes.find_recipe(architecture, "fashion_mnist", "other")


def test_noise_is_gaussian_seeded_unclipped_and_new_each_batch():
    def augment(noise, generator=None):
        generator = generator or torch.Generator().manual_seed(3)
        return augmentation.augment(x, augmentation.Augmentation(noise=noise), generator)

    x = torch.full((8, 1, 50, 50), 0.9)
    delta = augment(0.25) - x
    # Four standard errors of 20,000 draws: 4 * 0.25 / sqrt(20,000), and that over sqrt(2).
    assert abs(float(delta.mean())) < 0.0071
    assert abs(float(delta.std()) - 0.25) < 0.005
    assert augment(0.25).max() > 1
    assert torch.equal(augment(0.25), augment(0.25))
    one = torch.Generator().manual_seed(3)
    assert not torch.equal(augment(0.25, one), augment(0.25, one))
    assert augment(0.0) is x


def test_a_recipe_with_noise_trains_and_goes_on_after_a_stop(architecture, tmp_path):
    (tmp_path / "noisy.yaml").write_text(RECIPE.replace("{shift: 1}", "{noise: 0.1}"))
    recipe = recipes.read_recipe(tmp_path / "noisy.yaml")

    def stop(report):
        if report.step == 16:
            raise KeyboardInterrupt

    whole = training.train(recipe, architecture, tmp_path / "whole.safetensors")
    out = tmp_path / "stopped.safetensors"
    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, architecture, out, progress=stop)
    assert training.train(recipe, architecture, out).sha256 == whole.sha256
    quiet = recipe.model_copy(update={"augmentation": augmentation.Augmentation()})
    other = training.train(quiet, architecture, tmp_path / "quiet.safetensors")
    assert other.sha256 != whole.sha256


def test_margin_loss_is_cross_entropy_where_the_offset_is_zero():
    logits, y = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 5
    plain = training.margin_loss(logits, y, Loss(offset=0.0, temperature=1.0))
    assert torch.allclose(plain, F.cross_entropy(logits, y))
    pushed = training.margin_loss(logits, y, Loss(offset=1.0, temperature=1.0))
    assert pushed > plain


def test_a_hinge_is_its_formula_and_vanishes_beyond_its_margin():
    logits = torch.tensor([[1.0, 0.8, 0.0], [0.0, 3.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([0, 1])
    hinge = Loss(kind="hinge", margin=0.5)
    # One class of the first example lies 0.2 behind; the others are further than the margin.
    assert float(training.margin_loss(logits, y, hinge)) == pytest.approx(0.3 / 3 / 2)
    assert training.margin_loss(10 * logits, y, hinge) == 0


def published(architecture, **changes):
    """Return a recipe like the published one, for the digits."""
    content = {
        "model": architecture.name,
        "dataset": "digits",
        "epochs": 3,
        "batch_size": 128,
        "options": {"channels": 8, "terms": 8, "depth": 1, "dense_depth": 1},
        "loss": {"kind": "hinge", "margin": 0.3},
        "optimizer": "sgd",
        "momentum": 0.9,
        "learning_rate": 0.05,
        "decay": {"every": 1, "factor": 4},
        "augmentation": {"crop": 1},
    }
    return recipes.Recipe.model_validate(content | changes)


def test_training_by_sgd_in_steps_on_a_hinge_learns_and_resumes(architecture, tmp_path):
    def stop(report):
        if report.step == 16:
            raise KeyboardInterrupt

    recipe = published(architecture)
    whole = training.train(recipe, architecture, tmp_path / "whole.safetensors")
    data = training.load_dataset("digits", split="test")
    with torch.no_grad():
        accuracy = (whole.model(data.x).argmax(dim=1) == data.y).double().mean()
    assert accuracy > 0.25, "chance is 0.1"
    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, architecture, tmp_path / "w.safetensors", progress=stop)
    training.train(recipe, architecture, tmp_path / "w.safetensors")
    assert torch.equal(weights(tmp_path / "w.safetensors"), weights(tmp_path / "whole.safetensors"))


def test_the_learning_rate_falls_in_steps_or_in_one_cycle():
    def rates(decay):
        settings = OptimizerSettings(optimizer="sgd", learning_rate=0.8, momentum=0.9)
        optimizer = make_optimizer(settings, [torch.nn.Parameter(torch.zeros(1))])
        schedule = make_schedule(
            optimizer, decay, learning_rate=0.8, warmup=0.2, epochs=5, steps_per_epoch=2
        )
        found = []
        for _ in range(10):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert optimizer.param_groups[0]["momentum"] == 0.9
        return found

    assert rates(Decay(every=2, factor=4)) == pytest.approx([0.8] * 4 + [0.2] * 4 + [0.05] * 2)
    cycle = rates(None)
    assert max(cycle) == pytest.approx(0.8)
    assert cycle[0] < 0.1
    assert cycle[-1] < 0.01


def test_the_penalty_keeps_convolutions_near_orthogonality(tmp_path):
    architecture = discover((PUBLISHED,)).get("published_resnet")
    defects = {}
    for weight in (0.0, 1.0):
        recipe = published(
            architecture,
            orthogonality=weight,
            loss={"kind": "hinge", "margin": 2.0},
            epochs=2,
            learning_rate=0.2,
            options={"steps": "naive", "channels": 4, "n_blocks": 1, "free_scales": False},
        )
        model = training.train(recipe, architecture, tmp_path / f"{weight}.safetensors").model
        defects[weight] = float(orthogonality_penalty(model).detach())
    assert defects[1.0] < defects[0.0] / 2


def test_a_penalty_that_no_layer_measures_is_refused(architecture, tmp_path):
    recipe = published(architecture, orthogonality=1.0)
    with pytest.raises(InputError, match="no module of the model has the method"):
        training.train(recipe, architecture, tmp_path / "w.safetensors")


def test_a_crop_moves_examples_apart_and_a_shift_together():
    x = torch.arange(1.0, 65.0).reshape(1, 1, 8, 8).repeat(16, 1, 1, 1)

    def offsets(chosen):
        moved = augmentation.augment(x, chosen, torch.Generator().manual_seed(0))
        assert moved.shape == x.shape
        windows = F.pad(x[:1], (2,) * 4)
        found = []
        for one in moved:
            places = [
                (i, j)
                for i in range(5)
                for j in range(5)
                if torch.equal(windows[0, :, i : i + 8, j : j + 8], one)
            ]
            assert len(places) == 1, "what came out is no crop of the padded picture"
            found += places
        return set(found)

    assert len(offsets(augmentation.Augmentation(crop=2))) > 4
    assert len(offsets(augmentation.Augmentation(shift=2))) == 1


def test_a_checkpoint_from_before_a_key_was_there_goes_on(architecture, recipe, tmp_path):
    def stop(report):
        if report.epoch == 1:
            raise KeyboardInterrupt

    out = tmp_path / "w.safetensors"
    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, architecture, out, progress=stop)
    checkpoint = out.with_suffix(".checkpoint")
    kept = torch.load(checkpoint, weights_only=True)
    content, _, n_examples = kept["fingerprint"].rpartition(" ")
    older = json.loads(content)
    for key in ("orthogonality", "momentum", "decay"):
        del older[key]
    torch.save(kept | {"fingerprint": f"{json.dumps(older)} {n_examples}"}, checkpoint)
    steps = []
    training.train(recipe, architecture, out, progress=lambda report: steps.append(report.step))
    assert steps[0] > 1


def test_the_entry_for_the_card_fits_its_schema(architecture, recipe, tmp_path):
    trained = training.train(recipe, architecture, tmp_path / "w.safetensors")
    file, recipe_file = "weights/digits.safetensors", "recipes/digits.yaml"
    entry = card_entry(recipe, trained, file=file, recipe_file=recipe_file)
    card = architecture.card.model_dump() | {"weights": [entry]}
    (weights,) = type(architecture.card).model_validate(card).weights
    assert (weights.dataset, weights.sha256) == ("digits", trained.sha256)
    assert weights.training_seconds == pytest.approx(trained.seconds, abs=0.05)
