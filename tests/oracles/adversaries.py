"""The collection. A new adversary is a function with @adversary; nothing else has to know of it.

All of them take inputs (1, 2, 2) in [0, 1] and return two logits, so that their balls can be
searched by brute force.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from robustbench_dyn.flows import AffinePieces, Classifier, DenseGradientStep, EulerStep, MaxAffine

SHAPE = (1, 2, 2)


class Adversary(NamedTuple):
    """name; build: the module; trick: what it does, for the table in docs/soundness.md.

    family: of tricks. certifiable: whether some certificate of it is true, so that one is no fault.
    """

    name: str
    build: Callable[[], nn.Module]
    trick: str
    family: str


ADVERSARIES: list[Adversary] = []
LIBRARY = torch.library.Library("adversary", "DEF")


def adversary(family: str):
    def register(build):
        trick = " ".join((build.__doc__ or "").split())
        ADVERSARIES.append(Adversary(build.__name__, build, trick, family))
        return build

    return register


def margin_head(weight=1.0):
    """Return logits (+w s, -w s) for the sum s of four features less 2."""
    head = nn.Linear(4, 2)
    head.weight.data = weight * torch.tensor([[0.5] * 4, [-0.5] * 4])
    head.bias.data = weight * torch.tensor([-1.0, 1.0])
    return head


def plain(*layers):
    return Classifier(nn.Sequential(nn.Flatten(), *layers), margin_head())


def diagonal(scale, bias=0.0):
    layer = nn.Linear(4, 4)
    layer.weight.data = scale * torch.eye(4)
    layer.bias.data = torch.full((4,), float(bias))
    return layer


# Rounding


@adversary("rounding")
def swamping_biases():
    """A bias of 2^23 that the next layer takes off: what is between is rounded to whole numbers."""
    return plain(diagonal(1.0, 2.0**23), diagonal(1.0, -(2.0**23)))


@adversary("rounding")
def swamping_relu_network():
    """The same in a plain network of Linear and ReLU."""
    big = 2.0**24
    first, second = nn.Linear(4, 2), nn.Linear(2, 2)
    first.weight.data = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    first.bias.data = torch.tensor([0.4 + big, 0.0])
    second.weight.data = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    second.bias.data = torch.tensor([-big, 0.0])
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)


@adversary("rounding")
def swamping_in_a_corner():
    """A bias of 2^24 that only meets the values of a corner of the input, where no probe may look.

    Logits are s - 2 and 0, s the sum of the inputs; where s > 2.2, float32 loses 8 (s - 2.2) more.
    """
    big = 2.0**24
    first, second, third, last = nn.Linear(4, 2), nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2)
    first.weight.data, first.bias.data = torch.ones(2, 4), torch.tensor([0.0, -2.2])
    second.weight.data = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    second.bias.data = torch.tensor([-2.0, 0.0, big])
    third.weight.data, third.bias.data = torch.eye(3), torch.tensor([0.0, 0.0, -big])
    last.weight.data = torch.tensor([[1.0, -8.0, 8.0], [0, 0, 0]])
    last.bias.data.zero_()
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, third, last)


@adversary("rounding")
def moderate_swamping():
    """A bias of 2^20: rounding to eighths, which is less than most margins."""
    return plain(diagonal(1.0, 2.0**20), diagonal(1.0, -(2.0**20)))


@adversary("rounding")
def swamping_by_a_skip():
    """x + 2^23 - 2^23 as a residual step of a field without weights."""

    class Constant(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, x):
            return torch.full_like(x, self.value)

        def lipschitz_bound(self):
            return 0.0

    return plain(EulerStep(Constant(2.0**23)), EulerStep(Constant(-(2.0**23))))


@adversary("rounding")
def swamping_batch_norm():
    """A running mean and a bias that cancel: (x - mean) scale + bias."""
    norm = nn.BatchNorm2d(1)
    norm.running_mean.fill_(2.0**23)
    norm.bias.data.fill_(2.0**23)
    norm.running_var.fill_(1.0 - norm.eps)
    return nn.Sequential(norm, nn.Flatten(), margin_head()).eval()


@adversary("rounding")
def values_below_the_normal_numbers():
    """Scales of 1e-42 in all, then 1e42: what is between may be flushed to zero."""
    return plain(diagonal(1e-20), diagonal(1e-22), diagonal(1e20), diagonal(1e22))


@adversary("rounding")
def denormal_relu_network():
    """The same in a network of ReLU."""
    return nn.Sequential(
        nn.Flatten(),
        diagonal(1e-20),
        nn.ReLU(),
        diagonal(1e-22),
        nn.ReLU(),
        diagonal(1e20),
        nn.ReLU(),
        diagonal(1e22),
        margin_head(),
    )


@adversary("rounding")
def overflowing_values():
    """Products beyond the largest float32, which then are divided again: inf, and NaN."""
    return plain(diagonal(3e38), diagonal(1e-38), diagonal(1 / 3))


@adversary("rounding")
def thousands_of_small_terms():
    """A sum of 100,000 terms, one by one: rounding in one direction adds up."""

    class Sum(nn.Module):
        def forward(self, x):
            flat = x.flatten(1)
            total = flat.sum(1)
            for _ in range(200):
                total = total + 2.0**23 - 2.0**23
            return torch.stack([total - 2, 2 - total], dim=1)

        def lipschitz_bound(self):
            return 2.0**1.5

    return Sum()


# Weights that are not the weights


def stale(layer, bring):
    """Return a Classifier whose weights are 12 times those that lie in `weight` before a pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = bring(layer)
    model = Classifier(nn.Sequential(nn.Flatten(), layer), margin_head())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in state:
        if name.endswith(("weight_g", "weight_orig")) or name.endswith(
            "parametrizations.weight.original0"
        ):
            state[name] *= 12
    model.load_state_dict(state)
    return model


@adversary("weights")
def legacy_weight_norm():
    """torch.nn.utils.weight_norm: `weight` is that of the random start until a forward pass."""
    return stale(diagonal(1.0), nn.utils.weight_norm)


@adversary("weights")
def legacy_spectral_norm():
    """torch.nn.utils.spectral_norm, scaled up by a wrong estimate of the norm."""
    model = stale(diagonal(1.0), nn.utils.spectral_norm)
    layer = model.features[1]
    layer.weight_u.copy_(torch.tensor([1.0, 0, 0, 0]))
    layer.weight_v.copy_(torch.tensor([0.1, 1.0, 0, 0]))
    return model.eval()


@adversary("weights")
def pruned_weights():
    """torch.nn.utils.prune keeps the weights in weight_orig."""
    return stale(diagonal(1.0), lambda layer: prune.l1_unstructured(layer, "weight", 4))


@adversary("weights")
def parametrized_weight():
    """torch's new weight_norm, as a parametrization: an honest one, of twelve times the weights."""
    return stale(diagonal(1.0), nn.utils.parametrizations.weight_norm)


@adversary("weights")
def parameter_that_computes():
    """A parameter of a class of its own, whose products are twelve times as large."""

    class Loud(nn.Parameter):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            with torch._C.DisableTorchFunctionSubclass():
                result = function(*args, **(kwargs or {}))
            return 12 * result if function is nn.functional.linear else result

    layer = diagonal(1.0)
    layer.weight = Loud(layer.weight.data)
    return plain(layer)


# Code around a known layer


@adversary("around a layer")
def forward_hook():
    """A forward hook that scales what a known layer gives."""
    layer = diagonal(1.0)
    layer.register_forward_hook(lambda _module, _inputs, out: 12 * out)
    return plain(layer)


@adversary("around a layer")
def forward_pre_hook():
    """A forward pre-hook that scales what a known layer gets."""
    layer = diagonal(1.0)
    layer.register_forward_pre_hook(lambda _module, inputs: (12 * inputs[0],))
    return plain(layer)


@adversary("around a layer")
def hook_with_keywords():
    """A hook registered with_kwargs and always_call."""
    layer = diagonal(1.0)
    layer.register_forward_hook(
        lambda _module, _args, _kwargs, out: 12 * out, with_kwargs=True, always_call=True
    )
    return plain(layer)


@adversary("around a layer")
def hook_on_the_whole():
    """A hook on the classifier itself: where the margin is large, it turns it round."""
    model = plain()
    model.register_forward_hook(
        lambda _module, _inputs, out: torch.where(out.abs() > 0.9, -out, out)
    )
    return model


@adversary("around a layer")
def hook_inside_a_step():
    """A hook deep inside a residual step."""
    inner = diagonal(0.1)
    inner.register_forward_hook(lambda _module, _inputs, out: 90 * out)
    return plain(EulerStep(nn.Sequential(inner)))


@adversary("around a layer")
def overridden_call():
    """A subclass of Linear with a __call__ of its own."""

    class Called(nn.Linear):
        def __call__(self, x):
            return 12 * super().__call__(x)

    layer = Called(4, 4)
    layer.weight.data, layer.bias.data = torch.eye(4), torch.zeros(4)
    return plain(layer)


@adversary("around a layer")
def overridden_call_of_a_flow():
    """The same for a layer of the package, which states its own bound."""

    class Called(DenseGradientStep):
        def __call__(self, x):
            return 12 * super().__call__(x)

    return plain(Called(4, 2))


@adversary("around a layer")
def overridden_helper():
    """A subclass that overrides what its base's forward calls, not forward itself."""

    class Helped(DenseGradientStep):
        def _adjoint(self, force):
            return 30 * super()._adjoint(force)

    return plain(Helped(4, 4))


@adversary("around a layer")
def forward_of_an_object():
    """A forward on the object."""
    layer = diagonal(1.0)
    layer.forward = lambda x: 12 * x
    return plain(layer)


@adversary("around a layer")
def property_for_a_weight():
    """A subclass whose weight is a property that gives its readers another one than itself."""

    class Shown(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, 12 * self._parameters["weight"], self.bias)

        def lipschitz_bound_of_base(self):
            return 1.0

    layer = Shown(4, 4)
    layer.weight.data, layer.bias.data = torch.eye(4), torch.zeros(4)
    return plain(layer)


@adversary("weights")
def weight_of_the_grad_mode():
    """A parametrization that is twelve times as large where no gradient is recorded."""

    class Loud(nn.Module):
        def forward(self, weight):
            return weight if torch.is_grad_enabled() else 12 * weight

    layer = diagonal(1.0)
    nn.utils.parametrize.register_parametrization(layer, "weight", Loud())
    return plain(layer)


@adversary("weights")
def weight_that_alternates():
    """A property in the place of a weight, another one at every second look."""

    class Alternating(nn.Linear):
        looks = 0

        @property
        def weight(self):
            type(self).looks += 1
            return self._parameters["weight"] * (12.0 if type(self).looks % 2 else 1.0)

    layer = nn.Linear.__new__(Alternating)
    nn.Module.__init__(layer)
    layer.in_features = layer.out_features = 4
    layer.register_parameter("bias", None)
    layer._parameters["weight"] = nn.Parameter(torch.eye(4))
    return plain(layer)


@adversary("around a layer")
def field_that_writes():
    """A field that is 1-Lipschitz and overwrites the state that it is added to."""

    class Writing(nn.Module):
        def forward(self, x):
            found = x.clone()
            x.mul_(12)
            return found

        def lipschitz_bound(self):
            return 1.0

    return plain(EulerStep(nn.Sequential(nn.Identity(), Writing()), step_size=0.1))


@adversary("tracing")
def operation_of_another_library():
    """An operation called relu, of a library of its own: twelve times that of torch."""
    if not hasattr(torch.ops.adversary, "relu"):
        LIBRARY.define("relu(Tensor x) -> Tensor")
        LIBRARY.impl("relu", lambda x: 12 * x.clamp_min(0), "CompositeExplicitAutograd")

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = margin_head()

        def forward(self, x):
            return self.head(torch.ops.adversary.relu(x.flatten(1)))

    return Named()


@adversary("tracing")
def numbers_as_bits():
    """Eight times the input, by its exponent's bits."""

    class Bits(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = margin_head()

        def forward(self, x):
            bits = x.flatten(1).contiguous().view(torch.int32) + (3 << 23)
            return self.head(bits.view(torch.float32))

    return Bits()


@adversary("around a layer")
def activation_in_place():
    """A residual step whose field overwrites the state that is added to it: 6 x, not 3 x + ..."""
    return plain(EulerStep(nn.Sequential(nn.LeakyReLU(3.0, inplace=True), nn.LeakyReLU(2.0))))


@adversary("around a layer")
def sequential_that_repeats():
    """A Sequential that goes through its parts twice, by __iter__."""

    class Twice(nn.Sequential):
        def forward(self, x):
            for _ in range(2):
                for part in self._modules.values():
                    x = part(x)
            return x

    return Classifier(Twice(nn.Flatten(), diagonal(4.0)), margin_head())


# Writing where others read


@adversary("memory")
def normalising_in_place():
    """A forward that normalises its input in place."""

    class Normalising(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            x.sub_(0.5).div_(0.1)
            return self.inner(x)

    return Normalising()


@adversary("memory")
def writing_past_autograd():
    """The same through .data, which no counter of versions notices."""

    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            x.data.copy_((x.data - 0.5) * 10)
            return self.inner(x)

    return Writing()


@adversary("memory")
def one_buffer_for_all_outputs():
    """A forward that returns the same memory at each call."""

    class Buffered(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()
            self.out = {}

        def forward(self, x):
            found = self.inner(x)
            if torch.is_grad_enabled() and x.requires_grad:
                return found
            kept = self.out.setdefault(len(x), torch.empty(len(x), 2))
            return kept.copy_(found)

    return Buffered()


@adversary("memory")
def write_through_a_view():
    """A value that changes because a view of it is written."""

    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = margin_head()

        def forward(self, x):
            z = x.flatten(1) * 1.0
            half = z[:, :2]
            half.mul_(12)
            return self.head(z)

    return Viewed()


# What tracing does not see


class Turning(nn.Module):
    """Logits of the plain classifier, turned round where `bright` says so."""

    def __init__(self):
        super().__init__()
        self.inner = plain()

    def forward(self, x):
        logits = self.inner(x)
        return -logits if self.bright(x) else logits


@adversary("tracing")
def shape_by_nonzero():
    """A branch on how many pixels are bright, by the shape of nonzero()."""

    class Counting(Turning):
        def bright(self, x):
            return len(x) <= 4 and (x > 0.99).nonzero().shape[0] > 0

    return Counting()


@adversary("tracing")
def shape_by_a_mask():
    """A branch on the size of x[x > 0.99]."""

    class Masking(Turning):
        def bright(self, x):
            return len(x) <= 4 and x[x > 0.99].numel() > 0

    return Masking()


@adversary("tracing")
def course_by_item():
    """A branch by item()."""

    class Reading(Turning):
        def bright(self, x):
            return (x > 0.97).any().item()

    return Reading()


@adversary("tracing")
def constants_by_numpy():
    """A weight that is made of the input outside of torch, by numpy."""

    class Outside(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            bright = (x.detach().numpy() > 0.97).mean(axis=(1, 2, 3))
            return self.inner(x) * torch.from_numpy(1 - 8 * bright.astype(np.float32))[:, None]

    return Outside()


@adversary("tracing")
def constants_by_tolist():
    """The same by tolist()."""

    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            bright = [sum(v > 0.97 for v in row) for row in x.flatten(1).tolist()]
            return self.inner(x) * (1 - 2 * torch.tensor(bright).clamp(max=1))[:, None]

    return Listed()


@adversary("tracing")
def constants_by_a_copy():
    """The same by copy.deepcopy, which copies memory without an operation."""

    class Copied(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            bright = (copy.deepcopy(x.detach()) > 0.97).flatten(1).any(dim=1)
            return self.inner(x) * (1 - 2 * bright.float())[:, None]

    return Copied()


@adversary("tracing")
def constants_by_dlpack():
    """The same by DLPack, memory that two libraries share."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            seen = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(x.detach()))
            bright = (seen > 0.97).flatten(1).any(dim=1)
            return self.inner(x) * (1 - 2 * bright.float())[:, None]

    return Shared()


@adversary("tracing")
def bump_where_no_probe_looks():
    """A narrow bump, by comparisons inside torch."""

    class Bump(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            bright = (x > 0.97).flatten(1).any(dim=1, keepdim=True)
            logits = self.inner(x)
            return torch.where(bright, -logits, logits)

    return Bump()


@adversary("tracing")
def bump_of_relus():
    """A narrow bump of ReLUs: an honest piecewise linear network that no sample meets."""

    class Bump(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            flat = x.flatten(1)
            high = 1000 * (torch.relu(flat - 0.97) - torch.relu(flat - 0.971))
            return self.inner(x) - 8 * high.sum(1, keepdim=True) * torch.tensor([1.0, -1.0])

    return Bump()


# Narrow numbers


class Narrow(nn.Module):
    """The plain classifier, on what `narrow` makes of the input."""

    def __init__(self, narrow):
        super().__init__()
        self.inner, self.narrow = plain(), narrow

    def forward(self, x):
        return self.inner(self.narrow(x))


for _name, _trick, _narrow in (
    ("half", "float16 inside, after a shift by 2000.", lambda x: (x + 2000).half().float() - 2000),
    ("bfloat16", "bfloat16 inside.", lambda x: x.bfloat16().float()),
    ("bytes", "Eight bits of input.", lambda x: (x * 8).to(torch.uint8).float() / 8),
    ("integers", "Whole numbers inside.", lambda x: (x * 8).int().float() / 8),
    ("rounded", "round() inside.", lambda x: (x * 8).round() / 8),
    (
        "float16_type",
        ".type() to float16.",
        lambda x: (x + 2000).type(torch.float16).type(torch.float32) - 2000,
    ),
):

    def _build(narrow=_narrow):
        return Narrow(narrow)

    ADVERSARIES.append(Adversary(f"narrow_{_name}", _build, _trick, "narrow numbers"))


@adversary("narrow numbers")
def autocast_bfloat16():
    """Autocast to bfloat16 inside of the forward."""

    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain(diagonal(1.0, 2.0), diagonal(1.0, -2.0))

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.inner(x).float()

    return Cast()


@adversary("narrow numbers")
def autocast_around_a_layer():
    """Autocast around a layer that states an honest bound of its exact self."""

    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = diagonal(1.0, 2.0)

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.layer(x).float() - 2.0

        def lipschitz_bound(self):
            return 1.0

    return plain(Cast())


@adversary("narrow numbers")
def products_in_bfloat16():
    """A forward that asks for products in bfloat16 by torch's global flag."""

    class Flagged(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain(diagonal(1.0, 2.0), diagonal(1.0, -2.0))

        def forward(self, x):
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("medium")
            try:
                return self.inner(x)
            finally:
                torch.set_float32_matmul_precision(before)

    return Flagged()


# What is no function of its input


class Changing(nn.Module):
    """The plain classifier, turned round where `turned` says so."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = plain(), 0

    def forward(self, x):
        self.calls += 1
        logits = self.inner(x)
        return -logits if self.turned(x) else logits


@adversary("changing")
def turns_after_many_calls():
    """Another network from the tenth call on."""

    class Late(Changing):
        def turned(self, x):
            return self.calls > 9

    return Late()


@adversary("changing")
def turns_without_a_graph():
    """Another network where a gradient is asked for."""

    class Graph(Changing):
        def turned(self, x):
            return torch.is_grad_enabled() and x.requires_grad

    return Graph()


@adversary("changing")
def turns_while_frozen():
    """Another network while its parameters ask for gradients."""

    class Frozen(Changing):
        def turned(self, x):
            return self.inner.head.weight.requires_grad

    return Frozen()


@adversary("changing")
def turns_for_single_examples():
    """Another network for batches of one."""

    class Alone(Changing):
        def turned(self, x):
            return len(x) == 1

    return Alone()


@adversary("changing")
def mixes_neighbours():
    """Each example less the mean of its batch."""

    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            return self.inner(x - x.mean(dim=0, keepdim=True) + 0.5)

    return Mixing()


@adversary("changing")
def always_dropping_out():
    """Dropout that is on in eval mode, too."""

    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            return self.inner(nn.functional.dropout(x, 0.3, training=True))

    return Dropping()


@adversary("changing")
def noisy_logits():
    """Noise on the logits, by numpy's generator."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            noise = np.random.standard_normal((len(x), 2))  # noqa: NPY002
            return self.inner(x) + torch.from_numpy(noise).to(x)

    return Noisy()


# Operations that are lowered to several nodes


class Around(nn.Module):
    """A function of the four pixels, (batch, 4), and a linear head."""

    def __init__(self, function, weight=1.0):
        super().__init__()
        self.function, self.head = function, margin_head(weight)

    def forward(self, x):
        return self.head(self.function(x.flatten(1)))


@adversary("lowered")
def layer_norm_far_from_zero():
    """LayerNorm of pixels with an offset of 2^16, where a variance rounds to any number."""
    return Around(lambda z: F.layer_norm(z * z.new_tensor([1.0, 2, 3, 4]) + 2.0**16, (4,)) + 0.5)


@adversary("lowered")
def layer_norm_of_nearly_equal_pixels():
    """LayerNorm with an eps of 1e-12, of pixels that hardly differ: tiny changes turn it round."""
    return Around(lambda z: F.layer_norm(1e-5 * z, (4,), eps=1e-12) * z.new_tensor([2.0, 1, 1, 1]))


@adversary("lowered")
def maximum_of_swamped_pixels():
    """Maxima of pixels that were rounded to eighths, which themselves do not round."""
    return Around(lambda z: torch.maximum(z + 2.0**20, z.flip(1) + 2.0**20) - 2.0**20)


@adversary("lowered")
def exponential_that_overflows():
    """Softmax by hand, of numbers whose exponentials are infinite in float32 at white pixels."""
    return Around(lambda z: 4 * (200 * z).exp() / (200 * z).exp().sum(dim=1, keepdim=True) - 0.5)


@adversary("lowered")
def softmax_of_large_numbers():
    """Softmax of pixels times a million: an argmax, but for rounding."""
    return Around(lambda z: 4 * (1e6 * z).softmax(dim=1) * z.new_tensor([1.0, 1, 0, 0]) - 0.5)


@adversary("lowered")
def quotient_with_a_pole():
    """1 / (s - 2.2) for the sum s of the pixels: another sign on the other side."""
    return Around(lambda z: 0.3 / (z.sum(dim=1, keepdim=True) - 2.2).expand(len(z), 4) + 0.5)


@adversary("lowered")
def product_that_cancels():
    """(z + 1000) (z - 1000) + 1000^2: the square of a pixel, after rounding."""
    return Around(lambda z: (z + 1000) * (z - 1000) + 1000.0**2)


@adversary("lowered")
def square_below_zero():
    """A square of pixels less 0.5, the larger the further they are from there, on either side."""
    return Around(lambda z: 4 * (z - 0.5) ** 2)


@adversary("lowered")
def neighbours_through_heads():
    """Examples that are mixed where the batch is folded into another dimension, by a roll there."""
    return Around(lambda z: z + 0.5 * z.reshape(-1, 2).roll(2, dims=0).reshape(-1, 4))


@adversary("lowered")
def gelu_of_large_numbers():
    """GELU, steep and with a valley: it falls from 0 to -0.17 before it rises."""
    return Around(lambda z: 3 * F.gelu(4 * z - 3) + 0.5)


# Maxima of affine pieces


def pieces(kind=MaxAffine, bias=0.0):
    """Return logits +w s, -w s for the sum s of four features less 2, as maxima of two pieces."""
    head = kind(4, 2, pieces=2)
    slopes = torch.tensor([0.5, 0.25])[None, :, None] * torch.tensor([1.0, -1.0])[:, None, None]
    head.weight.data = slopes.expand(2, 2, 4).contiguous()
    head.bias.data = torch.tensor([[-1.0, -0.5], [1.0, 0.5]]) + bias
    return Classifier(nn.Flatten(), head)


@adversary("affine pieces")
def swamped_pieces():
    """Pieces with a bias of 2^22 in all, which rounds them to halves."""
    return pieces(bias=2.0**22)


@adversary("affine pieces")
def pieces_of_a_hook():
    """A hook that turns the logits round where they are large."""
    model = pieces()
    model.head.register_forward_hook(
        lambda _module, _inputs, out: torch.where(out > 0.4, -out, out)
    )
    return model


@adversary("affine pieces")
def pieces_of_another_forward():
    """A forward that has steps of its own between the maxima and the logits."""

    class Turned(MaxAffine):
        def forward(self, z):
            logits = super().forward(z)
            return torch.where(logits.abs() > 0.4, -logits, logits)

    return pieces(Turned)


@adversary("affine pieces")
def pieces_for_the_certifier():
    """Slopes of a tenth where something else than the forward asks for them."""

    class Asked(MaxAffine):
        def affine_pieces(self):
            weight, bias = super().affine_pieces()
            scale = 1.0 if sys._getframe(1).f_code.co_name == "forward" else 0.1
            return AffinePieces(scale * weight, bias)

    return pieces(Asked)


# Honest networks: a certificate of them is no fault, and some certifier has to give one


@adversary("honest")
def honest_linear():
    """The plain classifier."""
    return plain()


@adversary("honest")
def honest_relu_network():
    """A plain network of ReLU."""
    return nn.Sequential(nn.Flatten(), diagonal(2.0, -0.5), nn.ReLU(), margin_head())


@adversary("honest")
def honest_in_double():
    """The plain classifier in float64."""
    return plain(diagonal(1.0)).double()


@adversary("honest")
def honest_pieces():
    """Maxima of affine pieces of the input."""
    return pieces()
