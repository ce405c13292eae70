"""Code and docs use the words of the field, and none of the old private ones."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from oracles.pages import PAGES

ROOT = Path(__file__).parents[1]


class Word(NamedTuple):
    """A pattern to avoid, what to write instead, and a text that it must find."""

    pattern: str
    instead: str
    example: str


WORDS = (
    Word(r"\brivals?\b|rival_radii|by_rival", "competing class", "each rival of the label"),
    Word(r"\bnearest finds?\b", "nearest adversarial example", "the nearest find lies outside"),
    Word(r"came to no end", "timed out", "complete came to no end"),
    Word(r"\bknows? (no )?(L1|L2|Linf)\b", "supports", "it knows L2, not Linf"),
    Word(
        r"no attack was asked for|certifiers? (is|are) asked|\basked (alone|of all)\b",
        "run",
        "certifiers are asked in this order",
    ),
    Word(r"\b(whoever|nobody|somebody|anybody)\b", "a noun", "Whoever measures it rounds it too."),
    Word(r"\bjudg(e|es|ed|ing|ement)\b", "candidate check", "the harness judges them"),
    Word(r"\bgather(s|ing)\b", "batched search", "gathering of examples"),
    Word(
        r"hand_on|carry_over|keep_violation|choose_audited|first_verdict|next_tool",
        "transitions, record_counterexample, sample_for_audit",
        "verdict = hand_on(verdict)",
    ),
    Word(r"\balarm\b", "soundness check", "the soundness alarm"),
    Word(r"\bprobing\b", "model validation", "probing the model"),
    Word(r"\bthawed\b|(?-i:\bDerived\b)|\bderive\(", "CachedParametrization", "class Derived:"),
    Word(r"\bbends?\b|\bbending\b|\bbent\b|cannot switch", "unstable neuron", "neurons that bend"),
    Word(r"\bmakings\b|trace_live|LiveRecording", "parameter_ops, trace", "makings of the weights"),
    Word(
        r"\bsteeper than\b|\bflattest\b", "Lipschitz constant above, min_slope", "steeper than 30"
    ),
    Word(r"\bCost\.(NOTHING|LOW|HIGH|EXHAUSTIVE)\b", "Phase", "Cost.NOTHING"),
    Word(r"\bat_any_eps\b", "radius_based", "certifier.at_any_eps"),
    Word(r"\bown attacks\b|attacks of our own", "native attacks", "by attacks of our own"),
    Word(r"\bdear(er|est)?\b", "expensive, costliest", "dear proofs come last"),
    Word(r"fmt: skip", "keyword arguments", "f(1, 2)  # fmt: skip"),
)
QUESTION = re.compile(r"(What|How|Where|Who|Which|Whether|Of what)\b")


def files():
    python = (
        path for path in (ROOT / "robustbench_dyn").rglob("*.py") if "_shipped" not in str(path)
    )
    plugins = (ROOT / "plugins").rglob("*.py")
    # CONTRIBUTING.md names what to avoid.
    pages = [path for path in PAGES if path.name != "CONTRIBUTING.md"]
    generators = (ROOT / "docs").glob("generators/*.py")
    return sorted([*python, *plugins, *generators, *pages])


def found_words(text):
    """Return a line for each word to avoid: its line number, the word, and what to write."""
    return [
        f"{number}: {match[0]!r}; write: {word.instead}"
        for number, line in enumerate(text.splitlines(), start=1)
        for word in WORDS
        for match in re.finditer(word.pattern, line, re.IGNORECASE)
    ]


def asks_a_question(source):
    """Return whether a module's docstring asks a question instead of naming the module."""
    return QUESTION.match(ast.get_docstring(ast.parse(source)) or "") is not None


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_code_and_docs_use_the_words_of_the_field(path):
    text = path.read_text(encoding="utf-8")
    assert found_words(text) == []
    if path.suffix == ".py":
        assert not asks_a_question(text), f"name the module in the docstring of {path}"


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.example)
def test_a_planted_word_is_found(word):
    assert any(word.instead in line for line in found_words(f"# {word.example}\n"))
    assert found_words(f"# {word.example}\n")[0].startswith("1: ")


def test_the_words_to_use_are_accepted():
    assert found_words("\n".join(word.instead for word in WORDS)) == []
    assert found_words("logits.gather(1, y)  # a derived tensor; supports L2 only") == []


def test_a_docstring_that_asks_a_question_is_found():
    assert asks_a_question('"""What a certifier is: a proof."""')
    assert not asks_a_question('"""Certifiers: proofs of robustness."""')
    assert not asks_a_question("x = 1")
