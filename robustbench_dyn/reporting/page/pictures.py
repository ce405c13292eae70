"""Images with their adversarial versions and the difference, as PNG in data addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from functools import cache
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustbench_dyn.datasets import Dataset, DatasetInfo, dataset_info, load_dataset
from robustbench_dyn.errors import DynbenchError

if TYPE_CHECKING:
    from robustbench_dyn.results.evidence import Evidence
    from robustbench_dyn.results.verdicts import Verdict

Values = dict[str, Any]
# Characters of images in one page; the page of a model that stands in many tables shows fewer of
# each, so that a site of many models stays small.
BUDGET = 70_000
# Grey, or red, green and blue.
_CHANNELS = (1, 3)


Find = Callable[[str, str, int], "NDArray[np.float32] | None"]


def finder(data_dir: str | PathLike[str] | None = None) -> Find:
    """Return a function of a data set's name, its hash, and the id of a test example.

    It returns the input, or None where the data are not at hand, or are others. Of a data set
    that can be read in part, no other examples are read.
    """

    @cache
    def loaded(name: str, first: int = 0, n_examples: int | None = None) -> Dataset | None:
        try:
            return load_dataset(name, first=first, n_examples=n_examples, data_dir=data_dir)
        except DynbenchError:
            return None

    def find(name: str, sha256: str, example_id: int) -> NDArray[np.float32] | None:
        info = _info(name)
        in_part = info is not None and info.load_rows is not None
        found = loaded(name, example_id, 1) if in_part else loaded(name)
        place = 0 if in_part else example_id
        if found is None or found.sha256 != sha256 or place >= len(found):
            return None
        x: NDArray[np.float32] = found.x[place].numpy()
        return x

    return find


def pictures(
    of: Iterable[tuple[str, Evidence]],
    find: Find,
    *,
    budget: int = BUDGET,
) -> list[tuple[str, list[Values]]]:
    """Return the pictures of adversarial examples, a list for each table.

    of: the title of a table and its evidence. Takes an example of each table, then a second of
    each, until `budget` characters are used.
    """
    waiting = [(title, evidence, _kept(evidence), list[Values]()) for title, evidence in of]
    taken = [(title, shown) for title, _, _, shown in waiting]
    left = budget
    for turn in range(max((len(kept) for _, _, kept, _ in waiting), default=0)):
        for _, evidence, kept, shown in waiting:
            picture = _picture(evidence, kept[turn], find) if turn < len(kept) else None
            if picture is None:
                continue
            left -= sum(map(len, picture["images"].values()))
            if left < 0:
                return [pair for pair in taken if pair[1]]
            shown.append(picture)
    return [pair for pair in taken if pair[1]]


def _kept(evidence: Evidence) -> list[Verdict]:
    return [verdict for verdict in evidence.verdicts if verdict.x_adv is not None]


def _picture(evidence: Evidence, verdict: Verdict, find: Find) -> Values | None:
    """Return the images of one example and their caption; None where it is no image."""
    spec = evidence.record.spec
    info = _info(spec.dataset)
    if info is None or info.input_shape[0] not in _CHANNELS or min(info.input_shape[1:]) < 2:
        return None
    x_adv = np.frombuffer(verdict.x_adv or b"", dtype=np.float32)
    if x_adv.size != np.prod(info.input_shape):
        return None
    x_adv = x_adv.reshape(info.input_shape)
    images = {"adversarial": png(x_adv)}
    x = find(spec.dataset, spec.data_sha256, verdict.example_id)
    if x is not None:
        difference = x_adv - x
        largest = float(np.abs(difference).max())
        images = {
            "original": png(x),
            "adversarial": images["adversarial"],
            # Grey is no change.
            "difference": png(0.5 + difference / (2 * largest) if largest else difference + 0.5),
        }
    names = info.class_names
    label = names[verdict.label] if verdict.label < len(names) else str(verdict.label)
    return {
        "id": verdict.example_id,
        "label": label,
        "attack": verdict.attack,
        "distance": verdict.adversarial_distance,
        "width": info.input_shape[2],
        "height": info.input_shape[1],
        "images": images,
    }


@cache
def _info(name: str) -> DatasetInfo | None:
    try:
        return dataset_info(name)
    except DynbenchError:
        return None


def png(x: NDArray[np.float32]) -> str:
    """Return an image as a data address; x: (C, H, W) in [0, 1], with one channel or three."""
    pixels = np.rint(np.clip(np.nan_to_num(x), 0, 1) * 255).astype(np.uint8)
    channels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(channels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
