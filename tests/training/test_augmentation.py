"""Augmentation by cutout, mixup and cutmix, and what a recipe may not combine with mixes."""

import pytest
import torch
from torch.nn import functional as F

from robustbench_dyn.errors import InputError
from robustbench_dyn.models.loading import discover
from robustbench_dyn.training import loop, recipes
from robustbench_dyn.training.augmentation import Augmentation, augment, mix

RECIPE = """
model: euler_resnet
dataset: moons
options: {channels: 4, depth: 1}
epochs: 2
batch_size: 100
seed: 0
"""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def recipe(tmp_path, lines):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + lines)
    return recipes.read_recipe(path)


def test_cutout_zeroes_one_square_around_a_random_pixel():
    x = torch.ones(400, 3, 9, 9)
    cut = augment(x, Augmentation(cutout=4), seeded()) == 0
    assert (cut == cut[:, :1]).all(), "all channels lose the same pixels"
    rows, columns = cut[:, 0].any(dim=2).sum(dim=1), cut[:, 0].any(dim=1).sum(dim=1)
    assert (cut[:, 0].sum(dim=(1, 2)) == rows * columns).all(), "what is lost is a rectangle"
    # At the border, a part of the square lies outside.
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4}
    share = cut.double().mean(dim=(0, 1))
    assert share[4, 4] > share[0, 0] > 0
    assert torch.equal(cut, augment(x, Augmentation(cutout=4), seeded()) == 0)
    assert not torch.equal(cut, augment(x, Augmentation(cutout=4), seeded(1)) == 0)
    assert augment(x, Augmentation(), seeded()) is x


def test_mixup_is_the_convex_combination_of_two_images():
    x, y = torch.rand(32, 1, 4, 4, generator=seeded(9)), torch.arange(32)
    mixed = mix(x, y, Augmentation(mixup=1.0), seeded())
    assert sorted(mixed.others.tolist()) == y.tolist()
    assert 0 < mixed.share < 1
    expected = mixed.share * x + (1 - mixed.share) * x[mixed.others]
    torch.testing.assert_close(mixed.x, expected)


def test_cutmix_puts_a_rectangle_of_another_image_and_counts_its_area():
    y = torch.arange(64)
    x = (1.0 + y).reshape(-1, 1, 1, 1).expand(64, 2, 12, 8)
    shares = set()
    for seed in range(20):
        mixed = mix(x, y, Augmentation(cutmix=1.0), seeded(seed))
        other = mixed.x == (1.0 + mixed.others).reshape(-1, 1, 1, 1)
        moved = mixed.others != y
        assert (other | (mixed.x == x)).all()
        inside = 1 - other[moved].double().mean(dim=(1, 2, 3))
        torch.testing.assert_close(inside, torch.full_like(inside, mixed.share))
        pasted = other[moved][0, 0]
        assert pasted.sum() == pasted.any(dim=0).sum() * pasted.any(dim=1).sum()
        shares.add(mixed.share)
    assert len(shares) > 10


@pytest.mark.parametrize("parameter", [0.2, 4.0])
def test_shares_follow_the_beta_distribution(parameter):
    x, y, generator = torch.zeros(2, 1, 1, 1), torch.arange(2), seeded()
    settings = Augmentation(mixup=parameter)
    shares = torch.tensor([mix(x, y, settings, generator).share for _ in range(2000)])
    assert abs(float(shares.mean()) - 0.5) < 0.04
    variance = 1 / (4 * (2 * parameter + 1))
    assert float(shares.var()) == pytest.approx(variance, rel=0.1)


def test_the_loss_of_a_mix_is_mixed_from_the_losses_of_both_labels(tmp_path, monkeypatch):
    architecture = discover().get("euler_resnet")
    chosen = recipe(tmp_path, "augmentation: {mixup: 1.0}")
    values, seen = [], []
    step, original = loop._step, loop.mix

    def kept(x, y, augmentation, generator):
        seen.append((y, original(x, y, augmentation, generator)))
        return seen[-1][1]

    def checked(state, x, y, generator, **options):
        weights = [p.detach().clone() for p in state.model.parameters()]
        value = step(state, x, y, generator, **options)
        labels, mixed = seen[-1]
        names = [name for name, _ in state.model.named_parameters()]
        before = dict(zip(names, weights, strict=True))
        logits = torch.func.functional_call(state.model, before, (mixed.x,))
        targets = mixed.share * F.one_hot(labels, 2) + (1 - mixed.share) * F.one_hot(
            mixed.others, 2
        )
        values.append((value, float(F.cross_entropy(logits, targets))))
        return value

    monkeypatch.setattr(loop, "mix", kept)
    monkeypatch.setattr(loop, "_step", checked)
    loop.train(chosen, architecture, tmp_path / "w.safetensors")
    found, expected = zip(*values, strict=True)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("setting", ["mixup: 0.4", "cutmix: 1.0"])
def test_a_training_with_mixes_is_fixed_by_its_seed(setting, tmp_path):
    architecture = discover().get("euler_resnet")
    mixed = recipe(tmp_path, f"augmentation: {{{setting}}}")
    first = loop.train(mixed, architecture, tmp_path / "a.safetensors")
    assert loop.train(mixed, architecture, tmp_path / "b.safetensors").sha256 == first.sha256
    plain = loop.train(recipe(tmp_path, ""), architecture, tmp_path / "c.safetensors")
    assert plain.sha256 != first.sha256


TWO_LABELS = "mixup and cutmix give an image two labels"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("augmentation: {mixup: 0.4, cutmix: 1}", "drop mixup or cutmix"),
        ("augmentation: {mixup: 0.4, noise: 0.25}", "drop mixup or noise"),
        ("augmentation: {mixup: 0.4}\nloss: {offset: 0.3}", TWO_LABELS),
        ("augmentation: {cutmix: 1}\nloss: {annealing: 2}", TWO_LABELS),
        ("augmentation: {cutmix: 1}\nloss: {kind: hinge, margin: 0.3}", TWO_LABELS),
        ("augmentation: {mixup: 1}\nloss: {kind: radius, radius: 1}", TWO_LABELS),
        ("augmentation: {cutmix: 1}\nadversary: {norm: L2, eps: 0.1}", TWO_LABELS),
        ("augmentation: {cutout: -1}", "augmentation.cutout"),
        ("augmentation: {mixup: -0.1}", "augmentation.mixup"),
        ("augmentation: {cutmix: 1000}", "augmentation.cutmix"),
    ],
)
def test_combinations_without_sense_are_refused(lines, message, tmp_path):
    with pytest.raises(InputError, match=message) as raised:
        recipe(tmp_path, lines)
    assert "\n" not in str(raised.value)


def test_cutmix_takes_noise_and_a_temperature(tmp_path):
    lines = "augmentation: {cutmix: 1, noise: 0.25}\nloss: {temperature: 0.5}"
    assert recipe(tmp_path, lines).augmentation.mixes
