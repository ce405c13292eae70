"""Images of the data sets that are on this machine, as arrays: a recount imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from robustbench_dyn.datasets import DATASETS
from robustbench_dyn.datasets.catalogue import fingerprint
from robustbench_dyn.errors import DynbenchError
from robustbench_dyn.results.verdicts import Verdict
from robustbench_dyn.threat_models import Norm

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Images(NamedTuple):
    """A test split: x (n, *input_shape) float32 in [0, 1], y (n,) int64, and the hash of both."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    sha256: str


class DataAtHand:
    """Test splits by the name of the data set, each read once.

    data_dir: a folder of data sets that do not ship; without it, nothing is fetched.
    """

    def __init__(self, data_dir: Path | None = None) -> None:
        self._data_dir = data_dir
        self._known = dict[str, Images | str]()

    def images(self, dataset: str) -> Images | str:
        """Return the images of a data set, or the reason why they are not at hand."""
        if dataset not in self._known:
            self._known[dataset] = self._read(dataset)
        return self._known[dataset]

    def _read(self, dataset: str) -> Images | str:
        if dataset not in DATASETS:
            return f"the data set {dataset} is not on this machine"
        try:
            info = DATASETS.get(dataset)
            if info.availability["test"] == "found or fetched" and self._data_dir is None:
                return f"the data set {dataset} does not ship; give its folder by --data-dir"
            raw = info.load_raw("test", self._data_dir)
        except DynbenchError as error:
            return f"the data set {dataset} cannot be read: {error}"
        # As load_dataset makes the tensors that models are given.
        x = raw.x.astype(np.float32) / np.float32(raw.white)
        return Images(x, raw.y.astype(np.int64), fingerprint(raw))


def adversarial_example(verdict: Verdict, images: Images) -> NDArray[np.float32] | None:
    """Return the kept adversarial example of a verdict, *input_shape; None for other bytes."""
    content, shape = verdict.x_adv or b"", images.x.shape[1:]
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
