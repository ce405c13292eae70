"""The sources of models by name, and the names SOURCE:REFERENCE and SOURCE/REFERENCE."""

from __future__ import annotations

from typing import NamedTuple

from robustbench_dyn.errors import InputError
from robustbench_dyn.models.sources.base import Defaults, Source, Task
from robustbench_dyn.plugins import Entry, Registry
from robustbench_dyn.threat_models import Norm

_PLACE = "robustbench_dyn.models.sources"
SOURCES: Registry[type[Source]] = Registry(
    "source of models",
    (
        Entry("robustbench", f"{_PLACE}.robustbench_zoo:RobustBench"),
        Entry("timm", f"{_PLACE}.timm_models:Timm"),
        Entry("hf", f"{_PLACE}.hugging_face:HuggingFace"),
        Entry("torchvision", f"{_PLACE}.torchvision_models:Torchvision"),
        Entry("module", f"{_PLACE}.python_files:PythonFile"),
        Entry("onnx", f"{_PLACE}.onnx_files:OnnxFile"),
    ),
)


class Named(NamedTuple):
    """A model by its source. local: whether the reference may be a path."""

    source: Source
    reference: str
    local: bool


def is_source(name: str) -> bool:
    """Say whether a source is called so, by whatever case."""
    return name.casefold() in SOURCES


def is_from_source(model_name: str) -> bool:
    """Say whether a model is named by its source: SOURCE:REFERENCE, or as tables call it."""
    source, colon, _ = model_name.partition(":")
    return bool(colon) or source.partition("/")[0] in SOURCES


def source_of(model_name: str) -> Named:
    """Return the source of a model, and what it calls it.

    Raises InputError where there is no such source, or the reference is none.
    """
    source, colon, reference = model_name.partition(":")
    if not colon:
        source, _, reference = model_name.partition("/")
    found = Named(SOURCES.get(source)(), reference, bool(colon))
    if found.source.only_files and not colon:
        raise InputError(
            f"{model_name} is the name in tables of a model from a file, which it does not tell; "
            f"give {found.source.form}"
        )
    found.source.check(reference)
    return found


def absolute_name(model_name: str) -> str:
    """Return the name of a model with the whole path of its file or folder, if it has one."""
    if ":" not in model_name:
        return model_name
    source, reference, _ = source_of(model_name)
    return f"{source.name}:{source.absolute(reference)}"


def table_name(model_name: str) -> str:
    """Return the name of a model in stores and tables; that of a plugin is its own."""
    source, colon, _ = model_name.partition(":")
    if not colon or source not in SOURCES:
        return model_name
    found = source_of(model_name)
    return found.source.table_name(found.reference)


def defaults_of(
    model_name: str, *, dataset: str | None = None, norm: Norm | None = None
) -> Defaults:
    """Return the data set and the threat model that a model was made for.

    dataset, norm: where they are given, what is asked for is the rest. All is None for a model that
    says nothing; only a RobustBench model says something. Raises InputError for an unknown model.
    """
    if not is_from_source(model_name):
        return Defaults()
    found = source_of(model_name)
    return found.source.defaults(found.reference, Task(dataset=dataset, norm=norm))
