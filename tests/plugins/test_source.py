"""Broken code of a plugin is found in its text, and none of it runs."""

import pytest

from robustbench_dyn.models.loading import discover, plugins_of_models
from robustbench_dyn.plugins import load_plugins

BUILD = "def build(input_shape, n_classes):\n    raise RuntimeError\n"
MARK = "open(__file__ + '.ran', 'w')\n"


def write(folder, code=BUILD, name=None, **modules):
    folder.mkdir(parents=True)
    card = f'name: {name or folder.name}\nsummary: A test.\nversion: "1"\nfamily: Flow\n'
    (folder / "card.yaml").write_text(card)
    if code is not None:
        (folder / "__init__.py").write_text(code)
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
    return folder


BROKEN = {
    "no module": (None, {}, "it has no __init__.py"),
    "syntax": (MARK + "def build(:\n", {}, "its __init__.py is no Python in line 2"),
    "no build": (MARK, {}, "its __init__.py must define build(input_shape, n_classes, **options)"),
    "another name": (MARK + "def built(): ...", {}, "must define build("),
    "a missing package": (MARK + "import nowhere.at\n" + BUILD, {}, "imports 'nowhere', which is"),
    "names of it": (
        MARK + "from nowhere import x\n" + BUILD,
        {},
        "name its package under requires",
    ),
    "a missing module": ("from .net import build\n", {}, "imports .net, and there is no net.py"),
    "syntax beside": (
        "from .net import build\n",
        {"net": MARK + "("},
        "its net.py is no Python in line 2",
    ),
    "a package beside": (
        "from .net import build\n",
        {"net": "import nowhere\n" + BUILD},
        "its net.py imports 'nowhere'",
    ),
    "a nest": (MARK + "(" * 10_000 + "\n" + BUILD, {}, "its __init__.py "),
    "NUL": (BUILD + "\0", {}, "its __init__.py "),
    "huge": (BUILD + "#" * 2**20, {}, "larger than 1 MiB"),
}
SOUND = {
    "plain": (BUILD, {}),
    "from beside": ("from .net import build\n", {"net": BUILD}),
    "from a function": ("from . import net\nbuild = net.build\n", {"net": BUILD}),
    "by a star": ("from .net import *\n", {"net": BUILD}),
    "guarded": ("try:\n    import nowhere\nexcept ImportError:\n    nowhere = None\n" + BUILD, {}),
    "inside": ("def build(input_shape, n_classes):\n    import nowhere\n", {}),
    "in a branch": ("if True:\n    from math import floor as build\n", {}),
}


@pytest.mark.parametrize(("code", "modules", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_code_is_named_and_does_not_run(code, modules, reason, tmp_path):
    load_plugins(write(tmp_path / "odd", code, **modules))
    problem = discover().entry("odd").problem
    assert reason in problem
    assert "\n" not in problem
    assert not list(tmp_path.rglob("*.ran"))


@pytest.mark.parametrize(("code", "modules"), SOUND.values(), ids=SOUND.keys())
def test_code_that_may_work_has_no_problem(code, modules, tmp_path):
    load_plugins(write(tmp_path / "odd", code, **modules))
    assert discover().entry("odd").problem == ""


def test_code_that_was_mended_is_read_again(tmp_path):
    folder = write(tmp_path / "odd", "def build(:\n")
    load_plugins(folder)
    assert discover().entry("odd").problem
    (folder / "__init__.py").write_text(BUILD)
    assert discover().entry("odd").problem == ""


def test_a_taken_name_breaks_that_plugin_alone(tmp_path):
    for folder, name in (("a", "lipflow"), ("b", "mine"), ("c", "mine"), ("d", "other")):
        write(tmp_path / folder, name=name)
    load_plugins(tmp_path)
    models = discover()
    assert "plugins/lipflow" in models.entry("lipflow").origin
    assert str(tmp_path / "b") in models.entry("mine").origin
    assert models.get("other").build is not None
    problems = {p.folder.name: p.problem for p in plugins_of_models() if p.problem}
    assert set(problems) == {"a", "c"}
    assert problems["c"].startswith(
        f"the name 'mine' is taken, by the model from the folder {tmp_path}"
    )
