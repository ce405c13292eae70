"""Models of timm (PyTorch Image Models): by name, from the Hugging Face hub, or from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robustbench_dyn.errors import InputError, IntegrityError, one_line
from robustbench_dyn.models.sources.base import Loaded, Preprocessing, Source, Task
from robustbench_dyn.models.sources.hub import hub
from robustbench_dyn.models.sources.packages import loading, require, version
from robustbench_dyn.plugins import unknown

_FILES = ("model.safetensors", "pytorch_model.bin")
_MODES = {"nearest": "nearest", "bilinear": "bilinear"}


class Timm(Source):
    """timm:NAME, timm:OWNER/REPOSITORY or timm:FOLDER.

    Size, interpolation, mean and standard deviation are those of the model's pretrained_cfg.
    """

    name = "timm"
    form = "timm:NAME"
    description = "a model of timm by name, of the Hugging Face hub (OWNER/NAME), or in a folder"
    extra = "zoo"
    packages = ("timm",)
    takes_weights = True

    def table_name(self, reference: str) -> str:
        """Return timm/NAME; of a folder, its own name stands."""
        return super().table_name(Path(reference).name if _is_folder(reference) else reference)

    def load(self, reference: str, task: Task, weights: Path | None, *, local: bool) -> Loaded:
        """Load a model and what its pretrained_cfg says."""
        timm = require("timm", f"timm:{reference}", self.install)
        with loading(f"timm:{reference}"), hub(f"timm:{reference}"):
            if weights is not None:
                network = _own_weights(timm, reference, task, weights)
            elif local and _is_folder(reference):
                network = _from_folder(timm, Path(reference))
            elif "/" in reference:
                network = timm.create_model(f"hf-hub:{reference}", pretrained=True)
            else:
                _check_known(timm, reference)
                network = timm.create_model(reference, pretrained=True)
            data = timm.data.resolve_model_data_config(network)
        channels, height, width = data["input_size"]
        preprocessing = Preprocessing(
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            size=(height, width),
            interpolation=_MODES.get(data["interpolation"], "bicubic"),
        )
        return Loaded(
            network,
            library=version("timm"),
            preprocessing=preprocessing,
            input_shape=(channels, height, width),
            n_classes=int(network.num_classes),
        )


def _is_folder(reference: str) -> bool:
    try:
        return (Path(reference) / "config.json").is_file()
    except (OSError, ValueError):
        return False


def _check_known(timm: Any, name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        models = timm.list_models()
        raise InputError(unknown("timm model", name, models, see="https://huggingface.co/timm"))
    there = timm.list_models(f"{architecture}*", pretrained=True)
    tags = [known for known in there if known.partition(".")[0] == architecture]
    if not tags:
        raise InputError(
            f"timm has no weights for {name}; give a file of your own: --weights FILE.safetensors"
        )
    if tag and name not in tags:
        raise InputError(unknown("timm checkpoint", name, tags))


def _own_weights(timm: Any, name: str, task: Task, weights: Path) -> Any:
    """Make a network for the classes of the data set, and fill it from a file."""
    if not timm.is_model(name.partition(".")[0]):
        raise InputError(unknown("timm model", name, timm.list_models(), see="timm.list_models()"))
    overlay: dict[str, Any] = {"file": str(weights)}
    if task.n_classes is not None:
        overlay["num_classes"] = task.n_classes
    return _filled(timm, name, weights, overlay, {"num_classes": task.n_classes})


def _from_folder(timm: Any, folder: Path) -> Any:
    """Load what timm.models.save_for_hf wrote: config.json and the weights."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        architecture, cfg = config["architecture"], dict(config.get("pretrained_cfg") or {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path} is no config.json of timm: {type(error).__name__}: {one_line(str(error))}"
        ) from error
    found = [folder / name for name in _FILES if (folder / name).is_file()]
    if not found:
        raise InputError(f"the folder {folder} holds no weights; it needs {' or '.join(_FILES)}")
    n_classes = config.get("num_classes", cfg.get("num_classes"))
    overlay = cfg | {"file": str(found[0]), "num_classes": n_classes}
    options = {"num_classes": n_classes, **(config.get("model_args") or {})}
    return _filled(timm, architecture, found[0], overlay, options)


def _filled(
    timm: Any, name: str, file: Path, overlay: dict[str, Any], options: dict[str, Any]
) -> Any:
    """Make a network with the weights of a file, which timm adapts to its layers of today."""
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (RuntimeError, KeyError, ValueError) as error:
        raise IntegrityError(
            f"the weights in {file} do not fit timm's {name}: {one_line(str(error))}"
        ) from error
