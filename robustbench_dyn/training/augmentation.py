"""Data augmentation: shifts, crops, flips, affine changes, cutout, noise, mixes of two images."""

from __future__ import annotations

from typing import Annotated, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from robustbench_dyn.strict_yaml import StrictFile
from robustbench_dyn.training.affine import Affine, change_affinely


class Augmentation(StrictFile):
    """Random shifts of up to `shift` or `crop` pixels with zero padding, flips, noise, and mixes.

    shift draws one offset per batch, crop one per example, and leaves an example as it is with
    probability 1 - crop_probability. affine: small rotations, scalings and shears (affine.py).
    noise: standard deviation in raw input units; the result is not clipped to [0, 1]. Train a
    network that will be smoothed with the noise of the smoothing (arXiv 1902.02918, Section 3.3).
    cutout: side of a square of zeros around a random pixel of each example, 0 for none (arXiv
    1708.04552). mixup and cutmix: the parameter a of a Beta(a, a) distribution, from which each
    batch draws the share of an example in its mix with another one: of all pixels (mixup, arXiv
    1710.09412), or of the area outside a rectangle (cutmix, arXiv 1905.04899); 0 for none. The loss
    is mixed likewise from those of the two labels.
    """

    shift: Annotated[int, Field(ge=0, le=8)] = 0
    crop: Annotated[int, Field(ge=0, le=8)] = 0
    crop_probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    affine: Affine | None = None
    flip: bool = False
    noise: Annotated[float, Field(ge=0, le=10)] = 0.0
    cutout: Annotated[int, Field(ge=0, le=1024)] = 0
    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0

    @model_validator(mode="after")
    def _check_mixes(self) -> Self:
        if self.mixup and self.cutmix:
            raise ValueError("a batch is mixed in one way; drop mixup or cutmix")
        if self.mixup and self.noise:
            raise ValueError("mixup would average the noise of two images; drop mixup or noise")
        return self

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that each has two labels."""
        return bool(self.mixup or self.cutmix)


class Mixed(NamedTuple):
    """A batch of mixed images: x, the labels of the second images, and the share of the first."""

    x: Tensor
    others: Tensor
    share: float


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
    if augmentation.cutout:
        x = _cut_out(x, augmentation.cutout, generator)
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


def mix(x: Tensor, y: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Mixed:
    """Mix each image of a batch with another one of it, by mixup or cutmix.

    x: (batch, channels, height, width). y: (batch,). One share is drawn for the batch.
    """
    order = torch.randperm(len(x), generator=generator).to(x.device)
    seed = int(torch.randint(2**62, (), generator=generator))
    a = augmentation.mixup or augmentation.cutmix
    share = float(np.random.default_rng(seed).beta(a, a))
    if augmentation.mixup:
        return Mixed(share * x + (1 - share) * x[order], y[order], share)
    height, width = x.shape[2:]
    # A rectangle of the area 1 - share around a random pixel, of which the part outside is lost.
    side = (1 - share) ** 0.5
    top, bottom = _span(height, round(side * height), generator)
    left, right = _span(width, round(side * width), generator)
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = x[order, :, top:bottom, left:right]
    return Mixed(mixed, y[order], 1 - (bottom - top) * (right - left) / (height * width))


def _span(size: int, length: int, generator: torch.Generator) -> tuple[int, int]:
    start = int(torch.randint(size, (), generator=generator)) - length // 2
    return max(0, start), min(size, start + length)


def _cut_out(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    inside = torch.ones(len(x), 1, 1, 1, dtype=torch.bool)
    for axis, size in ((2, x.shape[2]), (3, x.shape[3])):
        start = torch.randint(size, (len(x), 1), generator=generator) - side // 2
        places = torch.arange(size)
        within = (start <= places) & (places < start + side)
        inside = inside & (within[:, None, :, None] if axis == 2 else within[:, None, None, :])
    return x.masked_fill(inside, 0)
