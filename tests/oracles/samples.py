"""Random tensors and points of balls, from explicit seeds."""

import torch

from robustbench_dyn.threat_models import project


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inside(x, threat_model, n, *, seed=0):
    """Return n points of each ball within [0, 1], many of them on its border, (n, *x.shape)."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for k in range(n):
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        if k % 3 == 0:
            noise = noise * (torch.rand(x.shape, generator=generator) < 0.3)
        if k % 2:
            noise = noise.sign()
        scale = threat_model.eps * 10 ** (torch.rand(1, generator=generator).double() * 2 - 1)
        found.append(project(x + scale * noise, x, threat_model))
    return torch.stack(found)
