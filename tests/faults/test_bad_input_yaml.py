"""YAML of others: a text is read within limits, or refused in one sentence with its fault."""

import os
import time
from itertools import pairwise

import pytest
import yaml
from oracles.command import dynbench, refused

from robustbench_dyn.errors import DynbenchError, InputError, shown
from robustbench_dyn.limited_yaml import LARGEST_FILE, MOST_NODES, parse, read_text
from robustbench_dyn.plugins.card import Card
from robustbench_dyn.plugins.registry import parse_names
from robustbench_dyn.strict_yaml import read_yaml
from robustbench_dyn.sweeps.sweep import sweep
from robustbench_dyn.sweeps.sweep_file import Sweep, read_sweep
from robustbench_dyn.training.recipes import read_recipe

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghi")
)
FAULTS = {
    "alias bomb": (BOMB, "more than 20,000 values"),
    "alias of itself": ("a: &a [*a]", "stands inside itself"),
    "alias of nothing": ("a: *b", "undefined alias"),
    "merge bomb": (
        "a: &a {k: 1}\n" + "b:\n" + "".join(f"  - {{<<: [{','.join(['*a'] * 99)}]}}\n" * 99),
        "more than 20,000 values",
    ),
    "too many values": ("a: [" + "1," * MOST_NODES + "]", "more than 20,000 values"),
    "2,000 lists": ("a: " + "[" * 2000, "nested more than 32 levels"),
    "2,000 mappings": ("a: " + "{b: " * 2000, "nested more than 32 levels"),
    "2,000 blocks": ("- " * 2000 + "x", "nested more than 32 levels"),
    "5,000 digits": ("a: " + "9" * 5000, "longer than 100 characters"),
    "5,000 digits as text": ("a: !!int '" + "9" * 5000 + "'", "longer than 100 characters"),
    "4,000 base-60 digits": ("a: 1" + ":59" * 4000, "longer than 100 characters"),
    "65 bits": ("a: 18446744073709551616", "more than 64 bits"),
    "20 base-60 digits": ("a: 1" + ":59" * 20, "more than 64 bits"),
    "no such day": ("a: 2001-99-99", "'2001-99-99' is no value of type timestamp"),
    "no such zone": ("a: 2001-01-01T00:00:00+99:99", "is no value of type timestamp"),
    "no integer": ("a: !!int abc", "'abc' is no value of type int"),
    "no float": ("a: !!float abc", "'abc' is no value of type float"),
    "no truth": ("a: !!bool foo", "'foo' is no value of type bool"),
    "no time": ("a: !!timestamp foo", "'foo' is no value of type timestamp"),
    "empty integer": ("a: !!int ''", "'' is no value of type int"),
    "empty binary number": ("a: 0b_", "'0b_' is no value of type int"),
    "empty hexadecimal number": ("a: 0x_", "'0x_' is no value of type int"),
    "no base64": ("a: !!binary é", "base64"),
    "Python object": ("a: !!python/object/apply:os.system [id]", "could not determine a constr"),
    "Python name": ("a: !!python/name:os.system", "could not determine a constructor"),
    "unknown tag": ("a: !card x", "could not determine a constructor"),
    "list as mapping": ("a: !!map [1]", "expected a mapping"),
    "mapping as list": ("a: !!seq {b: 1}", "expected a sequence"),
    "list as text": ("a: !!str [1]", "expected a scalar"),
    "mapping as number": ("a: !!int {b: 1}", "expected a scalar"),
    "list as key": ("? [a]\n: 1", "unhashable key"),
    "mapping as key": ("? {a: 1}\n: 1", "unhashable key"),
    "merge of a number": ("<<: 1", "for merging"),
    "key twice": ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
    "key twice in flow": ("a: {b: 1, b: 2}", "line 1: the key 'b' stands twice"),
    "anchor twice": ("a: &x 1\nb: &x 2", "duplicate anchor"),
    "NUL": ("a: x\0y", "special characters are not allowed"),
    "escape": ("a: x\x1b[31my", "special characters are not allowed"),
    "two documents": ("a: 1\n---\nb: 2", "expected a single document"),
    "YAML 9": ("%YAML 9.9\n---\na: 1", "incompatible YAML document"),
    "unclosed list": ("a: [1", "line 1"),
    "unclosed text": ('a: "1', "line 1"),
    "tab": ("a:\n\t- 1", "line 2"),
    "at sign": ("a: @b", "cannot start any token"),
    "bad indentation": ("a: 1\n  b: 2", "line 2"),
}


@pytest.mark.parametrize(("text", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_a_bad_text_is_refused_soon_and_with_its_fault(text, fault, tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    start = time.process_time()
    with pytest.raises(InputError, match=r"file\.yaml is not valid YAML: ") as caught:
        read_sweep(path)
    assert time.process_time() - start < 5
    message = str(caught.value)
    assert fault in message
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize("read", [read_sweep, read_recipe, lambda path: read_yaml(path, Card)])
@pytest.mark.parametrize("fault", ["alias bomb", "2,000 lists", "no such day", "key twice"])
def test_sweeps_recipes_and_cards_have_the_same_limits(fault, read, tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(FAULTS[fault][0], encoding="utf-8")
    with pytest.raises(InputError, match=FAULTS[fault][1]):
        read(path)


@pytest.mark.parametrize("text", ["", "~", "1", "[a, b]", "text", "2001-01-01", "!!set {a}"])
def test_a_file_without_keys_is_refused(text, tmp_path):
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(InputError, match="must hold a mapping of keys to values"):
        read_yaml(tmp_path / "card.yaml", Card)


def test_plain_texts_and_anchors_are_read():
    text = "a: &x [1, 2.5, 8/255, true, ~]\nb: *x\nc: {<<: {d: 1}, e: 2}\n"
    expected = [1, 2.5, "8/255", True, None]
    assert parse(text) == {"a": expected, "b": expected, "c": {"d": 1, "e": 2}}
    assert parse("[" * 30 + "]" * 30)
    assert len(parse("[" + "1," * 19_000 + "]")) == 19_000
    assert parse("9223372036854775807") == 2**63 - 1


def folder(path):
    path.mkdir()


def loop(path):
    path.symlink_to(path)


def fifo(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def large(path):
    path.write_bytes(b"# " + b"x" * LARGEST_FILE)


def sparse(path):
    with path.open("wb") as file:
        file.truncate(10**12)


def latin(path):
    path.write_bytes(b"a: \xe9")


def binary(path):
    path.write_bytes(bytes(range(128, 256)) * 30)


PATHS = [
    (folder, "is no regular file"),
    (loop, "cannot be read: "),
    (fifo, "is no regular file"),
    (device, "is no regular file"),
    (large, "is larger than 256 KiB"),
    (sparse, "is larger than 256 KiB"),
    (latin, "is not text in UTF-8: 'utf-8' codec"),
    (binary, "is not text in UTF-8: 'utf-8' codec"),
    (lambda path: None, "cannot be read: No such file"),
]


@pytest.mark.parametrize(("make", "message"), PATHS)
def test_what_is_no_small_text_file_is_refused(make, message, tmp_path):
    make(tmp_path / "x.yaml")
    with pytest.raises(InputError, match=message):
        read_sweep(tmp_path / "x.yaml")


@pytest.mark.parametrize("name", ["x" * 5000, "x\0y"])
def test_a_path_that_no_file_can_have_is_refused(name, tmp_path):
    with pytest.raises(InputError, match=r"cannot be read: File name too|is no name of a file"):
        read_text(tmp_path / name)


SWEEP = {
    "models": ["lipflow"],
    "datasets": ["digits"],
    "threat_models": [{"norm": "L2", "eps": [0.5]}],
    "n_examples": 4,
    "seeds": [0],
}
NAN, INF = float("nan"), float("inf")
VALUES = [
    *[("n_examples", value) for value in (0, -1, 1.5, NAN, INF, "x", None, [], {}, True, "")],
    *[("seeds", value) for value in ([], 0, "x", [1.5], [None], [True], [[0]], {}, ["x"], [INF])],
    *[("batch_size", value) for value in (0, -1, "auto", 2.5, NAN, True, [1])],
    *[("examples_per_shard", value) for value in (0, -5, "x", INF, False)],
    *[("models", value) for value in ([], "lipflow", [1], [None], [[]], [{}], {"name": "x"})],
    *[("models", [{"name": "lipflow", key: 1}]) for key in ("names", "smoothing", "[/b]")],
    *[("models", [{"name": "lipflow", "n_examples": value}]) for value in (0, "x", True)],
    *[("datasets", value) for value in ([], "digits", [1], [None], {})],
    *[("threat_models", value) for value in ([], {}, [1], [{}], [{"norm": "L2"}], "L2")],
    *[("threat_models", [{"norm": norm, "eps": [1]}]) for norm in ("L3", "", None, 2, "linf")],
    *[
        ("threat_models", [{"norm": "L2", "eps": eps}])
        for eps in (
            [], 0.5, ["x"], [0], [-1], [NAN], [INF], [True], [None], ["1/0"], ["1e1000000000"],
            ["1e400"], ["9" * 5000], [[1]], ["nan"], ["٣"], ["8/1e-400"], [{}],
        )
    ],
    *[("attacks", value) for value in (1, None, [], ["pgd"], {})],
    *[("certifiers", value) for value in (1, None, ["interval"])],
    ("model", ["lipflow"]),
    ("[/b]\x1b", 1),
]  # fmt: off


@pytest.mark.parametrize(("key", "value"), VALUES, ids=shown)
def test_a_sweep_with_a_bad_value_is_refused_by_its_key(key, value, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(SWEEP), encoding="utf-8")
    assert read_sweep(path).n_examples == 4
    path.write_text(yaml.safe_dump(SWEEP | {key: value}, allow_unicode=True), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_sweep(path)
    message = str(caught.value)
    assert key.partition("[")[0] in message
    assert "\n" not in message
    assert len(message) < 1000


RECIPE = {"model": "lipflow", "dataset": "digits", "epochs": 2}
RECIPE_VALUES = [
    *[("epochs", value) for value in (0, -1, 1.5, NAN, INF, "x", None, [])],
    *[("batch_size", value) for value in (0, -1, 2.5, "auto", None)],
    *[("learning_rate", value) for value in (0, -1, NAN, INF, "x", None, "1/0", [1])],
    *[("weight_decay", value) for value in (-1, NAN, INF, "x")],
    *[("momentum", value) for value in (-0.1, 1, NAN, 0.5)],
    *[("warmup", value) for value in (0, 1, -1, NAN)],
    *[("orthogonality", value) for value in (-1, NAN, INF)],
    *[("seed", value) for value in (1.5, "x", None, INF, [0])],
    *[("norm", value) for value in ("L3", 2, "")],
    *[("model", value) for value in ("", "Lip", "../x", 1, None, "[/b]")],
    *[("dataset", value) for value in (1, None, [])],
    *[("variant", value) for value in ("../x", "A B", "/", 1)],
    *[("optimizer", value) for value in ("", "sgdx", 1)],
    *[("precision", value) for value in ("float64", 32)],
    *[("options", value) for value in (1, [], {"a": [1]}, {"a": NAN}, {"a": None}, {1: 2})],
    *[(key, {"x": 1}) for key in ("loss", "augmentation", "adversary", "certified_training")],
    ("[/b]", 1),
]


@pytest.mark.parametrize(("key", "value"), RECIPE_VALUES, ids=shown)
def test_a_recipe_with_a_bad_value_is_refused_by_its_key(key, value, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    assert read_recipe(path).epochs == 2
    path.write_text(yaml.safe_dump(RECIPE | {key: value}), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_examples": 10**15, "examples_per_shard": 1},
        {"n_examples": 297, "examples_per_shard": 1, "seeds": [*range(1000)]},
        {"models": ["nothing"]},
        {"models": ["lipflow/[/b]"]},
        {"datasets": ["../../x"]},
        {"attacks": "pgd:n_steps=" + "9" * 5000},
        {"certifiers": "[/b]"},
    ],
)
def test_a_sweep_that_cannot_run_is_refused_before_it_starts(changes, tmp_path):
    content = SWEEP | {"datasets": ["fashion_mnist"]} | changes
    with pytest.raises(DynbenchError) as caught:
        sweep(Sweep.model_validate(content), tmp_path / "store.sqlite")
    assert len(str(caught.value)) < 1500
    assert not (tmp_path / "store.sqlite").exists()


SETTINGS = [
    "2001-99-99", "!!int abc", "!!bool foo", "!!timestamp foo", "0b_", "[3", "9" * 5000, "*a",
    "[" * 2000, "\0", "!!python/name:os.system", "{a: 1}}", "1" + ":59" * 100,
]  # fmt: off


@pytest.mark.parametrize("value", SETTINGS, ids=shown)
def test_a_bad_value_of_a_setting_is_refused(value):
    with pytest.raises(InputError, match="is no value of a setting") as caught:
        parse_names(f"pgd:n_steps={value}")
    assert len(str(caught.value)) < 200


class Huge:
    def __repr__(self):
        return "x" * 10**6


class Broken:
    def __repr__(self):
        raise RuntimeError


DEEP = [0]
for _ in range(900):
    DEEP = [DEEP] * 9


@pytest.mark.parametrize(
    "value",
    [Huge(), Broken(), DEEP, 10**5000, -(10**5000), ["x" * 10**6] * 9, {1: DEEP}, "\n" * 10**6],
    ids=["long text", "raises", "deep", "large", "negative", "list", "dict", "lines"],
)
def test_the_representation_of_any_value_is_short(value):
    assert len(shown(value)) < 90
    assert "\n" not in shown(value)


def test_the_representation_of_a_plain_value_is_its_repr():
    for value in (8, -0.5, "abc", [1, "b"], {"a": None}, (1,), True):
        assert shown(value) == repr(value)


@pytest.mark.slow
def test_a_bomb_ends_the_command_with_exit_code_2(tmp_path):
    (tmp_path / "sweep.yaml").write_text(BOMB)
    refused(dynbench("sweep", "sweep.yaml", cwd=tmp_path), "more than 20,000 values")
