"""Files of adversarial examples that are handed in against published rows, read within limits."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from robustbench_dyn.errors import InputError, one_line, shown
from robustbench_dyn.reporting.labels import is_named

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEEDED: Final = ("x_adv", "example_id", "model")
_MAY: Final = ("seed", "weights_sha256")
_MOST_BYTES: Final = 2**30
_MOST_EXAMPLES: Final = 10_000


@dataclass(frozen=True)
class Submission:
    """Images that are said to be adversarial examples of one model.

    x_adv: (k, *input_shape) float32. example_ids: (k,). model: NAME, or NAME@HASH. seed: of the
    row, None for the rows of all seeds. weights_sha256: of the model, empty where it is not told.
    """

    x_adv: NDArray[np.float32]
    example_ids: tuple[int, ...]
    model: str
    seed: int | None = None
    weights_sha256: str = ""

    def is_about(self, row: dict[str, Any]) -> bool:
        """Say whether a row is one that the submission speaks of."""
        same_weights = self.weights_sha256 in ("", row["weights_sha256"])
        same_seed = self.seed is None or self.seed == row["seed"]
        return is_named(row, self.model) and same_weights and same_seed


def read_submission(path: Path) -> Submission:
    """Read an .npz; raises InputError, in one sentence, for what is no submission.

    Nothing is unpickled, and nothing is unpacked beyond 1 GiB.
    """
    try:
        # A pipe would let open() wait for ever, and a device never ends.
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no file; give an .npz of adversarial examples")
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _array(archive, info, path) for name, info in _members(archive, path)}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{path} is no .npz file: {one_line(str(error))}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return _submission(arrays, path)


def _members(archive: zipfile.ZipFile, path: Path) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
    for name in names:
        if name not in (*_NEEDED, *_MAY):
            raise InputError(
                f"{path} has the array {shown(name)}; a submission has {', '.join(_NEEDED)} and "
                f"may have {' and '.join(_MAY)}"
            )
    for name in _NEEDED:
        if names.count(name) != 1:
            raise InputError(f"{path} has the array {name} {names.count(name)} times; give it once")
    if sum(info.file_size for info in archive.infolist()) > _MOST_BYTES:
        raise InputError(
            f"{path} unpacks to more than {_MOST_BYTES:,} bytes; hand in fewer at once"
        )
    yield from zip(names, archive.infolist(), strict=True)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    """Read one array, once its header does not promise more than there is."""
    name = info.filename.removesuffix(".npy")
    try:
        with archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        n_bytes = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
        if dtype.hasobject or n_bytes > info.file_size:
            raise ValueError("its header does not fit its content")
        with archive.open(info) as file:
            read: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: {name} is no array: {one_line(str(error))}") from error
    return read


def _submission(arrays: dict[str, NDArray[Any]], path: Path) -> Submission:
    x_adv, ids, model = (arrays[name] for name in _NEEDED)
    if x_adv.dtype.kind != "f" or x_adv.ndim < 2 or not 1 <= len(x_adv) <= _MOST_EXAMPLES:
        raise InputError(
            f"{path}: x_adv is {x_adv.dtype} of shape {x_adv.shape}; give floats in [0, 1] of "
            f"shape (k, *input_shape), 1 <= k <= {_MOST_EXAMPLES}"
        )
    if ids.dtype.kind not in "iu" or ids.shape != (len(x_adv),):
        raise InputError(
            f"{path}: example_id is {ids.dtype} of shape {ids.shape}; give a whole number for each "
            f"of the {len(x_adv)} images"
        )
    if model.dtype.kind != "U" or model.ndim:
        raise InputError(f"{path}: model must be one text, the name of the model in the table")
    seed, weights = arrays.get("seed"), arrays.get("weights_sha256")
    if seed is not None and (seed.dtype.kind not in "iu" or seed.ndim):
        raise InputError(f"{path}: seed must be one whole number, that of the row")
    if weights is not None and (weights.dtype.kind != "U" or weights.ndim):
        raise InputError(f"{path}: weights_sha256 must be one text, as in the row")
    with np.errstate(over="ignore"):
        images = x_adv.astype(np.float32)
    return Submission(
        x_adv=images,
        example_ids=tuple(int(i) for i in ids),
        model=str(model),
        seed=None if seed is None else int(seed),
        weights_sha256="" if weights is None else str(weights),
    )
