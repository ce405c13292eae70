"""robustbench:NAME, by RobustBench's own loader, on a checkpoint where it keeps its own."""

from pathlib import Path

import pytest
import torch
from oracles.checkpoints import library, needs

from robustbench_dyn import InputError, load_model
from robustbench_dyn.errors import DataUnavailableError
from robustbench_dyn.models.identity import registered_identity
from robustbench_dyn.models.sources import Defaults, defaults_of

# The first import of all its architectures takes ten seconds.
pytestmark = [
    needs("robustbench", "geotorch", "gdown", "timm"),
    pytest.mark.usefixtures("nowhere"),
    pytest.mark.slow,
]
DEFAULTS = {
    "Carmon2019Unlabeled": Defaults("cifar10", "Linf", 8 / 255),
    "Engstrom2019Robustness": Defaults("cifar10", "Linf", 8 / 255),
    "Rade2021Helper_R18_ddpm": Defaults("cifar10", "Linf", 8 / 255),
    "Wu2020Adversarial": Defaults("cifar10", "Linf", 8 / 255),
    "Ding2020MMA": Defaults("cifar10", "Linf", 8 / 255),
    "Rony2019Decoupling": Defaults("cifar10", "L2", 0.5),
    "Salman2020Do_R18": Defaults("imagenet", "Linf", 4 / 255),
    "Hendrycks2020AugMix_WRN": Defaults("cifar10", None, None),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_model_brings_its_data_set_norm_and_eps(name):
    assert defaults_of(f"robustbench:{name}") == DEFAULTS[name]


def test_what_is_given_chooses_among_the_leaderboards():
    name = "robustbench:Rade2021Helper_R18_ddpm"
    assert defaults_of(name, dataset="cifar100") == Defaults("cifar100", "Linf", 8 / 255)
    assert defaults_of(name, norm="L2") == Defaults("cifar10", "L2", 0.5)
    assert defaults_of(name, norm="L1") == Defaults("cifar10", "L1", None)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("Carmon2019", {}, "did you mean 'Carmon2019Unlabeled'"),
        ("Carmon2019Unlabeled", {"dataset": "moons"}, "for cifar10, and not for moons"),
        ("Carmon2019Unlabeled", {"dataset": "digits"}, "give --dataset cifar10, or leave"),
    ],
)
def test_what_the_zoo_lacks_is_refused(name, given, message):
    with pytest.raises(InputError, match=message):
        defaults_of(f"robustbench:{name}", **given)
    with pytest.raises(InputError, match=message):
        load_model(f"robustbench:{name}", **given)


@pytest.mark.parametrize("place", ["models", "cache/robustbench_dyn/models"])
def test_a_checkpoint_is_loaded_as_robustbench_does(place, nowhere):
    name = "Wong2020Fast"
    zoo = library("robustbench.model_zoo").model_dicts
    entries = next(iter(zoo.values()))
    network = next(iter(entries.values()))[name]["model"]().eval()
    path = nowhere / place / "cifar10" / "Linf" / f"{name}.pt"
    path.parent.mkdir(parents=True)
    torch.save({f"module.{key}": t for key, t in network.state_dict().items()}, path)
    model = load_model(f"robustbench:{name}", dataset="cifar10")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x), network(x))
    identity = registered_identity(model)
    assert (identity.name, identity.plugin_version) == (f"robustbench/{name}", "robustbench 1.1.1")


def test_without_a_network_it_says_so():
    with pytest.raises(DataUnavailableError, match="not on this machine, and its download failed"):
        load_model("robustbench:Carmon2019Unlabeled")
    assert not Path("models").exists()
