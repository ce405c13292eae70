"""module:FILE.py:FUNCTION runs a function of the user's own, with weights of a file."""

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from oracles.checkpoints import BUILD, module_file
from safetensors.torch import save_file

from robustbench_dyn import InputError, ThreatModel, evaluate, load_model
from robustbench_dyn.errors import IntegrityError, RegistryError

pytestmark = pytest.mark.usefixtures("nowhere")
L2 = ThreatModel("L2", 0.1)


@pytest.fixture
def name(nowhere):
    return module_file(nowhere / "nets")


def called(name, function):
    return name.removesuffix("build") + function


@pytest.fixture
def state(name):
    torch.manual_seed(3)
    return {
        key: torch.randn_like(t)
        for key, t in load_model(called(name, "fixed")).state_dict().items()
    }


SAVED = {
    "w.safetensors": save_file,
    "w.pt": torch.save,
    "w.pth": lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
    "w.bin": lambda state, path: torch.save({f"module.{k}": t for k, t in state.items()}, path),
}


@pytest.mark.parametrize("file", SAVED)
def test_weights_of_a_file_are_those_of_the_network(file, name, state):
    SAVED[file](state, file)
    model = load_model(called(name, "fixed"), weights=file)
    assert not model.training
    assert all(torch.equal(t, state[key]) for key, t in model.state_dict().items())


@pytest.mark.parametrize("function", ["build", "fixed", "network"])
def test_shapes_are_given_to_a_function_that_takes_them(function, name, of_three_classes, images):
    if function == "network":
        name = module_file(name_folder(name), BUILD.replace("network = fixed()", "network = fixed"))
    model = load_model(called(name, function), dataset=of_three_classes)
    assert model(images[0]).shape == (12, 3)


def name_folder(name):
    return Path(name.split(":")[1]).parent


def test_without_a_data_set_it_must_not_ask_for_shapes(name):
    with pytest.raises(InputError, match=r"build of .* takes input_shape; give the data set"):
        load_model(name)


BROKEN = {
    "nothing": (RegistryError, "returned str; it must return a torch.nn.Module"),
    "fails": (RegistryError, "made no network: ValueError: no such luck"),
    "leaves": (RegistryError, "made no network: SystemExit: 0"),
    "absent": (InputError, "has no function 'absent'; it has: build, fixed, nothing"),
    "network": (InputError, "has no function 'network'"),
    "Double": (InputError, r"torch.float64.*float32; call model.float\(\)"),
}


@pytest.mark.parametrize("function", BROKEN)
def test_a_function_that_gives_no_network_is_refused(function, name):
    error, message = BROKEN[function]
    code = BUILD.replace("network = fixed()", "network = 3")
    module_file(name_folder(name), code)
    with pytest.raises(error, match=message):
        load_model(called(name, function))


@pytest.mark.parametrize("code", ["x = (", "import nothing_there", "1 / 0", "exit(0)"])
def test_a_file_that_cannot_be_imported_is_told_of(code, nowhere):
    with pytest.raises(RegistryError, match="cannot be imported"):
        load_model(module_file(nowhere / "bad", code))


def test_a_file_may_import_its_neighbours_which_hide_no_module(name):
    folder = name_folder(name)
    (folder / "neighbour.py").write_text("from torch import nn\nLayer = nn.Flatten\n")
    (folder / "json.py").write_text("raise ImportError('hidden')\n")
    module_file(folder, "import json\nfrom neighbour import Layer\n" + BUILD)
    sys.modules.pop("neighbour", None)
    load_model(called(name, "fixed"))


UNFIT = {
    "other.safetensors": (lambda s: {"0.weight": torch.zeros(1)}, "Missing key"),
    "short.pt": (lambda s: {"1.weight": s["1.weight"]}, "Missing key"),
    "double.pt": (lambda s: {k: t.double() for k, t in s.items()}, "is torch.float64"),
    "nan.safetensors": (lambda s: {k: t * torch.nan for k, t in s.items()}, "NaN or infinite"),
    "list.pt": (lambda s: [1, 2], "it holds list, and no state_dict"),
    "numbers.pt": (lambda s: {"1.weight": 3, "1.bias": 4}, "is int, and no tensor"),
}


@pytest.mark.parametrize("file", UNFIT)
def test_weights_that_do_not_fit_are_refused(file, name, state):
    change, message = UNFIT[file]
    (save_file if file.endswith("tensors") else torch.save)(change(state), file)
    with pytest.raises(IntegrityError, match=rf"weights in {file} do not fit: .*{message}"):
        load_model(called(name, "fixed"), weights=file)


class Dangerous:
    def __reduce__(self):
        return open, ("it ran", "w")


@pytest.mark.parametrize("content", [Dangerous(), {"1.weight": Dangerous()}])
def test_a_pickle_runs_no_code(content, name, nowhere):
    torch.save(content, "w.pt")
    with pytest.raises(IntegrityError, match="holds tensors alone"):
        load_model(called(name, "fixed"), weights="w.pt")
    assert not (nowhere / "it ran").exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_is_damaged_is_refused(suffix, content, name, nowhere):
    (nowhere / f"w.{suffix}").write_bytes(content)
    with pytest.raises(IntegrityError, match="do not fit"):
        load_model(called(name, "fixed"), weights=f"w.{suffix}")


# Identity


def row(model, images):
    return evaluate(model, images, L2, attacks="none", certifiers="none").summary


def test_a_row_has_the_name_of_file_and_function(name, images, state):
    save_file(state, "w.safetensors")
    found = row(load_model(called(name, "fixed"), weights="w.safetensors"), images)
    assert found["model"] == "module/net/fixed"
    assert found["weights_sha256"] == hashlib.sha256(Path("w.safetensors").read_bytes()).hexdigest()


def keys(model, images, nowhere):
    return evaluate(model, images, L2, attacks="none", certifiers="none").key


def test_random_weights_are_the_same_each_time(name):
    torch.manual_seed(1)
    one = load_model(called(name, "fixed"))
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == drawn
    torch.manual_seed(2)
    assert torch.equal(one[1].weight, load_model(called(name, "fixed"))[1].weight)


def test_other_code_with_equal_weights_has_another_key(nowhere, images):
    """What a file imports may change where the file does not."""
    folder = nowhere / "nets"
    code = (
        "from gain_of_test import GAIN\n"
        + BUILD
        + (
            "class Scaled(nn.Sequential):\n    def forward(self, x):\n"
            "        return GAIN * super().forward(x)\n"
            "def build():\n    net = Scaled(nn.Flatten(), nn.Linear(768, 3))\n"
            "    for p in net.parameters():\n        nn.init.constant_(p, 0.5)\n    return net\n"
        )
    )
    found = []
    for scale in (1, 1, 2):
        folder.mkdir(exist_ok=True)
        (folder / "gain_of_test.py").write_text(f"GAIN = {scale}\n")
        sys.modules.pop("gain_of_test", None)
        sys.path_importer_cache.clear()
        model = load_model(module_file(folder, code))
        found.append(evaluate(model, images, L2, attacks="none", certifiers="none").key)
    assert found[0] == found[1] != found[2]


def test_a_model_with_changed_weights_loses_the_name(name, images):
    model = load_model(called(name, "fixed"))
    with torch.no_grad():
        model[1].bias += 1
    assert row(model, images)["model"] == "Sequential"
