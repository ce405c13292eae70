"""The standard suite and its flags on networks with masked gradients.

    python benchmarks/masked_gradients.py [--n-examples 16] [--masks round jpeg]

The reference is BPDA (Athalye, Carlini & Wagner, arXiv 1802.00420): Auto-PGD with substitute
gradients where the mask has none; the masked network classifies the candidates. With each mask the
suite must reach the accuracy of the reference or raise a flag; networks without a mask must raise
none. Results: benchmarks/results/masked_gradients.csv. Ends with exit code 1 where this fails.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import measuring
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn import Status, ThreatModel, evaluate, load_dataset, load_model
from robustbench_dyn.attacks import ATTACKS
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.evaluation.candidates import check_candidates

THREAT_MODEL = ThreatModel("Linf", 8 / 255)
FIRST = 2000  # images that no other benchmark uses
UNMASKED = ("lipflow", "feedforward", "euler_resnet", "euler_resnet/pgd")
Function = Callable[[Tensor], Tensor]


class Mask(NamedTuple):
    """Maps of a network's inputs and logits; BPDA uses the gradient of inputs_like for inputs."""

    inputs: Function = nn.Identity()
    logits: Function = nn.Identity()
    inputs_like: Function = nn.Identity()


class Masked(nn.Module):
    """A network behind a mask."""

    def __init__(self, network: nn.Module, mask: Mask) -> None:
        super().__init__()
        self.network, self.mask = network, mask

    def forward(self, x: Tensor) -> Tensor:
        return self.mask.logits(self.network(self.mask.inputs(x)))


class Substitute(Masked):
    """The masked network with substitute gradients; straight_through: also masks the logits."""

    def __init__(self, network: nn.Module, mask: Mask, *, straight_through: bool) -> None:
        super().__init__(network, mask)
        self.straight_through = straight_through

    def forward(self, x: Tensor) -> Tensor:
        inputs = _with_gradients_of(self.mask.inputs(x), self.mask.inputs_like(x))
        logits = self.network(inputs)
        if not self.straight_through:
            return logits
        return _with_gradients_of(self.mask.logits(logits), logits)


def _with_gradients_of(value: Tensor, like: Tensor) -> Tensor:
    return value.detach() + like - like.detach()


class _Negated(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def sigmoid(steepness: float, x: Tensor) -> Tensor:
    return torch.sigmoid(steepness * (x - 0.5))


def thermometer(x: Tensor, levels: int = 15) -> Tensor:
    """Encode each pixel by comparisons with thresholds, and decode it; without a graph."""
    thresholds = (torch.arange(levels) + 0.5) / levels
    return (x.detach()[..., None] > thresholds).float().mean(dim=-1)


def jpeg(x: Tensor, quality: int = 75) -> Tensor:
    """Compress and decompress each image; without a graph."""
    images = []
    for image in (x.detach()[:, 0] * 255).round().byte():
        file = io.BytesIO()
        Image.fromarray(image.numpy()).save(file, "JPEG", quality=quality)
        images.append(torch.tensor(list(Image.open(file).tobytes())).reshape(image.shape))
    return (torch.stack(images)[:, None] / 255).to(x)


MASKS = {
    "none": Mask(),
    "logits * 1e6": Mask(logits=lambda z: z * 1e6),
    "logits * 1e-12": Mask(logits=lambda z: z * 1e-12),
    "tanh": Mask(logits=torch.tanh),
    "softmax": Mask(logits=lambda z: z.softmax(dim=1)),
    "softmax(1000 z)": Mask(logits=lambda z: (1000 * z).softmax(dim=1)),
    "hard label": Mask(logits=lambda z: F.one_hot(z.argmax(dim=1), z.shape[1]).to(z)),
    "round": Mask(logits=torch.round),
    "8 levels": Mask(inputs=lambda x: (7 * x).round() / 7),
    "sigmoid 60": Mask(inputs=partial(sigmoid, 60), inputs_like=partial(sigmoid, 8)),
    "sigmoid 1e4": Mask(inputs=partial(sigmoid, 1e4), inputs_like=partial(sigmoid, 8)),
    "thermometer": Mask(inputs=thermometer),
    "jpeg": Mask(inputs=jpeg),
    "negated": Mask(inputs=_Negated.apply),
    "sine": Mask(inputs=lambda x: x + 0.005 * torch.sin(4000 * x)),
}


def reference(network: nn.Module, mask: Mask, data: Dataset) -> float:
    """Return the accuracy under BPDA."""
    masked = Masked(network, mask)
    with torch.no_grad():
        broken = masked(data.x).argmax(dim=1) != data.y
    for straight_through in (False, True):
        substitute = Substitute(network, mask, straight_through=straight_through)
        for name in ("apgd-ce", "apgd-t"):
            candidates = ATTACKS.create(name).search(
                substitute, data.x, data.y, THREAT_MODEL, seed=0, batch_size=250, n_classes=10
            )
            broken |= check_candidates(masked, candidates, data.x, data.y, THREAT_MODEL).fooled
    return float((~broken).double().mean())


def measure(name: str, model: nn.Module, data: Dataset, bpda: float | None) -> dict[str, Any]:
    evaluation = evaluate(model, data, THREAT_MODEL, certifiers=[], batch_size=250)
    attacks = [v.attack for v in evaluation.verdicts if v.status is Status.BROKEN]
    signs = [cost for cost in evaluation.costs if cost.stage == "signs"]
    seconds = sum(cost.seconds for cost in evaluation.costs)
    row = evaluation.summary
    by = " ".join(f"{attack}:{attacks.count(attack)}" for attack in dict.fromkeys(attacks))
    return {
        "mask": name,
        "clean": row["clean_accuracy"],
        "empirical": row["empirical_accuracy"],
        "bpda": bpda,
        "found_by": by,
        "flags": row["flags"],
        "forward_passes": row["forward_passes"],
        "seconds": round(seconds, 1),
        "share_of_signs": round(sum(cost.seconds for cost in signs) / seconds, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-examples", type=int, default=16)
    parser.add_argument("--masks", nargs="+", choices=list(MASKS), default=list(MASKS))
    options = parser.parse_args()
    data = load_dataset("fashion_mnist", n_examples=FIRST + options.n_examples)
    data = data.rows(FIRST, FIRST + options.n_examples)
    network = load_model("feedforward", dataset="fashion_mnist").eval().requires_grad_(False)
    rows, unflagged = [], []
    for name in options.masks:
        bpda = reference(network, MASKS[name], data)
        rows.append(measure(name, Masked(network, MASKS[name]), data, bpda))
        print(rows[-1], flush=True)
        if rows[-1]["empirical"] > bpda and not rows[-1]["flags"]:
            unflagged.append(name)
    for name in UNMASKED:
        rows.append(measure(name, load_model(name, dataset="fashion_mnist"), data, None))
        print(rows[-1], flush=True)
    false_flags = [
        row["mask"] for row in rows if row["flags"] and row["mask"] in ("none", *UNMASKED)
    ]
    measuring.write("masked_gradients", rows)
    if unflagged or false_flags:
        sys.exit(
            f"accuracy too high without a flag: {unflagged}; flagged without a mask: {false_flags}"
        )


if __name__ == "__main__":
    main()
