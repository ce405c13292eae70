"""Images of the data sets that are on this machine, as arrays: a recount imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from robustbench_dyn.datasets import DATASETS, DatasetInfo, Rows
from robustbench_dyn.datasets.catalogue import opened
from robustbench_dyn.datasets.dataset import is_name_of_files
from robustbench_dyn.datasets.loading import read_rows
from robustbench_dyn.errors import DynbenchError
from robustbench_dyn.results.verdicts import Verdict
from robustbench_dyn.threat_models import Norm

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Images:
    """Examples of a test split, as a recount needs them.

    n: how many the split has. shape: of an input. sha256: the hash of the split. parts: what was
    read, each with the range of its example ids.
    """

    n: int
    n_classes: int
    shape: tuple[int, ...]
    sha256: str
    parts: Sequence[tuple[range, Rows]]

    def label(self, example_id: int) -> int:
        """Return the label of an example that was read; raises KeyError for another one."""
        ids, rows = self._part(example_id)
        return int(rows.y[ids.index(example_id)])

    def x(self, example_id: int) -> NDArray[np.float32]:
        """Return an input, *shape, as load_dataset gives it to models; see label."""
        ids, rows = self._part(example_id)
        x = rows.x[ids.index(example_id)].astype(np.float32)
        return cast("NDArray[np.float32]", x / np.float32(rows.white))

    def _part(self, example_id: int) -> tuple[range, Rows]:
        for ids, rows in self.parts:
            if example_id in ids:
                return ids, rows
        raise KeyError(example_id)


class DataAtHand:
    """Test splits by the name of the data set; one that is read as a whole is read once.

    data_dir: a folder of data sets that do not ship; without it, nothing is fetched.
    """

    def __init__(self, data_dir: Path | None = None) -> None:
        self._data_dir = data_dir
        self._known = dict[str, Images | str]()

    def images(self, dataset: str, example_ids: Iterable[int]) -> Images | str:
        """Return the images of a data set, or the reason why they are not at hand.

        Of a data set that can be read in part, they are those of the example_ids that it has.
        """
        if dataset in self._known:
            return self._known[dataset]
        if missing := why_missing(dataset):
            return missing
        try:
            info = opened(dataset) or DATASETS.get(dataset)
            fetched = info.availability["test"] == "found or fetched" and not info.is_unregistered
            if fetched and self._data_dir is None:
                return f"the data set {dataset} does not ship; give its folder by --data-dir"
            if info.load_rows is not None:
                return self._read(info, _ranges(example_ids, info.sizes["test"]))
            self._known[dataset] = self._read(info, [range(info.sizes["test"])])
        except DynbenchError as error:
            self._known[dataset] = f"the data set {dataset} cannot be read: {error}"
        return self._known[dataset]

    def _read(self, info: DatasetInfo, ranges: Sequence[range]) -> Images:
        parts = [(ids, read_rows(info, "test", ids, self._data_dir)) for ids in ranges]
        n, sha256 = info.sizes["test"], parts[0][1].sha256
        return Images(n, info.n_classes, info.input_shape, sha256, parts)


def why_missing(dataset: str) -> str:
    """Say why the images of a data set, by its name in a row, cannot be looked for here, or ""."""
    if dataset in DATASETS or opened(dataset) is not None:
        return ""
    if is_name_of_files(dataset):
        return f"{dataset} is the name of files that a row does not tell; give --dataset npz:FILE"
    return f"the data set {dataset} is not on this machine"


def _ranges(example_ids: Iterable[int], n: int) -> list[range]:
    """Return ranges that cover the ids below n, and no others; that of the first id at least."""
    found = list[range]()
    for i in sorted({i for i in example_ids if 0 <= i < n} or {0}):
        if found and found[-1].stop == i:
            found[-1] = range(found[-1].start, i + 1)
        else:
            found.append(range(i, i + 1))
    return found


def adversarial_example(verdict: Verdict, images: Images) -> NDArray[np.float32] | None:
    """Return the kept adversarial example of a verdict, *input_shape; None for other bytes."""
    content, shape = verdict.x_adv or b"", images.shape
    if len(content) != 4 * int(np.prod(shape)):
        return None
    return np.frombuffer(content, dtype="<f4").reshape(shape)


def distance(x_adv: NDArray[np.float32], x: NDArray[np.float32], norm: Norm) -> float:
    """Return norm(x_adv - x) in float64; NaN where an entry is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        delta = np.abs(x_adv.astype(np.float64) - x.astype(np.float64)).ravel()
        if not np.isfinite(delta).all():
            return float("nan")
        if norm == "Linf":
            return float(delta.max())
        return float(np.sqrt(np.square(delta).sum())) if norm == "L2" else float(delta.sum())
