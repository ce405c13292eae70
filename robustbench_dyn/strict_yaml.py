"""YAML files that a person writes, read strictly: an error is one line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from robustbench_dyn.errors import InputError, one_line, shown
from robustbench_dyn.limited_yaml import parse, read_text
from robustbench_dyn.threat_models import parse_eps

Option = bool | int | float | str


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


Variant = Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9_.-]*)?$")]


def refuse_truth(value: object) -> object:
    """Refuse true and false, which are 1 and 0 to Python, where a number is asked for."""
    if isinstance(value, bool):
        raise ValueError("give a number, not true or false")
    return value


# YAML reads 8/255 as a string.
Eps = Annotated[
    float,
    BeforeValidator(lambda eps: parse_eps(eps) if isinstance(eps, str) else eps),
    BeforeValidator(refuse_truth),
    Field(gt=0),
]


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StrictFile(BaseModel):
    """A file that a person writes: an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_File = TypeVar("_File", bound=StrictFile)


def read_yaml(path: Path, schema: type[_File]) -> _File:
    """Read a YAML file strictly; raise InputError in one line where it breaks its schema."""
    text = read_text(path)
    try:
        content: Any = parse(text)
    except InputError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    return check_content(content, schema, str(path))


def check_content(content: object, schema: type[_File], name: str) -> _File:
    """Return the content of a file as its schema has it; name: of the file, for messages.

    Raises InputError in one line where it breaks the schema.
    """
    if not isinstance(content, dict):
        raise InputError(f"{name} must hold a mapping of keys to values")
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{name}: {'; '.join(_explain(error, schema))}") from error


def _explain(error: ValidationError, schema: type[BaseModel]) -> Iterable[str]:
    for problem in error.errors():
        place = ".".join(one_line(str(part), most=80) for part in problem["loc"])
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = ", ".join(schema.model_fields)
            yield f"unknown key {place!r} (the keys are: {known})"
        elif problem["type"] == "missing":
            yield f"the key {place!r} is missing"
        elif problem["type"] == "value_error":
            # A rule about several keys names them.
            reason = one_line(str(problem["ctx"]["error"]))
            yield f"{place}: {reason}" if place else reason
        else:
            yield f"{place}: {one_line(problem['msg'])} (it is {shown(problem['input'])})"
