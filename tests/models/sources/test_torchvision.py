"""torchvision:NAME, on a checkpoint where torchvision keeps those that it downloads."""

from pathlib import Path

import pytest
import torch
from oracles.checkpoints import library, needs

from robustbench_dyn import InputError, load_model
from robustbench_dyn.errors import DataUnavailableError, IntegrityError
from robustbench_dyn.models.identity import registered_identity

pytestmark = [needs("torchvision"), pytest.mark.usefixtures("nowhere")]
# A small one.
NAME = "shufflenet_v2_x0_5"


@pytest.fixture
def cached(nowhere):
    """Put a checkpoint of NAME into torch's cache; return the network."""
    models = library("torchvision.models")
    torch.manual_seed(0)
    network = models.get_model(NAME, weights=None).eval()
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True)
    url = models.get_model_weights(NAME).DEFAULT.url
    torch.save(network.state_dict(), folder / url.rpartition("/")[2])
    return network


@pytest.mark.parametrize("name", [NAME, f"{NAME}/IMAGENET1K_V1", f"{NAME}/DEFAULT"])
def test_a_name_gives_the_network_as_its_transforms_feed_it(name, cached):
    model = load_model(f"torchvision:{name}")
    x = (torch.rand(2, 3, 224, 224) * 255).round() / 255
    transforms = (
        library("torchvision.models").get_model_weights(NAME).DEFAULT.transforms(resize_size=224)
    )
    assert torch.allclose(model(x), cached(transforms(x)), atol=1e-5)
    assert registered_identity(model).name == f"torchvision/{name}"
    assert not torch.allclose(model(x), cached(x))


def test_a_pickle_with_code_is_not_read(cached, nowhere):
    (checkpoint,) = (Path(torch.hub.get_dir()) / "checkpoints").iterdir()

    class Dangerous:
        def __reduce__(self):
            return open, ("it ran", "w")

    torch.save({"x": Dangerous()}, checkpoint)
    with pytest.raises(Exception, match="cannot be loaded"):
        load_model(f"torchvision:{NAME}")
    assert not (nowhere / "it ran").exists()


def test_without_a_network_it_says_so():
    with pytest.raises(DataUnavailableError, match="not on this machine, and its download failed"):
        load_model(f"torchvision:{NAME}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet181", "did you mean 'resnet18'"),
        ("resnet18/V9", "choose IMAGENET1K_V1"),
        ("fasterrcnn_resnet50_fpn", "no torchvision classifier"),
    ],
)
def test_an_unknown_name_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        load_model(f"torchvision:{name}")


def test_weights_of_ones_own_have_the_classes_of_the_data_set(of_three_classes):
    network = library("torchvision.models").get_model(NAME, weights=None, num_classes=3)
    torch.save(network.state_dict(), "w.pt")
    model = load_model(f"torchvision:{NAME}", dataset=of_three_classes, weights="w.pt")
    assert torch.equal(model.network.fc.weight, network.fc.weight)
    with pytest.raises(IntegrityError, match="size mismatch"):
        load_model(f"torchvision:{NAME}", weights="w.pt")
