"""Folders of small random images, in the layouts that data sets of images have."""

from pathlib import Path

import numpy as np
from PIL import Image


def colours(width, height, *, seed=0):
    """Return a random image, (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_image(path: Path, pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_folder(folder: Path, classes, *, size=(8, 8), mode="RGB", seed=0) -> None:
    """Write so many images of each class; size: width and height."""
    for k, (name, n) in enumerate(classes.items()):
        for i in range(n):
            pixels = colours(*size, seed=seed + 1000 * k + i)
            write_image(folder / name / f"{i}.png", pixels[..., 0] if mode == "L" else pixels)
