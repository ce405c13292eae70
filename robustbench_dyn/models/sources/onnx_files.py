"""Networks in ONNX files, made into torch's own layers by onnx2torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from robustbench_dyn.errors import InputError, shown
from robustbench_dyn.models.sources.base import Loaded, Source, Task, safe
from robustbench_dyn.models.sources.packages import loading, require, version


class OnnxFile(Source):
    """onnx:FILE.onnx, a network with one input and one output, whose batch may have any size."""

    name = "onnx"
    form = "onnx:FILE.onnx"
    description = "a network in an ONNX file, with any normalisation inside"
    extra = "onnx"
    only_files = True
    packages = (
        "onnx",
        "onnx2torch",
    )

    def check(self, reference: str) -> None:
        """Raise InputError where there is no such file."""
        try:
            exists = Path(reference).is_file()
        except (OSError, ValueError):
            exists = False
        if not exists:
            raise InputError(f"there is no file {shown(reference)}; give {self.form}")

    def table_name(self, reference: str) -> str:
        """Return onnx/FILE, without folders and suffix."""
        return f"{self.name}/{safe(Path(reference).stem)[:60]}"

    def load(self, reference: str, task: Task, weights: Path | None, *, local: bool) -> Loaded:
        """Convert a file; its shapes are those that it states."""
        del task, weights, local
        onnx = require("onnx", f"onnx:{reference}", self.install)
        onnx2torch = require("onnx2torch", f"onnx:{reference}", self.install)
        content = Path(reference).read_bytes()
        with loading(f"onnx:{reference}"):
            graph = onnx.load_from_string(content)
            network = onnx2torch.convert(graph)
        held = {one.name for one in graph.graph.initializer}
        inputs = [_shape(one) for one in graph.graph.input if one.name not in held]
        outputs = [_shape(one) for one in graph.graph.output]
        if len(inputs) != 1 or len(outputs) != 1:
            raise InputError(
                f"onnx:{reference} has {len(inputs)} inputs and {len(outputs)} outputs; it must "
                "have one of each"
            )
        if inputs[0] and (inputs[0][0] or 0) > 0:
            raise InputError(
                f"onnx:{reference} takes batches of {inputs[0][0]} alone; export it with a batch "
                "of any size (dynamic_axes of torch.onnx.export)"
            )
        known = inputs[0][1:]
        return Loaded(
            network,
            library=version("onnx2torch"),
            input_shape=tuple(size or 0 for size in known) if known and all(known) else None,
            n_classes=outputs[0][1] if len(outputs[0]) == 2 else None,
            weights_sha256=hashlib.sha256(content).hexdigest(),
            # The converted graph is made of objects of which no fingerprint is taken.
            measured=True,
        )


def _shape(value: Any) -> list[int | None]:
    """Return the sizes that a graph states of an input or output; None where they are free."""
    return [size.dim_value or None for size in value.type.tensor_type.shape.dim]
