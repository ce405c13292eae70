"""Image classifiers of Hugging Face transformers: from the hub, or from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustbench_dyn.errors import InputError, IntegrityError
from robustbench_dyn.models.sources.base import Loaded, Preprocessing, Source, Task
from robustbench_dyn.models.sources.hub import hub
from robustbench_dyn.models.sources.packages import loading, require, version

# PIL's numbers for ways to resize.
_RESAMPLES = {0: "nearest", 2: "bilinear"}


class HuggingFace(Source):
    """hf:OWNER/NAME or hf:FOLDER, a model of AutoModelForImageClassification.

    Size, interpolation, mean and standard deviation are those of its image processor. The logits
    are taken out of its answer. Code that lies beside the weights never runs.
    """

    name = "hf"
    form = "hf:OWNER/NAME"
    description = "an image classifier of the Hugging Face hub, or in a folder"
    extra = "zoo"
    packages = ("transformers",)

    def table_name(self, reference: str) -> str:
        """Return hf/OWNER/NAME; of a folder, its own name stands."""
        return super().table_name(Path(reference).name if _is_folder(reference) else reference)

    def load(self, reference: str, task: Task, weights: Path | None, *, local: bool) -> Loaded:
        """Load a model and what its image processor says."""
        del task, weights
        transformers = require("transformers", f"hf:{reference}", self.install)
        if not local and Path(reference).exists():
            raise InputError(f"hf/{reference} is a path here, and the name of a model is wanted")
        import torch

        transformers.utils.logging.disable_progress_bar()
        with loading(f"hf:{reference}"), hub(f"hf:{reference}"):
            network, told = transformers.AutoModelForImageClassification.from_pretrained(
                reference,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
            processor = transformers.AutoImageProcessor.from_pretrained(
                reference, trust_remote_code=False
            )
        absent = sorted(told["missing_keys"]) + sorted(map(str, told["mismatched_keys"]))
        if absent:
            raise IntegrityError(
                f"hf:{reference} has no weights for {len(absent)} tensors of a classifier, such as "
                f"{absent[0]}, which would be random; give a model that was trained to classify"
            )
        try:
            preprocessing = _preprocessing(processor)
            alike = _does(processor, preprocessing, _channels(network))
        # A processor of another kind has other attributes and options.
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
            alike = False
        if not alike:
            raise InputError(
                f"the image processor of hf:{reference}, {type(processor).__name__}, does more "
                "than resize, scale to [0, 1] and normalise; put what it does into a function of "
                "your own, module:FILE.py:FUNCTION, or use timm: for a model of timm"
            )
        size = preprocessing.size or ()
        return Loaded(
            network,
            library=version("transformers"),
            preprocessing=preprocessing,
            input_shape=(_channels(network), *size) if size else None,
            n_classes=int(network.config.num_labels),
        )


def _is_folder(reference: str) -> bool:
    try:
        return (Path(reference) / "config.json").is_file()
    except (OSError, ValueError):
        return False


def _channels(network: Any) -> int:
    return int(getattr(network.config, "num_channels", 3))


def _preprocessing(processor: Any) -> Preprocessing:
    """Return what the attributes of an image processor say, those that it does not have aside."""

    def says(name: str, default: Any = None) -> Any:
        value = getattr(processor, name, None)
        return default if value is None else value

    normalised = says("do_normalize", False)
    size = None
    if says("do_center_crop", False) or says("do_resize", False):
        size = _size(says("crop_size") if says("do_center_crop", False) else says("size"))
    return Preprocessing(
        mean=tuple(map(float, says("image_mean"))) if normalised else (),
        std=tuple(map(float, says("image_std"))) if normalised else (),
        size=size,
        interpolation=_RESAMPLES.get(int(says("resample", 2)), "bicubic"),
        flipped=bool(says("do_flip_channel_order", False)),
    )


def _does(processor: Any, preprocessing: Preprocessing, channels: int) -> bool:
    """Say whether a processor and preprocessing make the same of an image of the right size."""
    import torch
    from torch import nn

    from robustbench_dyn.models.sources.preprocessing import ImageClassifier

    size = preprocessing.size or (32, 32)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (channels, *size), dtype=torch.uint8, generator=generator)
    made = processor(
        image,
        do_resize=False,
        do_center_crop=False,
        input_data_format="channels_first",
        return_tensors="pt",
    )["pixel_values"]
    wanted = ImageClassifier(nn.Identity(), preprocessing)(image[None].float() / 255)
    return made.shape == wanted.shape and bool(torch.allclose(made, wanted, atol=1e-4))


def _size(told: Any) -> tuple[int, int]:
    """Return (H, W) of what a processor calls a size: a number, or one with names."""
    if isinstance(told, int):
        return told, told
    edge = told.get("shortest_edge") if hasattr(told, "get") else told.shortest_edge
    if edge:
        return int(edge), int(edge)
    height, width = (
        (told["height"], told["width"]) if hasattr(told, "get") else (told.height, told.width)
    )
    return int(height), int(width)
