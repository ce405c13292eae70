"""Networks whose values go along skip connections, of which intervals lose sight."""

import torch
from torch import nn


class Sorting(nn.Module):
    """The larger of each pair, then the smaller, by what one adds to the other."""

    def forward(self, x):
        first, second = x.chunk(2, dim=1)
        more = torch.relu(second - first)
        return torch.cat([first + more, second - more], dim=1)


def deep_sorting_network(depth, width=16):
    """Return a 1-Lipschitz network of the plane with two classes, which meet at (0.5, 0.5)."""
    layers = [nn.Flatten()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for n_inputs in (2, *[width] * depth):
            linear = nn.Linear(n_inputs, width)
            nn.init.orthogonal_(linear.weight)
            nn.init.uniform_(linear.bias, -0.1, 0.1)
            layers += [linear, Sorting()]
        layers.append(nn.Linear(width, 2))
    model = nn.Sequential(*layers).requires_grad_(False)
    model[-1].bias -= model(torch.full((1, 2, 1, 1), 0.5))[0]
    return model
