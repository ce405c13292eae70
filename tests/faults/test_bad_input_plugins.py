"""A bad card or entry point is listed as broken with its reason, and all other models work."""

import os
import sys

import pytest
from oracles.command import dynbench_here, refused

from robustbench_dyn.errors import RegistryError
from robustbench_dyn.models.loading import discover, load_model
from robustbench_dyn.plugins import load_plugins
from robustbench_dyn.plugins.card import KINDS

CARD = {
    "name": "odd",
    "summary": "A test.",
    "version": '"1"',
    "family": "linear",
}
SHA = "0" * 64


def card(**changes):
    return "".join(f"{key}: {value}\n" for key, value in (CARD | changes).items())


def weights(file, sha256=SHA):
    return f"[{{file: {file}, sha256: '{sha256}', dataset: digits, recipe: none}}]"


CARDS = {
    "no day": (card(version="2001-99-99"), "no value of type timestamp"),
    "a date": (card(version="2001-01-01"), "version: give a text"),
    "a number": (card(version="1.0"), "version: give a text"),
    "no requirement": (card(requires="['']"), "must be the name of a package"),
    "a command": (card(requires="['; rm']"), "must be the name of a package"),
    "a path": (card(requires="['../x']"), "must be the name of a package"),
    "a URL": (card(requires="['git+https://x']"), "must be the name of a package"),
    "a package that is not there": (card(requires="[no-such-thing]"), "which is not installed"),
    "a list": ("- name: odd\n", "must hold a mapping"),
    "a text": ("odd\n", "must hold a mapping"),
    "empty": ("", "must hold a mapping"),
    "comments": ("# odd\n", "must hold a mapping"),
    "a list of models": (card(name="[a, b]"), "name: give a text"),
    "a name of markup": (card(name="'[/b]'"), "must be lower-case letters"),
    "a name of control characters": (
        card(name='"\\e[31m"'),
        "must be lower-case letters",
    ),
    "a name of a path": (card(name="../odd"), "must be lower-case letters"),
    "no name": (card(name=""), "name: give a text"),
    "an unknown key": (card(**{"'[/b]'": 1}), "unknown key '[/b]'"),
    "a key of control characters": (card(**{'"\\e[31m"': 1}), "unknown key"),
    "an unknown kind": (card(provides="[models]"), "provides.0: choose 'architecture'"),
    "no kind": (card(provides="[]"), "provides: give at least 1 of them"),
    "properties of a number": (card(properties="1"), "properties: give a list: [a, b] (it is"),
    "absolute weights": (card(weights=weights("/etc/passwd")), "must be a file in the plugin's"),
    "weights outside": (card(weights=weights("../w.safetensors")), "must be a file in the plugin"),
    "weights far outside": (card(weights=weights("a/../../w")), "must be a file in the plugin's"),
    "weights without a name": (card(weights=weights("''")), "must be a file in the plugin's"),
    "weights with NUL": (card(weights=weights('"a\\0b"')), "must be a file in the plugin's"),
    "no checksum": (card(weights=weights("w", "x")), "weights.0.sha256: 'x' must be a SHA-256"),
    "weights of a number": (card(weights="1"), "weights: give a list"),
    "seconds of NaN": (
        card(weights=weights("w").replace("recipe", "training_seconds: .nan, recipe")),
        "training_seconds: give a finite number",
    ),
    "5,000 digits": (card(version="9" * 5000), "longer than 100 characters"),
    "nested": (card(properties="[" * 2000), "nested more than 32 levels"),
    "huge": (card(summary="x" * 10**6), "larger than 256 KiB"),
    "a key twice": (card() + "name: even\n", "the key 'name' stands twice"),
    "latin-1": (card(summary="\udce9"), "'utf-8' codec"),
    "NUL": (card(summary="\0"), "special characters are not allowed"),
    "a Python object": (card(summary="!!python/object/apply:os.getpid []"), "constructor"),
}


def write(folder, text, code="build = print\n"):
    folder.mkdir(parents=True)
    (folder / "card.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    (folder / "__init__.py").write_text(code)
    return folder


@pytest.mark.parametrize(("text", "reason"), CARDS.values(), ids=CARDS.keys())
def test_a_bad_card_is_listed_as_broken_and_breaks_no_other(text, reason, tmp_path):
    write(tmp_path / "odd", text)
    write(tmp_path / "sound", card(name="sound"))
    load_plugins(tmp_path)
    models = discover()
    entry = models.entry("odd")
    assert reason in entry.problem
    assert "\n" not in entry.problem
    assert len(entry.problem) < 1000
    assert str(tmp_path / "odd") in entry.origin
    assert models.get("sound").card.family == "linear"
    assert not models.entry("lipflow").problem
    with pytest.raises(RegistryError, match=r"'odd' from the folder .* is broken"):
        load_model("odd", dataset="digits")


def test_a_good_card_is_not_listed_as_broken(tmp_path):
    load_plugins(write(tmp_path / "odd", card(weights=weights("a/b.safetensors"))))
    assert not discover().entry("odd").problem


def pipe(folder):
    (folder / "card.yaml").unlink()
    os.mkfifo(folder / "card.yaml")


def directory(folder):
    (folder / "card.yaml").unlink()
    (folder / "card.yaml").mkdir()


def loop(folder):
    (folder / "card.yaml").unlink()
    (folder / "card.yaml").symlink_to("card.yaml")


@pytest.mark.parametrize("spoil", [pipe, directory, loop])
def test_a_card_that_is_no_file_is_listed_as_broken(spoil, tmp_path):
    spoil(write(tmp_path / "odd", card()))
    load_plugins(tmp_path)
    assert "card.yaml" in discover().entry("odd").problem


def test_a_pipe_among_the_code_stops_nothing(tmp_path):
    folder = write(tmp_path / "odd", card())
    os.mkfifo(folder / "endless.py")
    (folder / "folder.py").mkdir()
    load_plugins(folder)
    assert discover().get("odd").build is print


def test_hostile_texts_of_a_card_are_listed_as_they_are(tmp_path, monkeypatch, capsys):
    text = card(family="'[/b]'", summary='"\\e[2J\\a[/red]"', properties="['[link=x]']")
    load_plugins(write(tmp_path / "odd", text))
    for command in (["list", "models"], ["show", "odd"]):
        result = dynbench_here(command, tmp_path, monkeypatch, capsys)
        assert result.returncode == 0, result.stderr
        assert "[/b]" in result.stdout
        assert "\x1b" not in result.stdout
        assert "\x07" not in result.stdout


MARKER = """
import pathlib, sys
pathlib.Path(__file__).with_name("imported").touch()
print("printed")
"""
PARENTS = {
    "a marker": MARKER,
    "an error": MARKER + "raise RuntimeError('no')",
    "SystemExit": MARKER + "raise SystemExit(0)",
    "KeyboardInterrupt": MARKER + "raise KeyboardInterrupt",
    "os._exit": MARKER + "import os; os._exit(0)",
    "an endless loop": MARKER + "while True: pass",
    "wrong syntax": MARKER + "(",
}


def install(site, value, monkeypatch, *, text=None):
    info = site / "parent-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parent\nVersion: 1.0\n")
    text = text or f"[robustbench_dyn]\nentry = {value}\n"
    (info / "entry_points.txt").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(site)


@pytest.mark.parametrize("parent", PARENTS.values(), ids=PARENTS.keys())
def test_a_list_imports_no_parent_package(parent, tmp_path, monkeypatch, capsys):
    package = tmp_path / "site" / "parent"
    inner = write(package / "inner" / "odd", card(), "build = dict\n")
    for folder in (package, package / "inner"):
        (folder / "__init__.py").write_text(parent)
    install(tmp_path / "site", "parent.inner.odd:build", monkeypatch)
    for command in (["list", "models"], ["list", "datasets"], ["show", "odd"], ["show", "lipflow"]):
        result = dynbench_here(command, tmp_path, monkeypatch, capsys)
        assert (result.returncode, result.stderr) == (0, "")
    assert discover().get("odd").folder == inner
    assert not [*package.rglob("imported")]
    assert "parent" not in sys.modules


@pytest.mark.parametrize("layout", ["module", "namespace"])
def test_entry_points_of_other_layouts_are_found(layout, tmp_path, monkeypatch):
    site = tmp_path / "site"
    folder = site / "parent" / "odd"
    write(folder, card(), "build = dict\n")
    if layout == "module":
        (site / "parent" / "__init__.py").touch()
        (folder / "part.py").touch()
    install(site, "parent.odd.part" if layout == "module" else "parent.odd", monkeypatch)
    assert discover().get("odd").folder == folder


ENTRIES = [
    ":build", "", ".", "..", ":", ".x", "x.", "no_such_module", "no_such.module:build", "sys",
    "sys:exit", "os.path:join", "[extra]", "a b", "../x", "/etc/passwd", "[/b]", "é", "x" * 5000,
    "__main__", "posix:x", "json.decoder.nothing",
]  # fmt: off


@pytest.mark.parametrize("value", ENTRIES, ids=lambda value: value[:20])
def test_an_odd_entry_point_breaks_no_other(value, tmp_path, monkeypatch):
    install(tmp_path / "site", value, monkeypatch)
    models = discover()
    assert models.get("lipflow").card.name == "lipflow"
    broken = [entry for entry in models.entries().values() if "package parent" in entry.origin]
    assert all(entry.problem for entry in broken)
    assert "\n" not in "".join(entry.problem for entry in broken)


@pytest.mark.parametrize("text", ["[robustbench_dyn]\nentry\n", "no section\n", "[[\n", "[x]\n=\n"])
def test_an_unreadable_list_of_entry_points_hides_no_other(text, tmp_path, monkeypatch):
    sound = write(tmp_path / "other" / "sound", card(name="sound"))
    info = tmp_path / "other" / "sound-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sound\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[robustbench_dyn]\nentry = sound\n")
    monkeypatch.syspath_prepend(tmp_path / "other")
    install(tmp_path / "site", "", monkeypatch, text=text)
    assert discover().get("sound").folder == sound


SURROUNDINGS = "from robustbench_dyn.attacks import Attack\nfrom dataclasses import dataclass\n"
ATTRIBUTES = {
    "raises": "def __getattr__(name): raise RuntimeError('[/b]')",
    "exits": "def __getattr__(name): raise SystemExit(0)",
    "a name that raises": (
        "class Odd:\n    @property\n    def name(self): raise RuntimeError\n"
        + "".join(f"{kind.upper()} = (Odd(),)\n" for kind in KINDS)
    ),
    "a repr that raises": (
        "class Odd:\n    name = 'odd'\n    def __repr__(self): raise RuntimeError\n"
        + "".join(f"{kind.upper()} = (Odd(),)\n" for kind in KINDS)
    ),
    "a description that exits": (
        "class Odd:\n    name = 'odd'\n    @property\n"
        "    def description(self): raise SystemExit(0)\n"
        + "".join(f"{kind.upper()} = (Odd(),)\n" for kind in KINDS)
    ),
    "a mapping that raises": (
        "class Odd(dict):\n    def items(self): raise RuntimeError\n"
        + "".join(f"{kind.upper()} = Odd(a=1)\n" for kind in KINDS)
    ),
    "norms of a number": SURROUNDINGS
    + "@dataclass(frozen=True, kw_only=True)\nclass Odd(Attack):\n    name = 'odd'\n"
    "    norms = 5\n    description = '[/b]'\n    def perturb(self, problem): ...\n"
    "ATTACKS = (Odd,)\n",
}


@pytest.mark.parametrize("code", ATTRIBUTES.values(), ids=ATTRIBUTES.keys())
@pytest.mark.parametrize("what", ["attacks", "datasets", "certifiers", "operations"])
def test_odd_things_of_a_plugin_break_no_list(what, code, tmp_path, monkeypatch, capsys):
    provides = f"[{what}]"
    load_plugins(write(tmp_path / "odd", card(provides=provides, family="''"), code))
    result = dynbench_here(["list", what], tmp_path, monkeypatch, capsys)
    assert (result.returncode, result.stderr) == (0, "")
    assert "odd" in result.stdout


@pytest.mark.parametrize("name", ["f.txt", "x" * 300, "loop", "pipe", "x" * 5000, "a\nb", "[/b]"])
def test_folders_that_cannot_be_used_are_refused(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "f.txt").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    command = ["list", "models", "--plugins", name]
    refused(dynbench_here(command, tmp_path, monkeypatch, capsys), "plugin folder")


@pytest.mark.parametrize("folder", [3, None, b"x", ["x"]])
def test_what_is_no_path_is_refused_as_a_folder_of_plugins(folder):
    with pytest.raises(RegistryError, match="is no path of a plugin folder; give a folder"):
        load_plugins(folder)
