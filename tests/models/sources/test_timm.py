"""timm:NAME and timm:FOLDER, on checkpoints that the test makes."""

import pytest
import torch
from oracles.checkpoints import MEAN, STD, library, needs, timm_folder, timm_network
from safetensors.torch import save_file

from robustbench_dyn import InputError, ThreatModel, evaluate, load_model
from robustbench_dyn.errors import DataUnavailableError, IntegrityError, RegistryError
from robustbench_dyn.models.identity import registered_identity
from robustbench_dyn.models.sources.assembly import facts

pytestmark = [needs("timm"), pytest.mark.usefixtures("nowhere")]


def normalised(x):
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def test_a_folder_gives_the_network_with_its_normalisation(nowhere, images):
    network = timm_folder(nowhere / "net")
    model = load_model("timm:net")
    assert torch.equal(model(images[0]), network(normalised(images[0])))


def test_images_of_another_size_are_resized(nowhere, images):
    timm_folder(nowhere / "net", size=32)
    x, model = images[0], load_model("timm:net")
    larger = torch.nn.functional.interpolate(x, (32, 32), mode="bicubic", antialias=True)
    assert torch.allclose(model(x), model(larger.clamp(0, 1)))


def test_a_name_is_found_in_the_cache_of_the_hub(nowhere, images, monkeypatch):
    """As huggingface_hub lays it out, without a network."""
    constants = library("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(nowhere / "hub"))
    repository = nowhere / "hub" / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    network = library("timm").create_model("test_resnet.r160_in1k").eval()
    save_file(network.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    model = load_model("timm:test_resnet.r160_in1k")
    assert torch.equal(model.network.fc.weight, network.fc.weight)
    x = torch.rand(2, 3, 160, 160)
    assert torch.equal(model(x), network((x - 0.5) / 0.5))
    assert registered_identity(model).name == "timm/test_resnet.r160_in1k"
    # The same by the name in a table, and by that of the repository.
    assert registered_identity(load_model("timm/test_resnet.r160_in1k")) == registered_identity(
        model
    )


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:someone/net", "timm/test_resnet"])
def test_without_a_network_it_says_so_at_once(name):
    with pytest.raises(DataUnavailableError, match=r"is not on this machine, and https://hugg"):
        load_model(name)


@pytest.mark.parametrize("file", ["w.safetensors", "w.pt"])
def test_weights_of_ones_own_have_the_classes_of_the_data_set(file, of_three_classes, images):
    state = timm_network().state_dict()
    save_file(state, file) if file.endswith("tensors") else torch.save(state, file)
    model = load_model("timm:test_resnet", dataset=of_three_classes, weights=file)
    assert all(
        torch.equal(tensor, state[name]) for name, tensor in model.network.state_dict().items()
    )
    with pytest.raises(IntegrityError, match=rf"weights in {file} do not fit timm's test_resnet"):
        load_model("timm:test_resnet", weights=file)


UNKNOWN = {
    "timm:resnet181": (InputError, "did you mean 'resnet18"),
    "timm:test_resnet.r160": (InputError, "did you mean 'test_resnet.r160_in1k'"),
    "timm:resnet18d_none": (InputError, "no timm model is called"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_name_is_refused(name):
    error, message = UNKNOWN[name]
    with pytest.raises(error, match=message):
        load_model(name)


BAD_FOLDERS = {
    "no JSON": ("config.json", "{", IntegrityError, "is no config.json of timm"),
    "no architecture": ("config.json", "{}", IntegrityError, "is no config.json of timm"),
    "a list": ("config.json", "[]", IntegrityError, "is no config.json of timm"),
    "damaged weights": ("model.safetensors", "x", RegistryError, "cannot be loaded"),
    "no weights": ("model.safetensors", None, InputError, "holds no weights"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_damaged_folder_is_told_of(case, nowhere):
    file, content, error, message = BAD_FOLDERS[case]
    timm_folder(nowhere / "net")
    (nowhere / "net" / file).unlink()
    if content is not None:
        (nowhere / "net" / file).write_text(content)
    with pytest.raises(error, match=message):
        load_model("timm:net")


def test_classes_and_channels_are_held_to_the_data_set(nowhere, of_three_classes):
    timm_folder(nowhere / "net")
    load_model("timm:net", dataset=of_three_classes)
    with pytest.raises(InputError, match="has 3 classes, and fashion_mnist has 10"):
        load_model("timm:net", dataset="fashion_mnist")
    with pytest.raises(InputError, match=r"has 3 classes, and cifar10 has 10"):
        load_model("timm:net", dataset="cifar10")


# Identity


def test_a_row_has_the_name_the_version_and_the_hash(nowhere, images):
    timm_folder(nowhere / "net")
    model = load_model("timm:net")
    summary = evaluate(model, images, ThreatModel("Linf", 0.1), attacks="pgd").summary
    assert summary["model"] == "timm/net"
    assert summary["plugin_version"] == f"timm {library('timm').__version__}"
    assert summary["weights_sha256"] == facts("timm:net")["weights_sha256"]


def test_other_preprocessing_is_another_model(nowhere):
    timm_folder(nowhere / "a")
    timm_folder(nowhere / "b", size=32)
    one, other = (registered_identity(load_model(f"timm:{name}")) for name in "ab")
    assert one.code_sha256 != other.code_sha256
    assert one.weights_sha256 == other.weights_sha256


def test_a_changed_network_is_not_the_registered_one(nowhere):
    timm_folder(nowhere / "net")
    model = load_model("timm:net")
    model(torch.rand(2, 3, 16, 16))
    assert registered_identity(model) is not None
    model.network.fc.register_forward_hook(lambda *_: None)
    assert registered_identity(model) is None
