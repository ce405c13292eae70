"""A network of another library as one from images in [0, 1] to logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_dyn.models.sources.base import Preprocessing


class ImageClassifier(nn.Module):
    """A network with its preprocessing: (batch, C, H, W) in [0, 1] to logits (batch, K).

    Threat models are about the images that come in: a perturbation is resized and normalised with
    them, and gradients pass through. The whole image is resized, without a crop.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network, self.preprocessing = network, preprocessing
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name), dtype=torch.float32)
            self.register_buffer(name, values.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images, (batch, K)."""
        size, mode = self.preprocessing.size, self.preprocessing.interpolation
        if size is not None and x.shape[-2:] != size:
            x = _resized(x, size, mode)
            # Bicubic interpolation overshoots; libraries that resize bytes cut that off.
            x = x.clamp(0, 1) if mode == "bicubic" else x
        if self.preprocessing.flipped:
            x = x.flip(1)
        if self.mean.numel():
            x = (x - self.mean) / self.std
        answer = self.network(x)
        # Hugging Face's networks answer with an object that holds the logits.
        logits: Tensor = answer if isinstance(answer, Tensor) else answer.logits
        return logits


def _resized(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if mode == "nearest":  # torch's mode of that name takes other pixels
        return F.interpolate(x, size, mode="nearest-exact")
    return F.interpolate(x, size, mode=mode, align_corners=False, antialias=True)
