"""Models that cheat: the same exactly linear classifier, each with one trick around it.

The classifier names the nearest centroid of the digits. Its robustness is known: see `truth`. A new
cheat is a function with @cheat; nothing else has to know of it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from oracles.digits import all_digits
from robustbench_dyn import evaluate
from robustbench_dyn.errors import DynbenchError, SoundnessError
from robustbench_dyn.evaluation import stages
from robustbench_dyn.flows import Classifier
from robustbench_dyn.results.flags import REFUTED_BOUND, SELF_DECLARED
from robustbench_dyn.threat_models import ThreatModel

THREAT_MODEL = ThreatModel("L2", 0.5)
N_EXAMPLES = 40
# Exact on a linear classifier, and fast.
ATTACKS = "apgd-ce,fab-t,square:n_queries=300"
# Flags of many honest models, which say nothing of a cheat.
NOT_TELLING = {SELF_DECLARED, "within_rounding", "certifier_failed"}


class Cheat(NamedTuple):
    """name; build: the module; trick: what it does; expected: how it ends, as in `outcome`.

    why_not: why it cannot be caught, if so. options: of the evaluation.
    """

    name: str
    build: Callable[[], nn.Module]
    trick: str
    expected: str
    why_not: str
    options: dict[str, object]


class Report(NamedTuple):
    """What an evaluation said of a cheat: counts of examples, flags, or the error."""

    clean: int
    certified: int
    empirical: int
    flags: str
    error: str


CHEATS: list[Cheat] = []


def cheat(expected, *, why_not="", **options):
    def register(build):
        trick = " ".join((build.__doc__ or "").split())
        CHEATS.append(Cheat(build.__name__, build, trick, expected, why_not, options))
        return build

    return register


X, Y = all_digits()
CENTROIDS = torch.stack([X[k == Y].mean(dim=0).flatten() for k in range(10)])


def head(factor=1.0):
    linear = nn.Linear(64, 10)
    linear.weight.data = CENTROIDS / factor
    linear.bias.data = -CENTROIDS.square().sum(dim=1) / 2
    return linear


def linear(*layers, factor=1.0):
    return Classifier(nn.Sequential(*layers, nn.Flatten()), head(factor)).eval()


class Truth(NamedTuple):
    """Numbers of examples: classified right, and robust, at least and at most."""

    clean: int
    certified: int
    robust: int


@cache
def truth(n):
    """Return the truth of the linear classifier for the first n digits.

    The distance to the plane between two classes is the margin over |w_i - w_j|: within it, an
    example is robust. Beyond it, the nearest point of that plane may lie outside of [0, 1]; a
    projection onto plane and box in turn then finds one that does not.
    """
    x, y = X[:n].flatten(1).double(), Y[:n]
    w, b = CENTROIDS.double(), head().bias.data.double()
    logits = x @ w.T + b
    clean = logits.argmax(dim=1) == y
    certified = robust = 0
    for row in clean.nonzero().flatten().tolist():
        nearest, within = np.inf, np.inf
        for j in range(10):
            if j == y[row]:
                continue
            normal, offset = w[y[row]] - w[j], b[y[row]] - b[j]
            nearest = min(nearest, float((normal @ x[row] + offset) / normal.norm()))
            within = min(within, _to_plane_in_box(x[row], normal, offset))
        certified += nearest >= THREAT_MODEL.eps
        robust += within > THREAT_MODEL.eps
    return Truth(int(clean.sum()), certified, robust)


def _to_plane_in_box(x, normal, offset):
    """Return the distance from x to normal z + offset <= 0 within [0, 1], by its multiplier."""
    low, high = 0.0, 1e4
    for _ in range(100):
        step = (low + high) / 2
        z = (x - step * normal).clamp(0, 1)
        low, high = (step, high) if float(normal @ z + offset) > 0 else (low, step)
    return float(((x - high * normal).clamp(0, 1) - x).norm())


def report(cheat, n=N_EXAMPLES):
    """Evaluate a cheat on the first n digits; return what was reported of it."""
    with undone():
        try:
            row = evaluate(
                cheat.build(), (X[:n], Y[:n]), THREAT_MODEL, attacks=ATTACKS, **cheat.options
            ).summary
        except (DynbenchError, SoundnessError) as error:
            return Report(0, 0, 0, "", f"{type(error).__name__}: {error}")
    counts = (round(n * row[f"{kind}_accuracy"]) for kind in ("clean", "certified", "empirical"))
    return Report(*counts, row["flags"], "")


def outcome(found, true):
    """Say how a cheat ended: caught, flagged, harmless, or not caught.

    Caught is one that is refused, refuted, or whose own bound is. Harmless is one that gains
    nothing: no number is better than what is true of the linear classifier.
    """
    flags = {flag.split(":")[0] for flag in found.flags.split()}
    if found.error or REFUTED_BOUND in flags:
        return "caught"
    if max(found.certified, found.empirical) <= true.robust and found.clean <= true.clean:
        return "harmless"
    return "flagged" if flags - NOT_TELLING else "not caught"


class undone:  # noqa: N801  (used as a function)
    """Put back what a cheat patches in torch and in this package."""

    def __enter__(self):
        self.argmax, self.hooks = torch.Tensor.argmax, nn.modules.module._global_forward_hooks
        self.kept, self.find_hits = dict(self.hooks), stages.find_hits

    def __exit__(self, *_):
        torch.Tensor.argmax, stages.find_hits = self.argmax, self.find_hits
        self.hooks.clear()
        self.hooks.update(self.kept)


# Bounds


class Claiming(nn.Module):
    """x -> factor * x, which says that its Lipschitz bound is `claim`."""

    def __init__(self, factor, claim=1.0):
        super().__init__()
        self.factor, self.claim = factor, claim

    def __init_subclass__(cls):
        # Each class states a bound of its own: one that it inherits is not believed.
        cls.lipschitz_bound = Claiming.lipschitz_bound

    def forward(self, x):
        return self.factor * x

    def lipschitz_bound(self):
        return self.claim


def liar(factor, claim=1.0, kind=Claiming):
    return linear(kind(factor, claim), factor=factor)


@cheat("harmless")
def honest():
    """No cheat: the control."""
    return linear()


@cheat("harmless")
def honest_claim():
    """No cheat: a true bound of its own."""
    return liar(2.0, 2.0)


@cheat("caught")
def claim_1_is_100():
    """States a bound that is wrong by 100."""
    return liar(100.0)


@cheat("caught")
def claim_1_is_2():
    """States a bound that is wrong by 2."""
    return liar(2.0)


@cheat("caught")
def claim_1_is_1_3():
    """States a bound that is wrong by 1.3."""
    return liar(1.3)


@cheat("caught")
def claim_1_is_1_1():
    """States a bound that is wrong by 1.1."""
    return liar(1.1)


@cheat("caught")
def claim_0():
    """States a bound of 0: every radius is infinite."""
    return liar(1.0, 0.0)


@cheat("caught")
def claim_and_raise_with_gradients():
    """A false bound, and an error wherever a gradient is asked for."""

    class Raising(Claiming):
        def forward(self, x):
            if x.requires_grad:
                raise RuntimeError("no gradients")
            return super().forward(x)

    return liar(2.0, kind=Raising)


@cheat("caught")
def claim_and_raise_off_grid():
    """A false bound, and an error off the grid of the data."""

    class Raising(Claiming):
        def forward(self, x):
            if not torch.equal((x * 16).round(), x * 16):
                raise RuntimeError("no image")
            return super().forward(x)

    return liar(2.0, kind=Raising)


@cheat("caught")
def claim_and_detach():
    """A false bound, and no gradient."""

    class Detached(Claiming):
        def forward(self, x):
            return self.factor * x.detach()

    return liar(2.0, kind=Detached)


@cheat("flagged")
def claim_and_remember():
    """A false bound, and answers near an input that was seen are those of that input."""
    return nn.Sequential(Remembering(liar(2.0)))


@cheat("caught", audit_share=0)
def claim_without_an_audit():
    """A false bound, evaluated with audit_share=0."""
    return liar(2.0)


@cheat("caught")
def claim_as_a_class_of_the_package():
    """A false bound of a class whose __module__ names this package."""

    class Posing(Claiming):
        pass

    Posing.__module__ = "robustbench_dyn.flows.euler"
    return liar(2.0, kind=Posing)


@cheat("caught")
def claim_wrong_in_a_narrow_place():
    """A false bound: far steeper, but only in a slab that few inputs meet."""

    class Narrow(nn.Module):
        def forward(self, x):
            place = x.flatten(1).mean(dim=1).reshape(-1, 1, 1, 1)
            return torch.where((place > 0.36) & (place < 0.37), 2 * x, x)

        def lipschitz_bound(self):
            return 1.0

    return linear(Narrow())


# Around a layer


@cheat("harmless")
def hook_on_flatten():
    """A forward hook on Flatten scales its output by 100."""
    model = linear(factor=100.0)
    model.features[0].register_forward_hook(lambda _module, _inputs, out: 100 * out)
    return model


@cheat("harmless")
def global_hook():
    """A hook of all modules scales what Flatten gives by 100."""
    model = linear(factor=100.0)
    nn.modules.module.register_module_forward_hook(
        lambda module, _inputs, out: 100 * out if isinstance(module, nn.Flatten) else None
    )
    return model


@cheat("harmless")
def overridden_call():
    """A subclass of Flatten with a __call__ of its own."""

    class Called(nn.Flatten):
        def __call__(self, x):
            return 100 * super().__call__(x)

    return Classifier(nn.Sequential(Called()), head(100.0)).eval()


@cheat("harmless")
def switching_parametrization():
    """A parametrization that gives another weight to the forward of the layer than to others."""

    class Switch(nn.Module):
        def forward(self, weight):
            caller = sys._getframe(1)
            while caller is not None:
                if caller.f_code is nn.Linear.forward.__code__:
                    return weight
                caller = caller.f_back
            return weight / 100

    model = linear()
    parametrize.register_parametrization(model.head, "weight", Switch(), unsafe=True)
    return model


@cheat("harmless")
def switching_getattr():
    """A __getattr__ that gives another weight to the forward of the layer than to others."""

    class Switch(nn.Linear):
        def __getattr__(self, name):
            value = super().__getattr__(name)
            inside = sys._getframe(1).f_code is nn.Linear.forward.__code__
            return value / 100 if name == "weight" and not inside else value

    model = linear()
    switch = Switch(64, 10)
    switch.load_state_dict(model.head.state_dict())
    model.head = switch
    return model


# Memory, randomness, and other things that are no function


class Wrapped(nn.Module):
    """The linear classifier, with `spoil` around it."""

    def __init__(self):
        super().__init__()
        self.inner = linear()

    def forward(self, x):
        return self.spoil(x)


class Remembering(nn.Module):
    """Answers near an input that was seen are those of that input."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen, self.said = inner, torch.empty(0, 64), torch.empty(0, 10)

    def forward(self, x):
        logits = self.inner(x)
        for rows in range(len(x)):
            point = x[rows : rows + 1].detach().flatten(1)
            if not len(self.seen) or float(torch.cdist(point, self.seen).min()) > 0.51:
                self.seen = torch.cat([self.seen, point])
                self.said = torch.cat([self.said, logits[rows : rows + 1].detach()])
        return self.said[torch.cdist(x.detach().flatten(1), self.seen).argmin(1)] + 0 * logits


@cheat("flagged")
def memory():
    """Answers near an input that was seen are those of that input."""
    return Remembering(linear())


@cheat("flagged")
def call_counter():
    """After some calls, it gives the logits of its first calls again."""

    class Counting(Wrapped):
        kept, calls = None, 0

        def spoil(self, x):
            self.calls += 1
            logits = self.inner(x)
            if self.kept is None or len(self.kept) != len(x) or self.calls < 30:
                self.kept = logits.detach()
            return self.kept + 0 * logits

    return Counting()


@cheat("flagged")
def memory_in_a_global():
    """The same memory, kept outside of the model."""
    global _OUTSIDE  # noqa: PLW0603  (that is the cheat)
    _OUTSIDE = Remembering(linear())

    class Hidden(nn.Module):
        def forward(self, x):
            return _OUTSIDE(x)

    return Hidden()


_OUTSIDE: nn.Module | None = None


@cheat("flagged")
def randomised_quantisation():
    """Rounds its input to 16 grey levels, with noise that is off on the grid of the data."""

    class Rounded(Wrapped):
        def spoil(self, x):
            noise = torch.rand_like(x) - 0.5
            return self.inner(((16 * x + 0.98 * noise).round() / 16).clamp(0, 1) + 0 * x)

    return Rounded()


@cheat("harmless")
def noisy_small():
    """Logits with small noise."""

    class Noisy(Wrapped):
        def spoil(self, x):
            return self.inner(x) + 0.01 * torch.randn(len(x), 10)

    return Noisy()


@cheat("flagged")
def noisy_input():
    """Noise on the input, larger than the ball."""

    class Noisy(Wrapped):
        def spoil(self, x):
            return self.inner(x + 0.2 * torch.randn_like(x))

    return Noisy()


@cheat("harmless")
def batch_size_detector():
    """Other logits where the batch is large."""

    class Sized(Wrapped):
        def spoil(self, x):
            return self.inner(x) * (1.0 if len(x) < 20 else -1.0)

    return Sized()


@cheat("flagged")
def batch_mixing():
    """Logits that depend on the other examples."""

    class Mixing(Wrapped):
        def spoil(self, x):
            logits = self.inner(x)
            return logits - 0.2 * logits.mean(dim=0, keepdim=True)

    return Mixing()


# Gradients and logits


@cheat("flagged")
def cut_gradient():
    """No gradient in eval mode."""

    class Cut(Wrapped):
        def spoil(self, x):
            logits = self.inner(x)
            return logits.detach() + 0 * x.sum()

    return Cut()


@cheat("harmless")
def gradient_detached():
    """Logits without a graph."""

    class Detached(Wrapped):
        def spoil(self, x):
            return self.inner(x).detach()

    return Detached()


@cheat("harmless")
def gradient_of_another_function():
    """The gradient is that of other logits."""

    class Other(Wrapped):
        def spoil(self, x):
            logits, other = self.inner(x), self.inner(1 - x)
            return other + (logits - other).detach()

    return Other()


@cheat("flagged")
def shattered_gradient():
    """A wave of tiny height and large slope is added to the logits."""

    class Shattered(Wrapped):
        def spoil(self, x):
            wave = (
                1e-3
                * torch.sin(1e5 * x.flatten(1))
                @ torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
            )
            return self.inner(x) + wave

    return Shattered()


@cheat("flagged")
def nan_gradient():
    """The gradient is NaN."""

    class Nan(Wrapped):
        def spoil(self, x):
            zero = (x - x.detach()).abs().sum(dim=(1, 2, 3)).sqrt()
            return self.inner(x) + zero[:, None]

    return Nan()


@cheat("harmless")
def nan_off_grid():
    """NaN off the grid of the data."""

    class Nan(Wrapped):
        def spoil(self, x):
            off = ((x * 16).round() != x * 16).flatten(1).any(dim=1)
            return self.inner(x).masked_fill(off[:, None], torch.nan)

    return Nan()


@cheat("caught")
def raise_off_grid():
    """An error off the grid of the data."""

    class Raising(Wrapped):
        def spoil(self, x):
            if not torch.equal((x * 16).round(), x * 16):
                raise RuntimeError("no image")
            return self.inner(x)

    return Raising()


@cheat("flagged")
def quantised_input():
    """Rounds its input to 16 grey levels."""

    class Rounded(Wrapped):
        def spoil(self, x):
            return self.inner((16 * x).round() / 16 + 0 * x)

    return Rounded()


@cheat("flagged")
def rounded_logits():
    """Logits that are rounded to 0.5."""

    class Rounded(Wrapped):
        def spoil(self, x):
            return (2 * self.inner(x)).round() / 2

    return Rounded()


@cheat("flagged")
def hard_labels():
    """Logits of 0 and 1."""

    class Hard(Wrapped):
        def spoil(self, x):
            return nn.functional.one_hot(self.inner(x).argmax(dim=1), 10).float() + 0 * x.sum()

    return Hard()


def scaled(factor, offset=0.0):
    class Scaled(Wrapped):
        def spoil(self, x):
            return self.inner(x) * factor + offset

    return Scaled()


@cheat("harmless")
def logits_times_1e_30():
    """Logits of 1e-30, whose losses underflow."""
    return scaled(1e-30)


@cheat("harmless")
def logits_times_1e30():
    """Logits of 1e30."""
    return scaled(1e30)


@cheat("harmless")
def logits_times_1e37():
    """Logits of 1e37, whose losses overflow."""
    return scaled(1e37)


@cheat("harmless")
def logits_plus_1e6():
    """Logits with a large offset, which rounds them."""
    return scaled(1.0, 1e6)


@cheat("harmless")
def half_precision_overflow():
    """Logits that overflow in half precision."""

    class Half(Wrapped):
        def spoil(self, x):
            return (self.inner(x) * 2e4).half().float()

    return Half()


@cheat("harmless")
def clean_detector():
    """Another, honest function off the grid of the data: a legitimate one, that is not linear."""

    class Detector(Wrapped):
        def spoil(self, x):
            off = ((x * 16).round() != x * 16).flatten(1).any(dim=1)
            return torch.where(off[:, None], -self.inner(x), self.inner(x))

    return Detector()


@cheat("harmless")
def input_in_place():
    """Writes into its input."""

    class Writing(Wrapped):
        def spoil(self, x):
            logits = self.inner(x)
            with torch.no_grad():
                x.fill_(0.5)
            return logits

    return Writing()


@cheat("harmless")
def useless_surrogate():
    """Names a surrogate that has nothing to do with it."""

    class Named(Wrapped):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

        def spoil(self, x):
            return self.inner(x)

        def surrogates(self):
            return {"other": self.other}

    return Named()


@cheat("harmless")
def honest_surrogate():
    """Names itself, as it were, as a surrogate."""

    class Named(Wrapped):
        def __init__(self):
            super().__init__()
            self.other = linear()

        def spoil(self, x):
            return self.inner(x)

        def surrogates(self):
            return {"other": self.other}

    return Named()


# The evaluation itself

ARGMAX = torch.Tensor.argmax


@cheat("harmless")
def chameleon():
    """Shows another network, with larger margins, to what traces it."""

    class Chameleon(Wrapped):
        def spoil(self, x):
            watched = torch._C._len_torch_dispatch_stack() > 0
            return self.inner(x) * 10 if watched else self.inner(x)

    return Chameleon()


@cheat("harmless")
def false_comparison():
    """Logits of a subclass of Tensor that differ from nothing."""

    class Same(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            found = super().__torch_function__(function, types, args, kwargs)
            if function in (torch.Tensor.__ne__, torch.Tensor.ne, torch.ne):
                return torch.zeros_like(found)
            return found

    class Spoilt(Wrapped):
        def spoil(self, x):
            return self.inner(x).as_subclass(Same)

    return Spoilt()


@cheat("harmless")
def patched_argmax():
    """Replaces Tensor.argmax by one that names the class of the first call."""

    class Patching(Wrapped):
        def spoil(self, x):
            if torch.Tensor.argmax is ARGMAX:
                honest, kept = torch.Tensor.argmax, []

                def argmax(tensor, *args, **kwargs):
                    found = honest(tensor, *args, **kwargs)
                    if tensor.dim() == 2 and tensor.shape[1] == 10:
                        kept.append(found)
                        return next((k for k in kept if k.shape == found.shape), found)
                    return found

                torch.Tensor.argmax = argmax
            return self.inner(x)

    return Patching()


@cheat(
    "not caught",
    why_not="code in this process may read all that the evaluation holds",
)
def frame_reader():
    """Takes the labels from the variables of its callers."""

    class Reading(Wrapped):
        def spoil(self, x):
            logits = self.inner(x)
            frame = inspect.currentframe()
            while frame is not None:
                for name in ("y", "labels", "problem", "batch"):
                    value = frame.f_locals.get(name)
                    value = getattr(value, "y", value)
                    if isinstance(value, torch.Tensor) and value.shape == x.shape[:1]:
                        wanted = nn.functional.one_hot(value.long(), 10)
                        return logits.detach() * 0 + 10.0 * wanted + 0 * logits
                frame = frame.f_back
            return logits

    return Reading()


@cheat(
    "not caught",
    why_not="code in this process may replace any part of the evaluation",
)
def patched_check():
    """Replaces the check of adversarial examples by one that finds none."""

    class Patching(Wrapped):
        def spoil(self, x):
            stages.find_hits = lambda *arguments, **_: [None] * len(arguments[3])
            return self.inner(x)

    return Patching()


# Names


@cheat("caught", name="lipflow")
def spoofed_name():
    """Is called like a registered model."""
    return linear()


@cheat("harmless")
def spoofed_identity():
    """Carries an identity of a registered model as an attribute."""
    model = linear()
    model.identity = "lipflow"
    return model
