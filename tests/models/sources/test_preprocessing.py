"""Preprocessing inside a model: what a library does to an image, with gradients."""

import numpy as np
import pytest
import torch
from oracles.checkpoints import MEAN, STD
from PIL import Image
from torch import nn

from robustbench_dyn.models.sources.base import Preprocessing
from robustbench_dyn.models.sources.preprocessing import ImageClassifier

RESIZED = [
    # Of pixels halfway between two, both take either.
    ("nearest", Image.Resampling.NEAREST, (8, 8)),
    ("nearest", Image.Resampling.NEAREST, (32, 48)),
    *(("bilinear", Image.Resampling.BILINEAR, size) for size in [(24, 24), (8, 8), (20, 11)]),
    *(("bicubic", Image.Resampling.BICUBIC, size) for size in [(24, 24), (8, 8), (20, 11)]),
]


def seen(preprocessing, x):
    return ImageClassifier(nn.Identity(), preprocessing)(x)


def test_nothing_is_done_by_default(images):
    assert torch.equal(seen(Preprocessing(), images[0]), images[0])


def test_channels_are_normalised_each_by_its_own(images):
    x = images[0]
    found = seen(Preprocessing(mean=MEAN, std=STD), x)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        assert torch.allclose(found[:, channel], (x[:, channel] - mean) / std)


def test_channels_are_reversed_before_they_are_normalised(images):
    x = images[0]
    found = seen(Preprocessing(mean=MEAN, std=STD, flipped=True), x)
    assert torch.equal(found, seen(Preprocessing(mean=MEAN, std=STD), x.flip(1)))


@pytest.mark.parametrize(("mode", "pil_mode", "size"), RESIZED)
def test_images_are_resized_as_pil_does(mode, pil_mode, size, images):
    # Grey enough that PIL, which cuts off between its two passes, has nothing to cut off.
    levels = (64 + images[0][0] * 127).round()
    found = seen(Preprocessing(size=size, interpolation=mode), levels[None] / 255)[0]
    bytes_ = levels.permute(1, 2, 0).numpy().astype(np.uint8)
    resized = Image.fromarray(bytes_).resize(size[::-1], pil_mode)
    expected = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1) / 255
    # PIL rounds to bytes after each of two passes.
    assert (found - expected).abs().max() <= (0 if mode == "nearest" else 2.1 / 255)


def test_images_of_the_right_size_are_not_touched(images):
    assert seen(Preprocessing(size=(16, 16), interpolation="bicubic"), images[0]) is images[0]


def test_gradients_pass_through(images):
    x = images[0].requires_grad_()
    seen(Preprocessing(mean=MEAN, std=STD, size=(24, 24)), x).sum().backward()
    assert bool((x.grad != 0).all())
