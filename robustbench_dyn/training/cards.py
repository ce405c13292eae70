"""The entry of trained weights in a plugin's card, written into card.yaml as it is.

Only the lines of that entry change: comments, order and the rest of the card stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from robustbench_dyn.errors import InputError
from robustbench_dyn.files import write_text
from robustbench_dyn.limited_yaml import parse, read_text
from robustbench_dyn.names import file_name
from robustbench_dyn.plugins import Card
from robustbench_dyn.strict_yaml import check_content, read_yaml
from robustbench_dyn.training.loop import Trained
from robustbench_dyn.training.recipes import Recipe

_KEY = "weights"
# The weights of one plugin that cannot be told apart.
_SAME = ("dataset", "norm", "variant")


def card_entry(recipe: Recipe, trained: Trained, *, file: str, recipe_file: str) -> dict[str, Any]:
    """Return the entry of trained weights for the `weights` list of card.yaml.

    file, recipe_file: of the weights and of the recipe, in the plugin's folder.
    """
    entry: dict[str, Any] = {
        "file": file,
        "sha256": trained.sha256,
        "dataset": recipe.dataset,
        "norm": recipe.norm,
        "variant": recipe.variant,
        "recipe": recipe_file,
        "options": dict(recipe.options),
        "training_seconds": round(trained.seconds, 1),
    }
    return {key: value for key, value in entry.items() if value or key == "options"}


def yaml_of(entry: Mapping[str, Any]) -> str:
    """Return an entry as it stands in the `weights` list of card.yaml."""
    return _item(entry).rstrip("\n")


def place_of_weights(card: Card, recipe: Recipe) -> str:
    """Return the file, in the plugin's folder, for the weights of a recipe: that of its data set.

    The norm stands in the name where another entry has the file without it.
    """
    others = {
        w.file
        for w in card.weights
        if (w.dataset, w.norm, w.variant) != (recipe.dataset, recipe.norm, recipe.variant)
    }
    for parts in ((recipe.dataset, recipe.variant), (recipe.dataset, recipe.norm, recipe.variant)):
        file = f"weights/{file_name(*filter(None, parts), suffix='.safetensors')}"
        if file not in others:
            return file
    raise InputError(f"the card names {file} for other weights already; rename that file")


def install_entry(card: Path, entry: Mapping[str, Any]) -> bool:
    """Put an entry of weights into card.yaml; return whether it replaced one.

    It takes the place of the one for the same data set, norm and variant, and else comes last.
    Raises InputError where the card is broken before or would be after, OutputError where it cannot
    be written; the file is as it was then.
    """
    read_yaml(card, Card)
    before = read_text(card)
    wanted = parse(before)
    entries = list(wanted.get(_KEY) or [])
    place = _place(entries, entry)
    replaced = place < len(entries)
    entries[place : place + 1] = [dict(entry)]
    after = _with_entry(before, entries, place)
    # Whatever the layout of the card is: it must say the same, and have the entry.
    if parse(after) != wanted | {_KEY: entries}:
        raise InputError(
            f"the entry of the weights cannot be put into {card}, whose list of weights has an "
            "unusual layout; write it as '- file: ...' with one key a line"
        )
    check_content(parse(after), Card, str(card))
    write_text(card, after)
    return replaced


def _place(entries: list[dict[str, Any]], entry: Mapping[str, Any]) -> int:
    for k, other in enumerate(entries):
        if all((other.get(key) or "") == (entry.get(key) or "") for key in _SAME):
            return k
    return len(entries)


def _with_entry(text: str, entries: list[dict[str, Any]], place: int) -> str:
    """Return the text of a card with one entry of its list of weights replaced or added."""
    node = _list_of_weights(text)
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    if node is None:
        return "".join(lines) + f"{_KEY}:\n" + _block([entries[place]], "")
    if node.flow_style or not node.value:
        start, end = node.start_mark.index, node.end_mark.index
        # `weights: []` becomes a list with one entry a block, on lines of its own.
        rest = text[end:].lstrip(" ")
        gap = "" if not rest or rest.startswith("\n") else " "
        head = text[:start].rstrip(" ")
        ending, newline, tail = rest.partition("\n")
        return f"{head}{gap}{ending}\n{_block(entries, '')}{tail if newline else ''}"
    dash = " " * node.start_mark.column
    if place == len(node.value):
        after = _last_line(node.value[-1]) + 1
        return "".join([*lines[:after], _block([entries[place]], dash), *lines[after:]])
    first, after = node.value[place].start_mark.line, _last_line(node.value[place]) + 1
    return "".join([*lines[:first], _block([entries[place]], dash), *lines[after:]])


def _list_of_weights(text: str) -> yaml.SequenceNode | None:
    card = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(card, yaml.MappingNode):
        for key, value in card.value:
            if key.value == _KEY and isinstance(value, yaml.SequenceNode):
                return value
    return None


def _last_line(node: yaml.Node) -> int:
    """Return the last line with content; the end of a block lies behind comments."""
    return max(leaf.end_mark.line - (leaf.end_mark.column == 0) for leaf in _leaves(node))


def _leaves(node: yaml.Node) -> Iterator[yaml.Node]:
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode) and not node.flow_style:
        children = list(node.value)
    if not children:
        yield node
    for child in children:
        yield from _leaves(child)


def _block(entries: list[dict[str, Any]], indent: str) -> str:
    text = "".join(_item(entry) for entry in entries)
    return "".join(indent + line for line in text.splitlines(keepends=True))


def _item(entry: Mapping[str, Any]) -> str:
    """Write one entry with a key a line, and options in one line."""
    lines = []
    for key, value in entry.items():
        style = isinstance(value, Mapping)
        dumped = yaml.safe_dump(
            {key: value}, sort_keys=False, allow_unicode=True, width=10**6, default_flow_style=style
        ).rstrip("\n")
        # A mapping in flow style has braces around the key, too.
        lines.append(dumped[1:-1] if style else dumped)
    return "- " + "\n  ".join(lines) + "\n"
