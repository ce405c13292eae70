"""The layout of lipflow on colour images: patches as channels, and fewer steps where they cost."""

import pytest
import torch
from torch import nn

from robustbench_dyn.errors import RegistryError
from robustbench_dyn.flows import ConvGradientStep, OrthonormalGradientStep, lipschitz_bound
from robustbench_dyn.models.loading import build_model, discover
from robustbench_dyn.training.recipes import find_recipe, read_recipe

COLOUR = (3, 32, 32)


def built(input_shape=COLOUR, **options):
    return build_model(
        discover().get("lipflow"), input_shape=input_shape, n_classes=10, options=options
    )


def recipe_options():
    return read_recipe(find_recipe(discover().get("lipflow"), "cifar10_jpeg")).options


def test_patches_of_colour_images_become_channels():
    model = built(**recipe_options())
    steps = [m.weight.shape for m in model.modules() if isinstance(m, ConvGradientStep)]
    assert [tuple(shape[:2]) for shape in steps] == [(96, 48)] * 5 + [(192, 192)]
    dense = [m for m in model.modules() if isinstance(m, OrthonormalGradientStep)]
    assert [(*step.weight.shape, step.blocks) for step in dense] == [(96, 3072, 16)] * 4
    factors = [m.downscale_factor for m in model.modules() if isinstance(m, nn.PixelUnshuffle)]
    assert factors == [4, 2]
    assert sum(p.numel() for p in model.parameters()) < 2_000_000, "8 MB in float32"
    assert lipschitz_bound(model.features) <= 1 + 1e-4
    x = torch.rand(2, *COLOUR, generator=torch.Generator().manual_seed(0))
    assert model(x).shape == (2, 10)


def test_coarse_steps_are_as_many_as_fine_ones_by_default():
    shapes = [m for m in built(channels=12, depth=2).modules() if isinstance(m, ConvGradientStep)]
    assert [tuple(m.weight.shape[:2]) for m in shapes] == [(48, 12)] * 2 + [(96, 48)] * 2
    none = built(channels=12, depth=2, coarse_depth=0)
    assert len([m for m in none.modules() if isinstance(m, ConvGradientStep)]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 48, "unshuffle": 3}, "divisible by 6"),
        ({"channels": 47, "unshuffle": 4}, "channels=47 of at least 48"),
        ({"channels": 48, "unshuffle": 0}, "unshuffle=0 must be at least 1"),
        ({"channels": 8}, "channels=8 of at least 12"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(options, message):
    with pytest.raises(RegistryError, match=message):
        built(**options)
