"""ImageNet's validation images (ILSVRC 2012), read from a folder of class folders that you have.

The first 5,000 examples are those that RobustBench evaluates, in its order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Rows, Split
from robustbench_dyn.datasets.search_path import DATA_VARIABLE, search_roots
from robustbench_dyn.datasets.sources.folder import images_below, in_order_of_hashes
from robustbench_dyn.datasets.sources.images import ImageFiles
from robustbench_dyn.errors import DataUnavailableError, IntegrityError

SHIPPED_FOLDER = Path(__file__).parent / "imagenet_files"
N_IMAGES = 50_000
# Where the class folders may lie below a root.
_PLACES = ("", "val", "imagenet/val", "imagenet", "ILSVRC2012/val", "ILSVRC2012_img_val")
# The names of the sizes that RobustBench's models want, and the shape of each.
BY_PREPROCESSING: Mapping[str, str] = {
    "Res256Crop224": "imagenet",
    "BicubicRes256Crop224": "imagenet_bicubic",
    "Res224": "imagenet_res224",
    "Crop288": "imagenet_crop288",
}


def load_rows(preprocessing: str, split: Split, rows: range, data_dir: Path | None) -> Rows:
    """Decode some images; x is (n, 3, 224, 224), or 288 where they are cropped to that.

    Raises DataUnavailableError where no folder has the images, and IntegrityError where images
    are missing, others are there, or one is damaged.
    """
    del split  # there is one
    folder = _folder(data_dir)
    names, y = _ordered(folder)
    return ImageFiles(folder, names, y, preprocessing=preprocessing).rows(rows)


def load_raw(preprocessing: str, split: Split, data_dir: Path | None) -> RawSplit:
    """Decode all images, 7.5 GB of bytes; see load_rows."""
    x, y, white, _ = load_rows(preprocessing, split, range(N_IMAGES), data_dir)
    return RawSplit(x, y, white)


def classes() -> tuple[tuple[str, str], ...]:
    """Return the WordNet id, which is the folder, and the name of each class, in order."""
    lines = (SHIPPED_FOLDER / "classes.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" ", 1) for line in lines)
    return tuple((identifier, name) for identifier, name in pairs)


def robustbench_order() -> tuple[int, ...]:
    """Return the numbers of the images that RobustBench evaluates, in its order."""
    text = (SHIPPED_FOLDER / "robustbench_order.txt").read_text(encoding="utf-8")
    return tuple(map(int, text.split()))


def _folder(data_dir: Path | None) -> Path:
    """Return the first folder that has a folder of the first class."""
    first, _ = classes()[0]
    roots = search_roots(data_dir)
    for root in roots:
        for place in _PLACES:
            if (root / place / first).is_dir():
                return root / place
    raise DataUnavailableError(
        f"ImageNet's validation images are in none of {', '.join(map(str, roots))}, and may not be "
        f"downloaded without a licence; give the folder that holds the folders {first}, ... of the "
        f"classes, or holds val, as --data-dir (data_dir=) or in {DATA_VARIABLE}"
    )


def _ordered(folder: Path) -> tuple[Sequence[str], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return the paths of all images below the folder, and their labels, in our order."""
    labels = {identifier: label for label, (identifier, _) in enumerate(classes())}
    found = dict[str, str]()
    for name in images_below(folder):
        place, _, file = name.rpartition("/")
        if place not in labels:
            raise IntegrityError(
                f"{folder / name} is in no folder of a class of ImageNet; move it out of {folder}"
            )
        found[file] = name
    if len(found) != N_IMAGES:
        raise IntegrityError(
            f"{folder} has {len(found)} validation images of ImageNet, expected {N_IMAGES}; unpack "
            "them anew, or evaluate what is there as folder:DIR,Res256Crop224"
        )
    wanted = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in robustbench_order()]
    missing = next((file for file in wanted if file not in found), None)
    if missing is not None:
        raise IntegrityError(f"{folder} has no image {missing}; unpack the images anew")
    first = [found[file] for file in wanted]
    names = [*first, *in_order_of_hashes(sorted(set(found.values()) - set(first)))]
    y = np.array([labels[name.rpartition("/")[0]] for name in names], dtype=np.int64)
    return names, y


def _describe(preprocessing: str, name: str) -> DatasetInfo:
    size = 288 if preprocessing == "Crop288" else 224
    return DatasetInfo(
        name=name,
        input_shape=(3, size, size),
        class_names=tuple(name for _, name in classes()),
        sizes={"test": N_IMAGES},
        availability={"test": "found or fetched"},
        source="https://www.image-net.org/challenges/LSVRC/2012",
        licence="for research and education, by the terms of image-net.org",
        load_raw=partial(load_raw, preprocessing),
        load_rows=partial(load_rows, preprocessing),
        # Those of RobustBench's leaderboards, and of Engstrom et al., the "robustness" package.
        default_eps={"Linf": 4 / 255, "L2": 3.0},
    )


INFOS = tuple(_describe(preprocessing, name) for preprocessing, name in BY_PREPROCESSING.items())
