"""YAML of others, read within limits: no text takes long, fills memory, or raises anything else.

Cards, sweeps, recipes and the settings on the command line are read here and nowhere else.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from robustbench_dyn.errors import InputError, one_line, shown

# A card has 100 nodes and a long sweep 1,000; these are read in less than a second or two.
LARGEST_FILE = 2**18
MOST_NODES = 20_000
DEEPEST = 32
LONGEST_NUMBER = 100
# Seeds, sizes and counts go into integers of 64 bits.
MOST_BITS = 63


def read_text(path: Path) -> str:
    """Return the text of a small file in UTF-8; raises InputError where it is anything else."""
    try:
        # A pipe or a device may never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is no regular file; give a file")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise InputError(f"{path} is larger than {LARGEST_FILE >> 10} KiB; give a smaller file")
        return content.decode("utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8: {one_line(str(error))}") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r} is no name of a file: {error}") from error


def parse(text: str) -> Any:
    """Return the value of a YAML text; raises InputError, with the reason alone, for a bad one.

    It has plain values, lists and mappings alone. Refused are a value that its tag cannot have, a
    key that stands twice, and what is larger than the limits, aliases counted as what they repeat.
    """
    loader = _LimitedLoader(text)
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise InputError(_reason(error)) from error
    finally:
        loader.dispose()


class _LimitedLoader(yaml.SafeLoader):
    """A loader that counts nodes and levels while it reads, and aliases as what they repeat."""

    def __init__(self, text: str) -> None:
        self._nodes, self._depth = 0, 0
        self._sizes: dict[int, int] = {}
        # It looks for characters that YAML does not have.
        try:
            super().__init__(text)
        except yaml.YAMLError as error:
            raise InputError(_reason(error)) from error

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._nodes
        self._depth += 1
        self._count(1, event.start_mark)
        if self._depth > DEEPEST:
            raise _refusal(f"it is nested more than {DEEPEST} levels deep", event.start_mark)
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _refusal(f"*{event.anchor} stands inside itself", event.start_mark)
            self._count(self._sizes[id(node)], event.start_mark)
        else:
            self._sizes[id(node)] = self._nodes - before
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set[tuple[str, str]]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _refusal(f"the key {shown(key.value)} stands twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        kind = node.tag.rpartition(":")[2]
        if kind in ("int", "float") and len(node.value) > LONGEST_NUMBER:
            raise _refusal(f"a number is longer than {LONGEST_NUMBER} characters", node.start_mark)
        try:
            value = super().construct_object(node, deep=deep)
        except yaml.YAMLError:
            raise
        # Constructors of numbers and dates raise what int(), float() and date() raise, and others.
        except Exception as error:
            what = shown(node.value) if isinstance(node, yaml.ScalarNode) else "this"
            raise _refusal(f"{what} is no value of type {kind}", node.start_mark) from error
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise _refusal(f"{shown(node.value)} has more than 64 bits", node.start_mark)
        return value

    def _count(self, nodes: int, mark: Any) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            raise _refusal(f"it has more than {MOST_NODES:,} values", mark)


def _refusal(problem: str, mark: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(None, None, problem, mark)


def _reason(error: yaml.YAMLError) -> str:
    """Return what is wrong, and in which line."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return one_line(str(error))
    problem = one_line(": ".join(part for part in (error.context, error.problem) if part))
    return f"line {error.problem_mark.line + 1}: {problem}"
