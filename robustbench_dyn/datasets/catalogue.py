"""Data sets by name: those that are registered, and files in one of the forms."""

from __future__ import annotations

from pathlib import Path

from robustbench_dyn.datasets import (
    cifar10,
    cifar10_jpeg,
    cifar100,
    digits,
    fashion_mnist,
    imagenet,
    isolated,
    mnist,
    toys,
)
from robustbench_dyn.datasets.dataset import DatasetInfo, is_name_of_files
from robustbench_dyn.datasets.forms import is_form, open_form, usages
from robustbench_dyn.errors import InputError
from robustbench_dyn.plugins import Entry, Registry, from_plugins


def _check_type(_name: str, info: object) -> None:
    if not isinstance(info, DatasetInfo):
        raise InputError(f"it is a {type(info).__name__}, and must be a DatasetInfo")
    if info.is_unregistered:
        raise InputError(f"{info.name!r} is a name of unregistered files; give it name=")


DATASETS: Registry[DatasetInfo] = Registry(
    "data set",
    (
        Entry(info.name, info, description=info.source)
        for info in (
            fashion_mnist.INFO,
            mnist.INFO,
            cifar10.INFO,
            cifar10_jpeg.INFO,
            cifar100.INFO,
            digits.INFO,
            toys.MOONS,
            toys.SPIRALS,
            *imagenet.INFOS,
        )
    ),
    hint=f"files ({usages()}) or ",
    from_plugins=from_plugins("datasets", _check_type, of_foreign=isolated.of_foreign_plugin),
)
_COPIES = {
    cifar10.INFO.name: (cifar10_jpeg.INFO.name,),
    cifar10_jpeg.INFO.name: (cifar10.INFO.name,),
}
# Of files that this process has opened, so that weights which were trained on them can be filled:
# their facts by their name in results, and that name by the one that the user gave.
_OPENED, _NAMES = dict[str, DatasetInfo](), dict[str, str]()


def dataset_names() -> tuple[str, ...]:
    """Name every registered data set that load_dataset can load."""
    return tuple(name for name, entry in DATASETS.entries().items() if not entry.problem)


def opened(name: str) -> DatasetInfo | None:
    """Return the files of that name, as results have it, where this process has opened them.

    Files may have been renamed since: those whose content has the same digits will do.
    """
    if name in _OPENED or not is_name_of_files(name):
        return _OPENED.get(name)
    digits = name.rpartition("-")[2]
    return next((info for other, info in _OPENED.items() if other.endswith(f"-{digits}")), None)


def served_by(name: str) -> tuple[str, ...]:
    """Name the data sets whose weights serve this one: itself, then one that it shares images with.

    That is a set of copies, with the same classes, and its original. Results never mix the two.
    """
    return (name, *_COPIES.get(name, ()))


def dataset_name(name: str, *, data_dir: Path | None = None) -> str:
    """Return the name under which results stand: that of the content for files such as npz:FILE.

    Files that this process has opened have the name that they had then. Another name is returned
    as it is, known or not. Raises what dataset_info raises for files.
    """
    if not (isinstance(name, str) and is_form(name)):
        return name
    return _NAMES[name] if name in _NAMES else dataset_info(name, data_dir=data_dir).name


def dataset_info(name: str, *, data_dir: Path | None = None) -> DatasetInfo:
    """Return a data set's facts without loading it.

    name: a registered one; files in one of the forms, as npz:FILE; or the name of files that this
    process has opened. data_dir: of data sets that are searched or downloaded.
    Raises InputError, with the nearest name, where there is none of that name, and what the form
    raises where its files are not what they should be.
    """
    if not isinstance(name, str):
        raise InputError(f"{name!r} is no name of a data set; choose {', '.join(DATASETS)}")
    if is_form(name):
        info = open_form(name, data_dir)
        _OPENED[info.name], _NAMES[name] = info, info.name
        return info
    return opened(name) or DATASETS.get(name)
