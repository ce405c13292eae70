"""YAML files that a person writes, read strictly: an error is one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_core import ErrorDetails

from robustbench_dyn.errors import InputError, one_line, shown
from robustbench_dyn.limited_yaml import parse, read_text
from robustbench_dyn.threat_models import parse_eps

Option = bool | int | float | str


def matching(pattern: str, rule: str) -> AfterValidator:
    """Return a check that a whole text matches a pattern; rule: what it must be, in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{shown(text)} must be {rule}")
        return text

    return AfterValidator(check)


Name = Annotated[
    str, matching(r"[a-z][a-z0-9_]*", "lower-case letters, digits and _, a letter first")
]


Variant = Annotated[
    str,
    matching(
        r"([a-z0-9][a-z0-9_.-]*)?",
        "lower-case letters, digits and _ . -, a letter or a digit first",
    ),
]


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


Sha256 = Annotated[str, matching(r"[0-9a-f]{64}", "a SHA-256: 64 digits of 0-9 and a-f")]


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
    problems = error.errors()
    for problem in problems:
        loc = problem["loc"]
        # A list with a bad entry counts as too short as well: pydantic counts the good ones.
        inside = any(other["loc"][: len(loc)] == loc for other in problems if other is not problem)
        if problem["type"] == "too_short" and inside:
            continue
        place = ".".join(one_line(str(part), most=80) for part in loc)
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = ", ".join(_keys_beside(loc, schema))
            yield f"unknown key {place!r} (the keys are: {known})"
        elif problem["type"] == "missing":
            yield f"the key {place!r} is missing"
        elif problem["type"] == "value_error":
            # A rule about several keys names them.
            reason = one_line(str(problem["ctx"]["error"]))
            yield f"{place}: {reason}" if place else reason
        else:
            yield f"{place}: {_wanted(problem)} (it is {shown(problem['input'])})"


def _keys_beside(loc: tuple[int | str, ...], schema: type) -> Iterable[str]:
    """Return the keys of the mapping that holds the key at a place of a file."""
    for part in loc[:-1]:
        # The numbers of a list's entries lead to no other class.
        if part in (hints := get_type_hints(schema)):
            schema = _class_in(hints[part]) or schema
    if is_dataclass(schema):
        return [field.name for field in fields(schema)]
    return getattr(schema, "model_fields", ())


def _class_in(annotation: Any) -> type | None:
    """Return the class with keys that a type such as `tuple[ModelEntry, ...]` is made of."""
    if isinstance(annotation, type) and (
        is_dataclass(annotation) or issubclass(annotation, BaseModel)
    ):
        return annotation
    return next(filter(None, map(_class_in, get_args(annotation))), None)


# What pydantic says in the words of Python, for those who write YAML; by type of error.
_WANTED = {
    "string_type": "give a text, in quotes where it looks like a number or a date",
    "tuple_type": "give a list: [a, b]",
    "list_type": "give a list: [a, b]",
    "dict_type": "give a mapping: {{key: value}}",
    "model_type": "give a mapping: {{key: value}}",
    "model_attributes_type": "give a mapping: {{key: value}}",
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
    "finite_number": "give a finite number",
    "literal_error": "choose {expected}",
    "too_short": "give at least {min_length} of them",
    "too_long": "give at most {max_length} of them",
    "greater_than": "give a number above {gt}",
    "greater_than_equal": "give a number of at least {ge}",
    "less_than": "give a number below {lt}",
    "less_than_equal": "give a number of at most {le}",
}


def _wanted(problem: ErrorDetails) -> str:
    """Return what a value has to be, in plain words."""
    words = _WANTED.get(problem["type"])
    if words is None:
        return one_line(problem["msg"])
    return words.format(**problem.get("ctx", {}))
