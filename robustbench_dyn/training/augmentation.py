"""Data augmentation: shifts, crops, flips, small affine changes, Gaussian noise."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from robustbench_dyn.strict_yaml import StrictFile
from robustbench_dyn.training.affine import Affine, change_affinely


class Augmentation(StrictFile):
    """Random shifts of up to `shift` or `crop` pixels with zero padding, flips, Gaussian noise.

    shift draws one offset per batch, crop one per example, and leaves an example as it is with
    probability 1 - crop_probability. affine: small rotations, scalings and shears (affine.py).
    noise: standard deviation in raw input units; the result is not clipped to [0, 1]. Train a
    network that will be smoothed with the noise of the smoothing (arXiv 1902.02918, Section 3.3).
    """

    shift: Annotated[int, Field(ge=0, le=8)] = 0
    crop: Annotated[int, Field(ge=0, le=8)] = 0
    crop_probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    affine: Affine | None = None
    flip: bool = False
    noise: Annotated[float, Field(ge=0, le=10)] = 0.0


def augment(x: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Return randomly augmented inputs, of the shape of x, (batch, channels, height, width)."""
    if augmentation.flip:
        flipped = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(flipped[:, None, None, None], x.flip(3), x)
    margin = augmentation.shift
    if margin:
        down, right = torch.randint(2 * margin + 1, (2,), generator=generator).tolist()
        height, width = x.shape[2:]
        padded = F.pad(x, (margin,) * 4)
        x = padded[:, :, down : down + height, right : right + width]
    if augmentation.affine is not None:
        x = change_affinely(x, augmentation.affine, generator)
    if augmentation.crop:
        x = _crop(x, augmentation.crop, augmentation.crop_probability, generator)
    if augmentation.noise:
        x = x + augmentation.noise * torch.randn(x.shape, generator=generator)
    return x


def _crop(x: Tensor, margin: int, probability: float, generator: torch.Generator) -> Tensor:
    n, _, height, width = x.shape
    offsets = torch.randint(2 * margin + 1, (2, n, 1), generator=generator)
    if probability < 1:
        moved = torch.rand(n, 1, generator=generator) < probability
        offsets = offsets.where(moved, margin)
    down, right = offsets
    rows, columns = torch.arange(height) + down, torch.arange(width) + right
    padded = F.pad(x, (margin,) * 4).permute(0, 2, 3, 1)
    cropped = padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)
