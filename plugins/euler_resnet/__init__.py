"""The plain residual network, explicit Euler steps x + h f(x) of fields without constraints."""

from torch import nn

from robustbench_dyn.flows import Classifier, EulerStep


def build(
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    channels: int = 16,
    depth: int = 2,
    step_size: float = 0.5,
) -> nn.Module:
    """Build two scales of `depth` Euler steps; f(x) = B relu(A x + b), the classical block.

    input_shape: (C, H, W) with H and W divisible by 4.
    """
    image_channels, height, width = input_shape
    if height % 4 or width % 4:
        raise ValueError("euler_resnet needs height and width divisible by 4")

    def steps(width: int) -> list[nn.Module]:
        return [
            EulerStep(
                nn.Sequential(
                    nn.Conv2d(width, width, 3, padding=1),
                    nn.ReLU(),
                    nn.Conv2d(width, width, 3, padding=1),
                ),
                step_size=step_size,
            )
            for _ in range(depth)
        ]

    layers = [nn.PixelUnshuffle(2), nn.Conv2d(4 * image_channels, channels, 3, padding=1)]
    layers += [*steps(channels), nn.ReLU(), nn.PixelUnshuffle(2)]
    layers += [nn.Conv2d(4 * channels, 4 * channels, 3, padding=1)]
    layers += [*steps(4 * channels), nn.ReLU(), nn.Flatten()]
    features = channels * height * width // 4
    layers += [nn.Linear(features, 64), nn.ReLU()]
    return Classifier(nn.Sequential(*layers), nn.Linear(64, n_classes))
