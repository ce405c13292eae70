"""Weights and recipes for copies of a data set serve the data set itself, and the other way."""

import pytest
import torch
from oracles.command import dynbench_here, refused
from oracles.published_sets import shrink

from robustbench_dyn.datasets.catalogue import served_by
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.architectures import weights_for
from robustbench_dyn.models.loading import discover, load_model
from robustbench_dyn.plugins import Card
from robustbench_dyn.training.recipes import find_recipe


def card(*datasets, variant=""):
    weights = [
        {
            "file": f"{dataset}.safetensors",
            "sha256": "0" * 64,
            "dataset": dataset,
            "recipe": "none",
            "variant": variant,
        }
        for dataset in datasets
    ]
    about = {"name": "mine", "family": "test", "summary": "A test.", "version": "1"}
    return Card.model_validate(about | {"weights": weights})


@pytest.mark.parametrize(
    ("trained_on", "dataset", "served"),
    [
        (["cifar10_jpeg"], "cifar10", "cifar10_jpeg"),
        (["cifar10"], "cifar10_jpeg", "cifar10"),
        (["cifar10_jpeg", "cifar10"], "cifar10", "cifar10"),
        (["cifar10", "cifar10_jpeg"], "cifar10_jpeg", "cifar10_jpeg"),
        (["cifar10_jpeg"], "cifar100", None),
        (["digits"], "cifar10", None),
    ],
)
def test_weights_for_copies_serve_both_and_the_own_come_first(trained_on, dataset, served):
    if served is None:
        with pytest.raises(InputError, match=f"has no weights for dataset '{dataset}'"):
            weights_for(card(*trained_on), dataset)
    else:
        assert weights_for(card(*trained_on), dataset).dataset == served


def test_a_variant_of_the_copies_serves_by_its_name_alone():
    of_copies = card("cifar10_jpeg", variant="pgd")
    assert weights_for(of_copies, "cifar10", None, "pgd").variant == "pgd"
    with pytest.raises(InputError, match="mine/pgd on cifar10_jpeg"):
        weights_for(of_copies, "cifar10")


def test_a_data_set_without_copies_is_served_by_itself_alone():
    assert served_by("fashion_mnist") == ("fashion_mnist",)
    assert served_by("files-1a2b3c4d") == ("files-1a2b3c4d",)


def test_a_recipe_for_copies_serves_the_original():
    lipflow = discover().get("lipflow")
    recipe = find_recipe(lipflow, "cifar10")
    assert recipe == find_recipe(lipflow, "cifar10_jpeg")
    assert recipe.name == "cifar10_jpeg.yaml"
    with pytest.raises(InputError, match=r"no recipe cifar10-other\.yaml"):
        find_recipe(lipflow, "cifar10", "other")


def test_lipflow_is_certified_on_cifar10_where_its_files_are(tmp_path, monkeypatch, capsys):
    shrink(monkeypatch, "cifar10").write(tmp_path)
    arguments = ["run", "--model", "lipflow", "--dataset", "cifar10", "--attacks", "none"]
    done = dynbench_here([*arguments, "--data-dir", tmp_path], tmp_path, monkeypatch, capsys)
    assert done.returncode == 0, done.stderr
    assert "cifar10" in done.stdout
    assert "cifar10_jpeg" not in done.stdout


@pytest.mark.parametrize(
    ("dataset", "remedy"),
    [("cifar10", "give the folder that holds"), ("cifar10_jpeg", "give the folder that holds")],
)
def test_where_colour_images_are_missing_one_sentence_says_so(
    dataset, remedy, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("robustbench_dyn.datasets.cifar10.CIFAR10_ARCHIVE_MIRRORS", ())
    arguments = ["run", "--model", "lipflow", "--dataset", dataset, "--attacks", "none"]
    done = dynbench_here([*arguments, "--data-dir", tmp_path], tmp_path, monkeypatch, capsys)
    refused(done, remedy, "--data-dir")


def test_the_weights_for_colour_take_images_of_both_sets():
    of_copies, of_originals = (
        load_model("lipflow", dataset=name) for name in ("cifar10_jpeg", "cifar10")
    )
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(of_copies(x), of_originals(x))
        assert of_copies(x).shape == (2, 10)
