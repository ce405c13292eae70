"""The 1-Lipschitz baselines: bounds of the current weights; frozen and training forwards agree."""

import copy
import importlib.metadata
import importlib.util

import numpy as np
import pytest
import torch
from orthogonium.layers import AdaptiveOrthoConv2d
from torch import nn

from robustbench_dyn import load_dataset, load_model
from robustbench_dyn.errors import RegistryError
from robustbench_dyn.flows import lipschitz_bound
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.loading import build_model, discover

IMAGES = {"input_shape": (1, 28, 28), "n_classes": 10}
SMALL = {
    "orthogonal_cnn": {"channels": 4, "features": 8, "dense_depth": 2},
    "sll": {"channels": 4, "depth": 2, "features": 8, "dense_depth": 2},
    "sll of aol": {"channels": 4, "depth": 2, "features": 8, "dense_depth": 2, "aol": True},
}


def architecture(case):
    return discover().get(case.split()[0])


def small(case, input_shape=(1, 8, 8)):
    """Return a small network with weights that differ from their initialisation."""
    torch.manual_seed(0)
    model = build_model(
        architecture(case), input_shape=input_shape, n_classes=10, options=SMALL[case]
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def jacobian_norm(model, x):
    """Return the exact largest singular value of the features' Jacobian at one image."""
    features = torch.func.jacrev(lambda flat: model.features(flat.view(1, *x.shape))[0])
    with frozen_eval(model):
        return float(np.linalg.norm(features(x.flatten()).numpy(), ord=2))


@pytest.mark.parametrize("case", SMALL)
def test_the_bound_holds_for_perturbed_weights_and_is_one(case):
    model = small(case).double()
    bound = lipschitz_bound(model.features)
    assert bound <= 1 + 1e-6
    for seed in range(2):
        x = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(seed)).double()
        # The bound is not far above the norm of the Jacobian either.
        assert 0.1 * bound < jacobian_norm(model, x) <= bound * (1 + 1e-12)


@pytest.mark.parametrize("case", SMALL)
def test_the_frozen_forward_equals_that_of_training(case):
    model, x = small(case), torch.rand(3, 1, 8, 8)
    expected = model.train()(x)
    with frozen_eval(model):
        assert torch.equal(model(x), expected)
        assert torch.equal(model(x), expected)
    before = copy.deepcopy(model.state_dict())
    model.eval()(x)
    # No forward pass changes a buffer, as a power iteration would.
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_default_of_the_library_changes_with_each_pass():
    torch.manual_seed(0)
    layer = AdaptiveOrthoConv2d(4, 4, 3).eval()
    first = layer.weight.detach().clone()
    assert not torch.equal(layer.weight, first)


@pytest.mark.parametrize("case", SMALL)
def test_kernels_are_cached_until_weights_change(case):
    model, x = small(case), torch.rand(2, 1, 8, 8)
    layers = [m for m in model.features.modules() if hasattr(m, "compute")]
    assert layers
    with frozen_eval(model), torch.no_grad():
        model(x)
        cached = [layer.value() for layer in layers]
        model(x)
        assert all(layer.value() is tensor for layer, tensor in zip(layers, cached, strict=True))
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        changed = [layer.value() for layer in layers]
        assert not any(torch.equal(a, b) for a, b in zip(cached, changed, strict=True))


def test_kernels_are_orthogonal_under_autocast():
    model, x = small("orthogonal_cnn"), torch.rand(2, 1, 8, 8)
    layer = next(m for m in model.features if hasattr(m, "layer"))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.value().dtype is torch.float32
        assert torch.equal(layer.value(), layer.compute())
        model(x)
    # bfloat16 has three digits: a kernel rounded to it is not orthogonal.
    rounded = layer.value().bfloat16().float()
    layer.compute = lambda: rounded
    assert lipschitz_bound(layer) > 1 + 1e-4


def test_the_bound_includes_a_kernel_that_is_not_orthogonal():
    model = small("orthogonal_cnn")
    for layer in (m for m in model.features if hasattr(m, "layer")):
        exact = layer.value().detach()
        assert lipschitz_bound(layer) == pytest.approx(1.0, abs=1e-5)
        layer.compute = lambda exact=exact: 1.02 * exact
        assert lipschitz_bound(layer) == pytest.approx(1.02, abs=1e-3)


def test_orthogonal_convolutions_with_enough_channels_keep_norms():
    torch.manual_seed(0)
    model = small("orthogonal_cnn")
    widening = [m for m in model.features if hasattr(m, "stride")][:2]
    x = torch.rand(5, 4, 4, 4)
    for layer in widening:
        with torch.no_grad():
            linear = layer(x) - layer(torch.zeros_like(x))
        torch.testing.assert_close(
            linear.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-5, atol=0
        )
        x = linear


def n_parameters(name, **options):
    model = build_model(architecture(name), options=options, **IMAGES)
    return sum(parameter.numel() for parameter in model.parameters())


def recipe_options(name):
    from robustbench_dyn.training.recipes import find_recipe, read_recipe  # noqa: PLC0415

    return read_recipe(find_recipe(architecture(name), "fashion_mnist")).options


@pytest.mark.parametrize("name", ["orthogonal_cnn", "sll"])
def test_the_baselines_have_the_parameters_of_lipflow(name):
    budget = n_parameters("lipflow", **recipe_options("lipflow"))
    assert n_parameters(name, **recipe_options(name)) == pytest.approx(budget, rel=0.03)
    # The weights file stays below 8 MB.
    assert 4 * n_parameters(name, **recipe_options(name)) < 8_000_000


@pytest.mark.parametrize("name", ["orthogonal_cnn", "sll"])
def test_the_weights_for_the_moons_solve_them(name):
    data = load_dataset("moons")
    model = load_model(name, dataset="moons")
    with torch.no_grad():
        accuracy = (model(data.x).argmax(dim=1) == data.y).double().mean()
    assert accuracy > 0.95


@pytest.mark.parametrize("case", SMALL)
def test_sizes_not_divisible_by_four_are_refused(case):
    with pytest.raises(RegistryError, match="divisible by 4"):
        small(case, input_shape=(1, 6, 8))
    assert small(case, input_shape=(2, 1, 1))(torch.rand(3, 2, 1, 1)).shape == (3, 10)


def test_without_orthogonium_the_error_says_what_to_install(monkeypatch):
    installed = importlib.metadata.version

    def version(package):
        if package == "orthogonium":
            raise importlib.metadata.PackageNotFoundError(package)
        return installed(package)

    monkeypatch.setattr("robustbench_dyn.plugins.discovery.version", version)
    registry = discover()
    with pytest.raises(RegistryError, match="pip install orthogonium") as caught:
        registry.get("orthogonal_cnn")
    assert "needs orthogonium, which is not installed" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert registry.get("sll").name == "sll"


def test_pooling_keeps_the_norm_of_constant_windows():
    (pool,) = (m for m in small("sll").features if isinstance(m, nn.AvgPool2d))
    flat = torch.rand(1, 4, 2, 2).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(pool(flat).norm(), flat.norm())
    # The mean divides the norm by four.
    torch.testing.assert_close(nn.AvgPool2d(4)(flat).norm(), flat.norm() / 4)
