"""Small affine changes of images, as a data augmentation."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from robustbench_dyn.strict_yaml import StrictFile


class Affine(StrictFile):
    """The range of random affine maps about the centre of an image, one for each example.

    rotation: degrees to either side. scale: 0.05 for sizes between 0.95 and 1.05 times. shear: by
    how many rows a column of unit distance may be lower. Each is drawn uniformly; an example stays
    as it is with probability 1 - probability. Pixels are interpolated bilinearly, and black ones
    come in from outside.
    """

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    shear: Annotated[float, Field(ge=0, le=1)] = 0.0
    probability: Annotated[float, Field(gt=0, le=1)] = 1.0


def change_affinely(x: Tensor, affine: Affine, generator: torch.Generator) -> Tensor:
    """Return each image under a random map of the range; x: (batch, channels, height, width)."""
    n, _, height, width = x.shape
    draws = 2 * torch.rand(3, n, generator=generator) - 1
    if affine.probability < 1:
        draws *= torch.rand(n, generator=generator) < affine.probability
    angle, size, shear = draws
    angle, size, shear = (
        angle * math.radians(affine.rotation),
        size * affine.scale,
        shear * affine.shear,
    )
    # grid_sample asks where each pixel comes from, in units of half the sides.
    cos, sin, aspect = angle.cos() / (1 + size), angle.sin() / (1 + size), width / height
    zero = torch.zeros_like(angle)
    rows = [
        torch.stack([cos, -sin / aspect, zero], dim=1),
        torch.stack([sin * aspect + shear * aspect, cos, zero], dim=1),
    ]
    maps = torch.stack(rows, dim=1).to(x)
    grid = F.affine_grid(maps, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)
