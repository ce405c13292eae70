"""Sizes to which images are brought before a model sees them, by the names of RobustBench.

Each does with Pillow what the transforms of torchvision of that name do in robustbench/data.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from robustbench_dyn.errors import InputError
from robustbench_dyn.plugins import unknown

if TYPE_CHECKING:
    from PIL.Image import Image

    Preprocess = Callable[[Image], Image]


def resize(image: Image, size: int, *, bicubic: bool = False) -> Image:
    """Scale an image so that its shorter side has `size` pixels."""
    from PIL.Image import Resampling  # noqa: PLC0415 - listing the data sets needs no Pillow

    width, height = image.size
    short, long = sorted((width, height))
    if short == size:
        return image
    longer = int(size * long / short)
    target = (size, longer) if width <= height else (longer, size)
    return image.resize(target, Resampling.BICUBIC if bicubic else Resampling.BILINEAR)


def crop(image: Image, size: int) -> Image:
    """Cut out the middle, size x size; what an image lacks is black."""
    width, height = image.size
    if width < size or height < size:
        left, top = max(0, (size - width) // 2), max(0, (size - height) // 2)
        right = max(0, (size - width + 1) // 2)
        bottom = max(0, (size - height + 1) // 2)
        image = image.crop((-left, -top, width + right, height + bottom))
        width, height = image.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _to_224(image: Image) -> Image:
    from PIL.Image import Resampling  # noqa: PLC0415 - as above

    return image.resize((224, 224), Resampling.BILINEAR)


PREPROCESSINGS: Mapping[str, Preprocess] = {
    "Res256Crop224": lambda image: crop(resize(image, 256), 224),
    "Crop288": lambda image: crop(image, 288),
    "Res224": _to_224,
    "BicubicRes256Crop224": lambda image: crop(resize(image, 256, bicubic=True), 224),
}


def preprocess(name: str) -> Preprocess:
    """Return the function of a name, or one that changes nothing for "".

    Raises InputError, with the nearest name, for an unknown one.
    """
    if not name:
        return lambda image: image
    if name not in PREPROCESSINGS:
        raise InputError(unknown("preprocessing", name, PREPROCESSINGS))
    return PREPROCESSINGS[name]
