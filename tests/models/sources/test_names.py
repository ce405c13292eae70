"""Names of sources: what they stand for in tables, and what may not be called like them."""

import pytest
from oracles.checkpoints import BUILD
from oracles.digits_plugin import HONEST, write_plugin
from torch import nn

from robustbench_dyn import InputError, ThreatModel, evaluate, load_model
from robustbench_dyn.errors import DataUnavailableError, RegistryError
from robustbench_dyn.models.loading import check_model, discover
from robustbench_dyn.models.sources import SOURCES, is_from_source, source_of, table_name
from robustbench_dyn.names import is_name

pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.fixture(autouse=True)
def files(nowhere):
    (nowhere / "a net.py").write_text(BUILD)
    (nowhere / "x.onnx").write_bytes(b"")


NAMES = {
    "timm:resnet18.a1_in1k": "timm/resnet18.a1_in1k",
    "timm:timm/resnet18.a1_in1k": "timm/timm/resnet18.a1_in1k",
    "torchvision:resnet18": "torchvision/resnet18",
    "torchvision:resnet18/IMAGENET1K_V1": "torchvision/resnet18/IMAGENET1K_V1",
    "hf:microsoft/resnet-18": "hf/microsoft/resnet-18",
    "robustbench:Carmon2019Unlabeled": "robustbench/Carmon2019Unlabeled",
    "module:a net.py:build": "module/a_net/build",
    "module:../{here}/a net.py:build": "module/a_net/build",
    "onnx:x.onnx": "onnx/x",
    "hf:../../x~y": "hf/__/__/x_y",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_a_source_has_a_name_for_tables(name, nowhere):
    given = name.format(here=nowhere.name)
    assert table_name(given) == NAMES[name]
    assert is_name(table_name(given))
    assert is_from_source(given)


@pytest.mark.parametrize("name", ["lipflow", "orthogonal_cnn/eps-1.0", "sll~0.25", "a@ffff", "x:y"])
def test_any_other_name_stays_as_it_is(name):
    assert table_name(name) == name


@pytest.mark.parametrize("name", ["timm/resnet18", "hf/microsoft/resnet-18"])
def test_the_name_in_a_table_names_the_model_again(name):
    source, reference, local = source_of(name)
    assert (source.table_name(reference), local) == (name, False)


REFUSED = {
    "tim:resnet18": "did you mean 'timm'",
    "timm:": "timm: names no model; give timm:NAME",
    ":": "no source of models is called ''",
    "hf:": "give hf:OWNER/NAME",
    "module:": "give module:FILE.py:FUNCTION",
    "module:a net.py": "names no function",
    "module:a net.py:": "names no function",
    "module:a net.py:1": "names no function",
    "module:no.py:build": "there is no file 'no.py'",
    "module:nul\0.py:build": "there is no file",
    "onnx:no.onnx": "there is no file 'no.onnx'",
    "module/net/build": "is the name in tables of a model from a file",
    "onnx/net": "is the name in tables of a model from a file",
}


@pytest.mark.parametrize("load", [load_model, lambda name: check_model(name, dataset="digits")])
@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_is_none_is_refused_in_a_sentence(name, load):
    with pytest.raises(InputError) as refusal:
        load(name)
    assert REFUSED[name] in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "name", ["timm:x", "hf:x/y", "torchvision:x", "robustbench:X", "onnx:x.onnx"]
)
def test_a_missing_package_is_told_with_the_pip_command(name, monkeypatch):
    monkeypatch.setattr("robustbench_dyn.models.sources.base.find_spec", lambda _: None)
    extra = source_of(name).source.extra
    with pytest.raises(RegistryError, match=rf"pip install 'robustbench-dyn\[{extra}\]'"):
        check_model(name, dataset="digits")


def test_a_missing_package_is_told_when_the_model_is_loaded(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("robustbench_dyn.models.sources.packages.import_module", absent)
    with pytest.raises(RegistryError, match=r"needs the package timm.*pip install 'robustbench"):
        load_model("timm:resnet18")


def test_a_package_that_fails_is_told_with_its_reason(monkeypatch):
    def broken(_name):
        raise RuntimeError("built for another torch")

    monkeypatch.setattr("robustbench_dyn.models.sources.packages.import_module", broken)
    with pytest.raises(RegistryError, match="cannot be imported: RuntimeError: built for another"):
        load_model("timm:resnet18")


@pytest.mark.parametrize("name", ["lipflow", "robustbench:X", "hf:x/y", "onnx:x.onnx"])
def test_weights_are_refused_where_a_model_brings_its_own(name):
    with pytest.raises(InputError, match=r"weights='w.pt' cannot be used"):
        check_model(name, dataset="fashion_mnist", weights="w.pt")
    with pytest.raises(InputError, match=r"weights='w.pt' cannot be used"):
        load_model(name, weights="w.pt")


@pytest.mark.parametrize("file", ["w.txt", "", "no.pt", "folder.pt", "nul\0.pt", "/dev/zero"])
def test_weights_must_be_a_file_that_exists(file, nowhere):
    (nowhere / "folder.pt").mkdir()
    with pytest.raises(InputError, match="weights="):
        load_model("module:a net.py:fixed", weights=file)


@pytest.mark.parametrize("name", [*SOURCES, "Timm", "timm/resnet18"])
def test_no_other_model_is_called_like_one_of_a_source(name, images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    limits = {"attacks": "none", "certifiers": "none"}
    with pytest.raises(InputError, match="name of a registered model"):
        evaluate(model, images, ThreatModel("L2", 0.1), name=name, **limits)
    evaluate(model, images, ThreatModel("L2", 0.1), name="mine/timm", **limits)


@pytest.mark.parametrize(("name", "broken"), [("timm", True), ("module", True), ("timmy", False)])
def test_a_plugin_called_like_a_source_is_broken(name, broken, nowhere):
    write_plugin(nowhere / "plugins" / name, HONEST)
    entry = discover((nowhere / "plugins",)).entry(name)
    assert ("source of models" in entry.problem) == broken
    if broken:
        with pytest.raises((RegistryError, DataUnavailableError, InputError)):
            load_model(name, plugins=(nowhere / "plugins",))
