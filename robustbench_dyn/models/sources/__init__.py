"""Models of other libraries and of the user's own files, by a name such as timm:resnet18."""

from robustbench_dyn.models.sources.base import Defaults, Loaded, Preprocessing, Source, Task
from robustbench_dyn.models.sources.catalogue import (
    SOURCES,
    absolute_name,
    defaults_of,
    is_from_source,
    is_source,
    source_of,
    table_name,
)

__all__ = [
    "SOURCES",
    "Defaults",
    "Loaded",
    "Preprocessing",
    "Source",
    "Task",
    "absolute_name",
    "defaults_of",
    "is_from_source",
    "is_source",
    "source_of",
    "table_name",
]
