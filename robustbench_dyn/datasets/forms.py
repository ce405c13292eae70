"""The forms in which data that nothing registered are named: npz:FILE, folder:DIR and others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_dyn.datasets.dataset import DatasetInfo
from robustbench_dyn.datasets.preprocessing import PREPROCESSINGS
from robustbench_dyn.errors import InputError, shown
from robustbench_dyn.plugins import Entry, Registry


@dataclass(frozen=True)
class Form:
    """A form: what stands after its colon, and the function that returns the data set.

    prefix: what stands before the colon. usage: as it is typed, with words in capitals for what
    the user puts in. of_files: whether that may be the paths of files, with commas between.
    open(text, preprocessing, data_dir): returns the data set that text names.
    """

    prefix: str
    usage: str
    description: str
    of_files: bool
    open: Callable[[str, str, Path | None], DatasetInfo]


def _npz(text: str, preprocessing: str, _data_dir: Path | None) -> DatasetInfo:
    from robustbench_dyn.datasets.sources.npz import from_npz

    return from_npz(text, **_none_of(preprocessing))


def _idx(text: str, preprocessing: str, _data_dir: Path | None) -> DatasetInfo:
    from robustbench_dyn.datasets.sources.idx import from_idx

    images, comma, labels = text.partition(",")
    return from_idx(images, labels if comma else None, **_none_of(preprocessing))


def _folder(text: str, preprocessing: str, _data_dir: Path | None) -> DatasetInfo:
    from robustbench_dyn.datasets.sources.folder import from_folder

    return from_folder(text, preprocessing=preprocessing)


def _torchvision(text: str, preprocessing: str, data_dir: Path | None) -> DatasetInfo:
    from robustbench_dyn.datasets.sources.torchvision_sets import (
        from_torchvision,
    )

    return from_torchvision(text, root=data_dir, preprocessing=preprocessing)


def _huggingface(text: str, preprocessing: str, _data_dir: Path | None) -> DatasetInfo:
    from robustbench_dyn.datasets.sources.hugging_face import (
        from_huggingface,
    )

    return from_huggingface(text, preprocessing=preprocessing)


def _parquet(text: str, preprocessing: str, _data_dir: Path | None) -> DatasetInfo:
    from robustbench_dyn.datasets.sources.parquet import from_parquet

    return from_parquet(text, preprocessing=preprocessing)


def _none_of(preprocessing: str) -> dict[str, Any]:
    """Return no options; raises InputError where a preprocessing of images is given for arrays."""
    if preprocessing:
        raise InputError(f"{preprocessing} is for image files; arrays must have their size already")
    return {}


FORMS: Registry[Form] = Registry(
    "form of data sets",
    (
        Entry(form.prefix, form, description=form.description)
        for form in (
            Form(
                prefix="npz",
                usage="npz:FILE",
                description="arrays x and y, or x_test, y_test, x_train and y_train",
                of_files=True,
                open=_npz,
            ),
            Form(
                prefix="folder",
                usage="folder:DIR",
                description="a folder of images a class, in DIR or in DIR/test and DIR/train",
                of_files=True,
                open=_folder,
            ),
            Form(
                prefix="idx",
                usage="idx:IMAGES,LABELS",
                description="two IDX files, or a folder with the four of the MNIST family",
                of_files=True,
                open=_idx,
            ),
            Form(
                prefix="parquet",
                usage="parquet:DIR",
                description="Parquet files of encoded images, as the Hugging Face hub has them",
                of_files=True,
                open=_parquet,
            ),
            Form(
                prefix="torchvision",
                usage="torchvision:NAME",
                description="a data set of torchvision",
                of_files=False,
                open=_torchvision,
            ),
            Form(
                prefix="hf",
                usage="hf:NAME_OR_DIR",
                description="a data set of the Hugging Face hub, or saved by its library",
                of_files=True,
                open=_huggingface,
            ),
        )
    ),
)


def usages() -> str:
    """Return how each form is typed, with commas between."""
    return ", ".join(FORMS.get(prefix).usage for prefix in FORMS)


def is_form(name: str) -> bool:
    """Say whether a name has a form's prefix and a colon."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix in FORMS


def with_absolute_paths(name: str) -> str:
    """Return the same name for a process in another folder: paths in a form are made absolute."""
    if not is_form(name):
        return name
    prefix, _, text = name.partition(":")
    parts = text.split(",") if FORMS.get(prefix).of_files else []
    paths = [str(Path(part).expanduser()) for part in parts]
    absolute = [str(Path(path).absolute()) if Path(path).exists() else path for path in paths]
    return f"{prefix}:{','.join(absolute)}" if parts else name


def open_form(name: str, data_dir: Path | None) -> DatasetInfo:
    """Return the data set that a name in one of the forms means, without reading its inputs.

    A preprocessing may follow after a comma: folder:DIR,Res256Crop224. data_dir: of data sets that
    are searched or downloaded. Raises InputError where there are none of that form, and what the
    form's function raises.
    """
    prefix, _, text = name.partition(":")
    before, comma, last = text.rpartition(",")
    text, preprocessing = (before, last) if comma and last in PREPROCESSINGS else (text, "")
    form = FORMS.get(prefix)
    if not text:
        raise InputError(f"{shown(name)} names no data; give {form.usage}")
    return form.open(text, preprocessing, data_dir)
