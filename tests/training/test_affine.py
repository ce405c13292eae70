"""Affine augmentation, judged by the slopes of images that are linear in their coordinates."""

import math

import pytest
import torch

from robustbench_dyn.training.affine import Affine
from robustbench_dyn.training.augmentation import Augmentation, augment

HEIGHT, WIDTH = 24, 32


def slopes(images):
    """Return the slopes along rows and columns at the centre, (n, 2); outside pixels are unused."""
    i, j = HEIGHT // 2, WIDTH // 2
    down = images[:, 0, i + 2, j] - images[:, 0, i - 2, j]
    right = images[:, 0, i, j + 2] - images[:, 0, i, j - 2]
    return torch.stack([down, right], dim=1) / 4


def changed(**settings):
    ramp = torch.arange(HEIGHT)[:, None] * 0.01 + torch.arange(WIDTH) * 0.02
    x = ramp.expand(500, 1, HEIGHT, WIDTH)
    return augment(x, Augmentation(affine=Affine(**settings)), torch.Generator().manual_seed(0))


def test_a_rotation_keeps_the_length_of_slopes():
    found = slopes(changed(rotation=30))
    assert found.norm(dim=1).numpy() == pytest.approx(math.hypot(0.01, 0.02), abs=1e-5)
    angles = torch.rad2deg(torch.atan2(found[:, 0], found[:, 1])) - math.degrees(math.atan(0.5))
    # Uniform on [-30, 30].
    assert angles.abs().max() < 30 + 1e-3
    assert float(angles.std()) == pytest.approx(30 / 3**0.5, rel=0.1)


def test_a_scaling_divides_slopes_by_the_scale():
    found = slopes(changed(scale=0.2))
    sizes = torch.tensor([0.01, 0.02]) / found
    assert torch.allclose(sizes[:, 0], sizes[:, 1], atol=1e-4)
    assert float(sizes.min()) == pytest.approx(0.8, abs=0.02)
    assert float(sizes.max()) == pytest.approx(1.2, abs=0.02)


def test_a_shear_moves_columns_and_keeps_slopes_along_them():
    found = slopes(changed(shear=0.2))
    assert found[:, 0].numpy() == pytest.approx(0.01, abs=1e-5)
    moved = (found[:, 1] - 0.02) / 0.01
    assert float(moved.abs().max()) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_examples_are_changed_with_a_probability(probability):
    found = slopes(changed(rotation=30, scale=0.1, shear=0.1, probability=probability))
    kept = (found - torch.tensor([0.01, 0.02])).abs().amax(dim=1) < 1e-6
    assert float(kept.double().mean()) == pytest.approx(1 - probability, abs=0.06)


def test_the_same_seed_gives_the_same_changes():
    assert torch.equal(changed(rotation=10), changed(rotation=10))
    assert not torch.equal(changed(rotation=10), changed(rotation=11))
