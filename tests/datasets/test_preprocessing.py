"""Preprocessings give the pixels that RobustBench's own transforms give."""

import numpy as np
import pytest
from oracles.image_folders import colours
from oracles.torchvision_here import torchvision
from PIL import Image

from robustbench_dyn.datasets.preprocessing import PREPROCESSINGS, preprocess
from robustbench_dyn.errors import InputError

SIZES = [(300, 280), (256, 256), (500, 231), (231, 500), (100, 90), (224, 225), (299, 287)]


def test_a_crop_is_the_middle():
    pixels = colours(300, 290)
    cropped = np.asarray(preprocess("Crop288")(Image.fromarray(pixels)))
    assert np.array_equal(cropped, pixels[1:289, 6:294])


def test_an_unknown_preprocessing_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean 'Res256Crop224'"):
        preprocess("res256crop225")


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_pixels_are_those_of_torchvision(name):
    transforms = torchvision("transforms")
    # As robustbench/data.py writes them.
    theirs = {
        "Res256Crop224": [transforms.Resize(256), transforms.CenterCrop(224)],
        "Crop288": [transforms.CenterCrop(288)],
        "Res224": [transforms.Resize([224, 224])],
        "BicubicRes256Crop224": [
            transforms.Resize(256, interpolation=transforms.InterpolationMode("bicubic")),
            transforms.CenterCrop(224),
        ],
    }[name]
    for seed, size in enumerate(SIZES):
        image = Image.fromarray(colours(*size, seed=seed))
        expected = np.asarray(transforms.Compose(theirs)(image))
        found = np.asarray(preprocess(name)(image))
        assert np.array_equal(found, expected), size
        # A shift by one pixel would be seen.
        assert not np.array_equal(np.roll(found, 1, axis=0), expected)
