"""A network of foreign code, in a process of its own: it gets inputs, and returns logits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from robustbench_dyn.datasets.catalogue import opened
from robustbench_dyn.errors import ForeignCodeError, RegistryError
from robustbench_dyn.isolation.asking import Asking
from robustbench_dyn.isolation.channel import Message
from robustbench_dyn.isolation.process import ChildProcess, reported
from robustbench_dyn.plugins import SERVICE, find_plugins, folders_in_use, limits_in_use

if TYPE_CHECKING:
    from robustbench_dyn.plugins import Plugin, Weights

_PASSES = "models.serving"
# To import a plugin's libraries and to build its network takes the time of so many calls.
_TO_LOAD = 2


class IsolatedModel(nn.Module):
    """A stand-in for a network that another process runs, frozen and in eval mode.

    Maps (batch, *input_shape) to logits (batch, classes), and gradients back; second derivatives
    are not available. It has no parameters here. process: where the network is. part: "" for the
    network itself, or the name of one of its surrogates. facts: what the process says of the
    network: `parameters`, how many; `lipschitz_bound`, or None; `declared_bounds`, the classes that
    state a bound of their own.
    """

    def __init__(
        self, process: ChildProcess | Asking, facts: Mapping[str, Any], part: str = ""
    ) -> None:
        super().__init__()
        self.process, self.facts, self.part = process, facts, part
        self.training = False
        # Graphs that nothing here needs any more; the next call tells the process.
        self._unused = list[int]()

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's logits, (batch, classes)."""
        recorded = torch.is_grad_enabled() and x.requires_grad
        logits: Tensor = _Pass.apply(x, self, recorded)  # type: ignore[no-untyped-call]
        return logits

    def surrogates(self) -> dict[str, nn.Module]:
        """Return the networks on which transfer attacks are crafted, in the same process."""
        return {
            name: IsolatedModel(self.process, facts, part=name)
            for name, facts in self.facts.get("surrogates", {}).items()
        }

    def __deepcopy__(self, _memo: object) -> NoReturn:
        raise ForeignCodeError("a model in another process cannot be copied; load it again")

    def writes_into_input(self, x: Tensor) -> bool:
        """Return whether the network's forward writes into its input."""
        return bool(self.call("writes_into_input", {}, {"x": x}).content["writes"])

    def call(
        self,
        function: str,
        content: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        service: str = _PASSES,
        times: int = 1,
    ) -> Message:
        """Ask the process for something about this network; see ChildProcess.call."""
        unused, self._unused = self._unused, []
        device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
        about = {
            "part": self.part,
            "seed": _digest_of_random_state(),
            "device": str(device),
            "unused": unused,
        }
        return self.process.call(
            f"{service}:{function}", {**about, **content}, tensors, times=times
        )

    def no_longer_needed(self, graph: int) -> None:
        """Let the process forget the graph of a pass, at the next call."""
        self._unused.append(graph)


class _Graph:
    """The graph of a pass in the other process, which keeps it as long as this object lives."""

    def __init__(self, model: IsolatedModel, number: int) -> None:
        self.model, self.number = model, number

    def __del__(self) -> None:
        self.model.no_longer_needed(self.number)


class _Pass(torch.autograd.Function):
    """A pass whose graph, where one is recorded, stays in the other process."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, model: IsolatedModel, recorded: bool) -> Tensor:
        answer = model.call("forward", {"recorded": recorded}, {"x": x})
        logits = _tensor(answer, "logits").to(x.device)
        number = answer.content.get("graph")
        if isinstance(number, int):
            ctx.graph, ctx.shape, ctx.dtype = _Graph(model, number), x.shape, x.dtype
        else:
            ctx.mark_non_differentiable(logits)
        return logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        graph = ctx.graph
        answer = graph.model.call("backward", {"graph": graph.number}, {"gradient": gradient})
        of_input = _tensor(answer, "gradient")
        if of_input.shape != ctx.shape or of_input.dtype != ctx.dtype:
            raise RuntimeError("the gradient that the model returned is not of its input's shape")
        return of_input.to(gradient.device), None, None


def load_isolated(
    plugin: Plugin,
    model_name: str,
    weights: Weights,
    *,
    plugins: Iterable[Path] = (),
) -> IsolatedModel:
    """Return a foreign architecture with its trained weights, in a process of its own.

    plugins: folders whose code the process may run, besides those in use. Raises what
    loading.load_weights raises, and ForeignCodeError where the process ends.
    """
    who = f"model {model_name!r} from {plugin.origin}"
    more = (Path(folder).resolve() for folder in plugins)
    folders = list(dict.fromkeys([plugin.folder, *folders_in_use(), *more]))
    # A file of weights may be a link, as in the caches of hubs.
    file = (plugin.folder / weights.file).resolve()
    process = ChildProcess(who, limits=limits_in_use(), reads=[*folders, file])
    about: dict[str, Any] = {
        "plugin": str(plugin.folder),
        "origin": plugin.origin,
        "folders": [str(folder) for folder in folders],
        "weights": weights.model_dump(mode="json"),
    }
    # Files have a name in the process that has opened them, and in no other.
    if (data := opened(weights.dataset)) is not None:
        about |= {"input_shape": data.input_shape, "n_classes": data.n_classes}
    try:
        with reported(who):
            facts = process.call(f"{SERVICE}:load", about, times=_TO_LOAD).content
    except RegistryError as error:
        raise RegistryError(f"{who} is broken: {error}") from error
    return IsolatedModel(process, _checked_facts(facts))


def load_again(model: nn.Module) -> IsolatedModel | None:
    """Return a registered model of this process once more, in a process of its own.

    None where it is no registered model, or is not as it was loaded.
    """
    from robustbench_dyn.models.identity import registered_identity  # noqa: PLC0415

    identity = registered_identity(model)
    if identity is None:
        return None
    for plugin in find_plugins():
        weights = plugin.card.weights if plugin.card else ()
        for one in weights:
            if plugin.name == identity.name.partition("/")[0] and (
                one.sha256 == identity.weights_sha256
            ):
                return load_isolated(plugin, identity.name, one)
    return None


def count_parameters(model: nn.Module) -> int:
    """Return how many parameters a network has, wherever it is."""
    if isinstance(model, IsolatedModel):
        return int(model.facts["parameters"])
    return sum(parameter.numel() for parameter in model.parameters())


def _checked_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the process says of a network, once it is of the right types."""
    parameters, bound = facts.get("parameters"), facts.get("lipschitz_bound")
    surrogates, state = facts.get("surrogates"), facts.get("state_sha256")
    declared = facts.get("declared_bounds")
    if (
        type(parameters) is not int
        or not (bound is None or isinstance(bound, float))
        or not isinstance(surrogates, dict)
        or not isinstance(declared, list)
        or not re.fullmatch("[0-9a-f]{64}", str(state))
    ):
        raise ForeignCodeError("the process of a model describes it in a way that makes no sense")
    return {
        "parameters": parameters,
        "lipschitz_bound": bound,
        "declared_bounds": [str(name) for name in declared],
        "state_sha256": state,
        "surrogates": {str(name): _checked_facts(of) for name, of in surrogates.items()},
    }


def _tensor(answer: Message, name: str) -> Tensor:
    if name not in answer.tensors:
        raise RuntimeError(f"the process of the model answered without {name}")
    return answer.tensors[name]


def _digest_of_random_state() -> int:
    """Return a number that changes whenever torch's generator was seeded or has drawn."""
    state = torch.get_rng_state().numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(state, digest_size=7).digest(), "big")
