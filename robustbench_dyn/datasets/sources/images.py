"""Images that are decoded when they are read, each to the size and the channels of its data set."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_dyn.datasets.file_hashes import hash_files
from robustbench_dyn.datasets.preprocessing import preprocess
from robustbench_dyn.datasets.sources.examples import Examples, Inputs, digest_of
from robustbench_dyn.errors import IntegrityError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_GREY = ("1", "L", "LA")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
# So many images say whether a data set is grey, and stand for what the decoder makes of all.
_N_LOOKED_AT, _N_DECODED = 64, 4


class ImageExamples(Examples):
    """Images that are decoded when they are read; a subclass says where they are.

    y: as in Examples. preprocessing: a name of PREPROCESSINGS, or "" for none. colour: True for
    three channels whatever the images have; else they are grey where the first ones are.
    """

    def __init__(
        self, y: NDArray[np.int64], *, preprocessing: str = "", colour: bool = False
    ) -> None:
        self.y, self._preprocessing = y, preprocessing
        self._preprocess = preprocess(preprocessing)
        self._colour = colour or bool(preprocessing)

    @abstractmethod
    def open(self, i: int) -> Image:
        """Open image i, which need not be decoded yet."""

    @abstractmethod
    def where(self, i: int) -> str:
        """Name image i for a message, by its file or its row."""

    @abstractmethod
    def contents(self) -> Sequence[str]:
        """Return the SHA-256 of each image as it is stored, in order."""

    def read(self, rows: range) -> Inputs:
        """Decode some images; raises IntegrityError for one that is damaged or of another size."""
        pixels = [self._decode(i) for i in rows]
        for i, image in zip(rows, pixels, strict=True):
            if image.shape != self._first.shape:
                raise IntegrityError(
                    f"{self.where(i)} is {_size(image)}, and the first image of the split is "
                    f"{_size(self._first)}; bring all to one size, or add a preprocessing, as in "
                    "folder:DIR,Res256Crop224"
                )
        return Inputs(np.stack(pixels), 255)

    def hash(self) -> str:
        # Another decoder of JPEG makes other pixels of the same files, which are other data.
        decoded = [self._decode(i).tobytes() for i in range(min(_N_DECODED, len(self)))]
        about = f"images 1 {self._preprocessing} {'grey' if self._grey else 'colour'}"
        labels = self.y.astype("<i8").tobytes()
        return digest_of(about, "".join(self.contents()), labels, *decoded)

    @cached_property
    def _first(self) -> NDArray[np.uint8]:
        return self._decode(0)

    @cached_property
    def _grey(self) -> bool:
        def mode(i: int) -> str:
            with self._explained(i), self.open(i) as image:
                return image.mode

        sample = range(min(_N_LOOKED_AT, len(self)))
        return not self._colour and all(mode(i) in _GREY for i in sample)

    def _decode(self, i: int) -> NDArray[np.uint8]:
        """Return image i, (C, H, W)."""
        with self._explained(i), self.open(i) as image:
            if image.mode not in (*_GREY, *_COLOUR):
                raise IntegrityError(
                    f"{self.where(i)} has pixels of mode {image.mode}; save it with 8 bits a "
                    "channel"
                )
            if self._grey and image.mode not in _GREY:
                raise IntegrityError(
                    f"{self.where(i)} is a colour image, and the first images of the split are "
                    "grey; save all as grey or all as colour images"
                )
            pixels = np.asarray(self._preprocess(image.convert("L" if self._grey else "RGB")))
        return pixels[None] if self._grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))

    @contextmanager
    def _explained(self, i: int) -> Iterator[None]:
        """Raise what Pillow and the operating system say of a damaged image as IntegrityError."""
        from PIL.Image import DecompressionBombError, DecompressionBombWarning

        wrong: tuple[type[Exception], ...] = (
            OSError,
            SyntaxError,
            ValueError,
            EOFError,
            DecompressionBombError,
            DecompressionBombWarning,
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DecompressionBombWarning)
                yield
        except wrong as error:
            raise IntegrityError(
                f"{self.where(i)} cannot be read as an image ({one_line(str(error))}); replace it, "
                "or take it out"
            ) from error


class ImageFiles(ImageExamples):
    """Image files below a folder; names: their paths below it, in the order of the examples."""

    def __init__(
        self, folder: Path, names: Sequence[str], y: NDArray[np.int64], **options: Any
    ) -> None:
        super().__init__(y, **options)
        self._folder, self._names = folder, names

    def open(self, i: int) -> Image:
        from PIL import Image as Images

        path = self._folder / self._names[i]
        # A pipe would be waited for.
        if not path.is_file():
            raise OSError("it is no file")
        return Images.open(path)

    def where(self, i: int) -> str:
        return str(self._folder / self._names[i])

    def contents(self) -> Sequence[str]:
        return hash_files(self._folder, self._names)


def _size(image: NDArray[np.uint8]) -> str:
    channels, height, width = image.shape
    return f"{width} x {height} pixels" + (" of grey" if channels == 1 else "")
