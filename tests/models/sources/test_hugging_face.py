"""hf:FOLDER and hf:OWNER/NAME, on checkpoints that transformers wrote."""

import json

import pytest
import torch
from oracles.checkpoints import hugging_face_folder, library, needs

from robustbench_dyn import InputError, ThreatModel, evaluate, load_model
from robustbench_dyn.errors import DataUnavailableError, IntegrityError, RegistryError
from robustbench_dyn.models.identity import registered_identity

pytestmark = [needs("transformers"), pytest.mark.usefixtures("nowhere")]


def levels(x):
    return (x * 255).round()


@pytest.mark.parametrize(
    "processor",
    [
        {},
        {"do_normalize": False},
        {"size": {"height": 16, "width": 16}, "resample": 3},
        {"do_resize": False},
    ],
)
def test_logits_are_those_of_processor_and_network(processor, nowhere, images):
    network, made = hugging_face_folder(nowhere / "net", processor=processor)
    x = levels(images[0])
    model = load_model("hf:net")
    inputs = made([image.byte() for image in x], return_tensors="pt")["pixel_values"]
    expected = network(inputs).logits
    assert torch.allclose(model(x / 255), expected, atol=1e-5)
    # The processor does something, but where it is told not to.
    alike = torch.allclose(network(x / 255).logits, expected, atol=1e-5)
    assert alike == ("do_normalize" in processor)


def test_an_answer_is_refused_with_the_cure(nowhere, images):
    network, _ = hugging_face_folder(nowhere / "net")
    limits = {"attacks": "none", "certifiers": "none"}
    with pytest.raises(InputError, match=r"holds the logits; load it by its name, load_model\('hf"):
        evaluate(network, images, ThreatModel("L2", 0.1), **limits)
    evaluation = evaluate(load_model("hf:net"), images, ThreatModel("L2", 0.1), **limits)
    assert evaluation.summary["model"] == "hf/net"
    assert (
        evaluation.summary["plugin_version"]
        == f"transformers {library('transformers').__version__}"
    )


def test_half_precision_is_loaded_as_float32(nowhere):
    network, _ = hugging_face_folder(nowhere / "net")
    network.half().save_pretrained(nowhere / "net")
    model = load_model("hf:net")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_network_without_a_trained_classifier_is_refused(nowhere):
    hugging_face_folder(nowhere / "net")
    transformers = library("transformers")
    body = transformers.AutoModel.from_pretrained(nowhere / "net")
    body.save_pretrained(nowhere / "net")
    with pytest.raises(
        IntegrityError, match=r"has no weights for 2 tensors.*which would be random"
    ):
        load_model("hf:net")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ViTImageProcessor", {"rescale_factor": 1 / 127.5}),
        ("ViTImageProcessor", {"do_rescale": False}),
        ("EfficientNetImageProcessor", {"include_top": True}),
        ("EfficientNetImageProcessor", {"include_top": False, "rescale_offset": True}),
    ],
)
def test_a_processor_that_does_more_is_refused(kind, options, nowhere):
    hugging_face_folder(nowhere / "net")
    made = getattr(library("transformers"), kind)(**options)
    made.save_pretrained(nowhere / "net")
    with pytest.raises(InputError, match=rf"{kind}.*does more than"):
        load_model("hf:net")


@pytest.mark.parametrize(
    ("kind", "options", "size"),
    [
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 16}}, 16),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 20}, "crop_size": 16}, 16),
        ("MobileViTImageProcessor", {"size": {"shortest_edge": 20}, "crop_size": 16}, 16),
    ],
)
def test_processors_of_other_kinds_are_read(kind, options, size, nowhere, images):
    network, _ = hugging_face_folder(nowhere / "net")
    made = getattr(library("transformers"), kind)(**options)
    made.save_pretrained(nowhere / "net")
    x = levels(images[0])
    inputs = made(
        [image.byte() for image in x], do_resize=False, do_center_crop=False, return_tensors="pt"
    )["pixel_values"]
    assert inputs.shape[-1] == size
    assert torch.allclose(load_model("hf:net")(x / 255), network(inputs).logits, atol=1e-5)


@pytest.mark.parametrize("name", ["hf:microsoft/resnet-18", "hf:nothing", "hf/microsoft/resnet-18"])
def test_without_a_network_it_says_so_at_once(name, monkeypatch, nowhere):
    constants = library("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(nowhere / "hub"))
    with pytest.raises(DataUnavailableError, match=r"is not on this machine, and https://hugg"):
        load_model(name)


def test_code_beside_the_weights_does_not_run(nowhere):
    hugging_face_folder(nowhere / "net")
    config = json.loads((nowhere / "net" / "config.json").read_text())
    own = {"AutoConfig": "own.C", "AutoModelForImageClassification": "own.M"}
    config |= {"auto_map": own, "model_type": "own"}
    (nowhere / "net" / "config.json").write_text(json.dumps(config))
    (nowhere / "net" / "own.py").write_text("open('it ran', 'w')\n")
    with pytest.raises(RegistryError, match="cannot be loaded"):
        load_model("hf:net")
    assert not (nowhere / "it ran").exists()


def test_classes_are_held_to_the_data_set(nowhere, of_three_classes):
    hugging_face_folder(nowhere / "net")
    model = load_model("hf:net", dataset=of_three_classes)
    assert registered_identity(model).name == "hf/net"
    with pytest.raises(InputError, match="has 3 classes, and cifar10 has 10"):
        load_model("hf:net", dataset="cifar10")


def test_a_name_of_a_table_is_no_path(nowhere):
    hugging_face_folder(nowhere / "net")
    with pytest.raises(InputError, match="is a path here"):
        load_model("hf/net")
