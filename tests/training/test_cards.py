"""The entry of trained weights in card.yaml: everything else in the file stays as it is."""

import pytest
import yaml

from robustbench_dyn.errors import InputError
from robustbench_dyn.plugins import Card
from robustbench_dyn.training.cards import install_entry, place_of_weights
from robustbench_dyn.training.recipes import Recipe

HEAD = """# The card of a flow.
name: flow
summary: "A flow: x' = f(x)."   # with a colon
version: "1"
family: Flow
"""
ENTRY = {
    "file": "weights/moons.safetensors",
    "sha256": "a" * 64,
    "dataset": "moons",
    "norm": "L2",
    "recipe": "recipes/moons.yaml",
    "options": {"depth": 2, "kind": "no", "on": True},
    "training_seconds": 1.5,
}
OTHER = """- file: weights/digits.safetensors  # the first
  sha256: {sha}
  dataset: digits
  recipe: recipes/digits.yaml
  options: {{}}
  # a last word on it
""".format(sha="b" * 64)
OLD = """# the second
- file: weights/old.safetensors
  sha256: {sha}
  norm: L2
  dataset: moons
  recipe: recipes/old.yaml
""".format(sha="c" * 64)
TAIL = "sources: [here]  # at the end\n"
LAYOUTS = {
    "none": (HEAD, []),
    "no line end": (HEAD.rstrip("\n"), []),
    "null": (HEAD + "weights: []\n", []),
    "empty and more": (HEAD + "weights: []   # none yet\n" + TAIL, []),
    "a block": (HEAD + "weights:\n" + OTHER, ["digits"]),
    "a block and more": (HEAD + "weights:\n" + OTHER + TAIL, ["digits"]),
    "indented": (HEAD + "weights:\n" + "".join(f"  {x}\n" for x in OTHER.splitlines()), ["digits"]),
    "replaced": (HEAD + "weights:\n" + OTHER + OLD + TAIL, ["digits"]),
    "replaced first": (HEAD + "weights:\n" + OLD + OTHER + TAIL, ["digits"]),
    "flow": (
        HEAD + f"weights: [{{file: w, sha256: '{'b' * 64}', dataset: digits, recipe: r}}]\n" + TAIL,
        ["digits"],
    ),
}


def read(path):
    return Card.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("text", "others"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_an_entry_is_put_into_any_layout_of_a_card(text, others, tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text(text, encoding="utf-8")
    before = read(path)
    assert install_entry(path, ENTRY) == ("old.safetensors" in text)
    after = read(path)
    assert after.model_copy(update={"weights": ()}) == before.model_copy(update={"weights": ()})
    assert {w.dataset for w in after.weights} == {*others, "moons"}
    (mine,) = (w for w in after.weights if w.dataset == "moons")
    assert mine.model_dump(exclude_defaults=True) == ENTRY
    assert [w for w in after.weights if w != mine] == [
        w for w in before.weights if w.dataset == "digits"
    ]
    kept = [line.partition("#")[2] for line in text.splitlines()]
    comments = [line.partition("#")[2] for line in path.read_text().splitlines()]
    assert [*filter(None, comments)] == [*filter(None, kept)]


def test_the_same_entry_a_second_time_changes_nothing(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text(HEAD + "weights:\n" + OTHER + TAIL)
    install_entry(path, ENTRY)
    once = path.read_text()
    assert install_entry(path, ENTRY)
    assert path.read_text() == once


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("name: flow\n", ENTRY),
        (HEAD, ENTRY | {"sha256": "no"}),
        (HEAD + "weights: &w []\nsources: *w\n", ENTRY),
    ],
    ids=["a broken card", "a broken entry", "an alias of the list"],
)
def test_a_card_that_would_be_broken_stays_as_it_was(text, entry, tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text(text)
    with pytest.raises(InputError):
        install_entry(path, entry)
    assert path.read_text() == text


def test_weights_of_two_norms_get_two_files(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text(HEAD)
    install_entry(path, ENTRY)
    recipe = Recipe(model="flow", dataset="moons", norm="L2", epochs=1)
    assert place_of_weights(read(path), recipe) == "weights/moons.safetensors"
    other = recipe.model_copy(update={"norm": "Linf"})
    assert place_of_weights(read(path), other) == "weights/moons-Linf.safetensors"
    variant = recipe.model_copy(update={"variant": "eps-1"})
    assert place_of_weights(read(path), variant) == "weights/moons-eps-1.safetensors"
