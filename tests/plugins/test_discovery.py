"""Plugins in folders and packages: what they bring by name, and the messages about broken ones."""

import subprocess
import sys

import pytest

from robustbench_dyn.datasets import DATASETS, dataset_info, dataset_names, load_dataset
from robustbench_dyn.errors import InputError, RegistryError
from robustbench_dyn.models.loading import discover, load_model
from robustbench_dyn.plugins import discovery, find_plugins, load_plugins
from robustbench_dyn.plugins.card import KINDS

POINTS = """
import numpy as np
from robustbench_dyn.datasets import DatasetInfo
from robustbench_dyn.datasets.dataset import RawSplit

def load_raw(split, data_dir):
    return RawSplit(x=np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1), y=np.arange(2), white=1)

def points(name):
    return DatasetInfo(
        name=name, input_shape=(2, 1, 1), class_names=("a", "b"), sizes={"test": 2},
        availability={"test": "generated"}, source="here", licence="MIT", load_raw=load_raw,
    )
"""
CORNERS = POINTS + '\nDATASETS = (points("corners"),)\n'


def write(folder, code=CORNERS, **keys):
    folder.mkdir(parents=True)
    card = {"name": folder.name, "summary": "A test.", "version": '"1"'}
    card |= {"provides": "[datasets]"} | keys
    (folder / "card.yaml").write_text("".join(f"{k}: {v}\n" for k, v in card.items() if v))
    (folder / "__init__.py").write_text(code)
    return folder


def install(site, package, monkeypatch, group):
    """Lay out what pip leaves of a package with an entry point, and make it importable."""
    info = site / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\nentry = {package}\n")
    monkeypatch.syspath_prepend(site)


def test_a_loaded_plugin_brings_its_names(tmp_path):
    assert "corners" not in DATASETS
    load_plugins(write(tmp_path / "mine"))
    assert load_dataset("corners").x.shape == (2, 2, 1, 1)
    assert dataset_names()[-1] == "corners"
    assert str(tmp_path / "mine") in DATASETS.entry("corners").origin


def test_loading_a_plugin_twice_changes_nothing(tmp_path):
    folder = write(tmp_path / "mine")
    load_plugins(folder, tmp_path, str(folder))
    load_plugins(folder / ".." / "mine")
    assert [plugin.name for plugin in find_plugins()].count("mine") == 1
    assert list(DATASETS).count("corners") == 1


def test_a_folder_that_does_not_exist_cannot_be_loaded(tmp_path):
    with pytest.raises(RegistryError, match="nowhere does not exist; give a folder"):
        load_plugins(tmp_path / "nowhere")
    assert tmp_path / "nowhere" not in discovery._registered


@pytest.mark.parametrize("group", ["robustbench_dyn", "robustbench_dyn.architectures"])
def test_packages_bring_names_by_entry_points(tmp_path, monkeypatch, group):
    write(tmp_path / "site" / "corner_package")
    install(tmp_path / "site", "corner_package", monkeypatch, group)
    assert dataset_info("corners").n_classes == 2
    assert "the package corner_package (entry point" in DATASETS.entry("corners").origin


def test_only_plugins_that_provide_a_kind_are_imported(tmp_path):
    load_plugins(write(tmp_path / "other", "raise RuntimeError", provides="[attacks]"))
    names = list(DATASETS)
    assert "other" not in names
    write(tmp_path / "data", "raise RuntimeError('imported')")
    load_plugins(tmp_path)
    assert set(DATASETS) - set(names) == {"data"}


def test_a_plugin_of_another_kind_is_no_architecture(tmp_path):
    load_plugins(write(tmp_path / "mine"))
    assert "mine" not in discover()
    with pytest.raises(RegistryError, match="no model is called 'mine'"):
        load_model("mine")


@pytest.mark.parametrize(
    ("code", "name", "reason"),
    [
        ("import no_such_module", "mine", "its __init__.py imports 'no_such_module', which is not"),
        ("raise SystemExit", "mine", "cannot be imported: SystemExit"),
        (POINTS, "mine", "promises datasets, and its __init__.py does not define DATASETS"),
        (POINTS + "DATASETS = ()", "mine", "does not define DATASETS, a tuple"),
        (POINTS + "DATASETS = points('corners')", "mine", "does not define DATASETS, a tuple"),
        (POINTS + "DATASETS = (7, 8)", "mine.DATASETS[1]", "is a int, and must be a DatasetInfo"),
        (POINTS + "DATASETS = {'x': points}", "x", "is a function, and must be a DatasetInfo"),
        (POINTS + "DATASETS = (points('Big'),)", "mine", "name='Big' must be lower case"),
        (
            POINTS + "DATASETS = (points('own-1a2b3c4d'),)",
            "own-1a2b3c4d",
            "is a name of unregistered files",
        ),
    ],
)
def test_a_broken_plugin_is_listed_with_its_reason(tmp_path, code, name, reason):
    write(tmp_path / "mine", code)
    write(tmp_path / "sound")
    load_plugins(tmp_path)
    assert reason in DATASETS.entry(name).problem
    with pytest.raises(InputError, match=f"{tmp_path / 'mine'} is broken: .*{reason[:20]}"):
        load_dataset(name)
    assert name not in dataset_names()
    assert len(load_dataset("corners")) == len(load_dataset("moons", n_examples=2)) == 2


def test_a_broken_plugin_takes_no_name_from_another(tmp_path):
    write(tmp_path / "a" / "corners", "raise RuntimeError")
    write(tmp_path / "b" / "sound")
    load_plugins(tmp_path / "a", tmp_path / "b")
    assert len(load_dataset("corners")) == 2
    (broken,) = (name for name, entry in DATASETS.entries().items() if entry.problem)
    assert broken == f"corners (the folder {tmp_path / 'a' / 'corners'})"


def test_the_first_of_two_plugins_keeps_the_name_that_both_bring(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    load_plugins(tmp_path)
    assert str(tmp_path / "a") in DATASETS.entry("corners").origin
    assert len(load_dataset("corners")) == 2
    other = DATASETS.entry(f"corners (the folder {tmp_path / 'b'})")
    assert f"is taken, by the data set from the folder {tmp_path / 'a'}" in other.problem


def test_a_card_that_cannot_be_read_is_listed_for_each_kind(tmp_path):
    folder = write(tmp_path / "mine", provide="[datasets]")
    load_plugins(folder)
    assert "unknown key 'provide'" in DATASETS.entry("mine").problem
    assert "unknown key 'provide'" in discover().entry("mine").problem


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"provides": "[dataset]"}, "provides.0: choose 'architecture', 'attacks'"),
        ({"provides": "[]"}, "provides: give at least 1 of them"),
        ({"provides": ""}, "the key 'family' is missing; an architecture needs one"),
        ({"properties": "[lipschitz]"}, "the key 'properties' is for architectures"),
        ({"family": "Flow"}, "the key 'family' is for architectures"),
        ({"equation": "[x]"}, "the key 'equation' is for architectures"),
    ],
)
def test_cards_name_what_a_plugin_provides(tmp_path, keys, reason):
    load_plugins(write(tmp_path / "mine", **keys))
    problem = DATASETS.entry("mine").problem
    assert reason in problem
    assert "Value error" not in problem


def test_a_plugin_may_bring_every_kind(tmp_path):
    write(tmp_path / "all", provides=f"[{', '.join(KINDS)}]", family="Flow")
    (plugin,) = (plugin for plugin in find_plugins(tmp_path) if plugin.name == "all")
    assert all(plugin.provides(kind) for kind in KINDS)


def test_code_that_changes_is_imported_anew(tmp_path):
    folder = write(tmp_path / "mine")
    load_plugins(folder)
    assert "corners" in DATASETS
    (folder / "__init__.py").write_text(CORNERS.replace("corners", "edges"))
    assert "corners" not in DATASETS
    assert "edges" in DATASETS


def test_listing_data_sets_imports_no_torch(tmp_path):
    write(tmp_path / "mine")
    write(tmp_path / "net", "import torch\nbuild = print", provides="", family="Flow")
    script = (
        "import sys; from robustbench_dyn.plugins import load_plugins\n"
        f"load_plugins({str(tmp_path)!r}, trust=True)\n"
        "from robustbench_dyn.datasets import dataset_names\n"
        "from robustbench_dyn.models.loading import discover\n"
        "assert 'corners' in dataset_names() and 'net' in discover()\n"
        "print('torch' in sys.modules)\n"
        "discover().get('net'); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "True"]
