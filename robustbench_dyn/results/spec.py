"""The specification of an evaluation: all that its verdicts depend on; its hash is their key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from robustbench_dyn.results.flags import NOT_A_FUNCTION, RANDOM
from robustbench_dyn.threat_models import Norm

Setting = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """An attack or a certifier that verdicts depend on.

    label: its name in tables. version: of its search or proof. settings: the values of its fields.
    library: the name and version of the library that it runs, if it is another's. code_sha256: of
    its code, if that comes from outside of this package, and of operations that plugins add.
    gradient_free: an attack that uses no gradient of the model. only_on_signs: an attack that is
    run on signs of masked gradients alone. sampled: an attack that is run on a sample of the
    examples that it reaches, see results.sampling.
    """

    name: str
    label: str
    version: int = 1
    settings: Mapping[str, Setting] = field(default_factory=dict)
    library: str = ""
    code_sha256: str = ""
    gradient_free: bool = False
    only_on_signs: bool = False
    sampled: bool = False


@dataclass(frozen=True, kw_only=True)
class SmoothingSpec:
    """How a smoothed classifier is made and certified: see smoothing.statistics.Smoothing."""

    sigma: float
    n0: int
    n: int
    alpha: float


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """All that a verdict depends on, except its threat model's eps and its example.

    model, family, plugin_version: names, for tables. weights_sha256: of the weights file, or of the
    state_dict where there is no file. state_sha256: of the state_dict. code_sha256: of the plugin's
    code, or of the logits on fixed inputs. smoothing: of a smoothed classifier. attacks: in their
    order. attacks_if_random: those that replace them where the outputs are random. certifiers:
    those that are ready for the model, the cheapest first. rounding: "measured" or "strict".
    batch_size: a number, "auto", or None where verdicts do not depend on it. certify_seconds: that
    the certifiers may take together, or None where no budget was given.
    """

    model: str
    family: str = ""
    plugin_version: str = ""
    weights_sha256: str = ""
    state_sha256: str = ""
    code_sha256: str = ""
    dataset: str
    data_sha256: str = ""
    norm: Norm
    smoothing: SmoothingSpec | None = None
    attacks: tuple[StageSpec, ...] = ()
    attacks_if_random: tuple[StageSpec, ...] = ()
    certifiers: tuple[StageSpec, ...] = ()
    rounding: str = "measured"
    precision: str = ""
    seed: int = 0
    batch_size: int | str | None = None
    audit_share: float = 0.0
    device: str = "cpu"
    torch_version: str = ""
    package_version: str = ""
    certify_seconds: float | None = None

    def key(self) -> str:
        """Return the SHA-256 over all fields: verdicts of equal keys are equal."""
        content = asdict(self)
        # Keys of stores from before there was a budget, and samples, stay.
        if self.certify_seconds is None:
            del content["certify_seconds"]
        for stage in (*content["attacks"], *content["attacks_if_random"], *content["certifiers"]):
            if not stage["sampled"]:
                del stage["sampled"]
        return _hash(content)

    def votes_key(self) -> str:
        """Return the SHA-256 over what the votes of a smoothed classifier depend on.

        Votes do not depend on alpha, norm, attacks and the share that is audited.
        """
        if self.smoothing is None:
            return ""
        (votes,) = self.certifiers
        smoothing = self.smoothing
        return _hash(
            {
                **{name: getattr(self, name) for name in _OF_VOTES},
                "sigma": smoothing.sigma,
                "n0": smoothing.n0,
                "n": smoothing.n,
                "votes_version": votes.version,
            }
        )

    def voids_certificates(self, flags: Collection[str]) -> bool:
        """Say whether no certificate counts of a model with these flags.

        Votes of a random network are those of a random classifier, which may be smoothed.
        """
        allowed = {RANDOM} if self.smoothing else set[str]()
        return bool(NOT_A_FUNCTION.intersection(flags) - allowed)

    def attacks_run(self, flags: Collection[str] = (), *, on_signs: bool) -> list[StageSpec]:
        """Return the attacks of a model with these flags, with or without those run on signs."""
        attacks = self.attacks_if_random if RANDOM in flags else self.attacks
        return [attack for attack in attacks if on_signs or not attack.only_on_signs]


_OF_VOTES = (
    "weights_sha256",
    "state_sha256",
    "code_sha256",
    "data_sha256",
    "seed",
    "precision",
    "device",
    "torch_version",
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the store keeps of an evaluation beside its verdicts.

    spec: what the verdicts depend on. parameters, lipschitz_bound: facts about the model, for
    tables; None where there is no bound. declared_bounds: the classes of the model whose own bounds
    certificates rest on. not_applicable: the certifiers of `auto` that cannot treat the model, with
    the reason. suite: the name of the suite of attacks, or "custom" where attacks were named one by
    one; empty in records of earlier versions. training_record: the SHA-256 of the recipe that the
    weights were trained by; empty for unregistered models and weights without a recipe.
    probabilistic: the labels of certifiers whose proofs may be wrong.
    """

    spec: EvaluationSpec
    parameters: int | None = None
    lipschitz_bound: float | None = None
    declared_bounds: tuple[str, ...] = ()
    not_applicable: Mapping[str, str] = field(default_factory=dict)
    suite: str = ""
    training_record: str = ""
    probabilistic: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the record as JSON; from_json reads it back."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Record:
        """Read a record; raises KeyError, TypeError or ValueError where it is none."""
        content = json.loads(text)
        spec = _known(EvaluationSpec, content["spec"])
        stages = {
            name: tuple(_stage_of(stage) for stage in spec.get(name, ()))
            for name in ("attacks", "attacks_if_random", "certifiers")
        }
        smoothing = spec.get("smoothing")
        spec = spec | stages | {"smoothing": SmoothingSpec(**smoothing) if smoothing else None}
        facts = _known(Record, content)
        names = ("declared_bounds", "probabilistic")
        lists = {name: tuple(facts.get(name, ())) for name in names}
        return Record(**facts | lists | {"spec": EvaluationSpec(**spec)})

    def is_certain(self, certifier: str) -> bool:
        """Say whether a certifier, by its label, proves what cannot be wrong."""
        return self.spec.smoothing is None and certifier not in self.probabilistic

    def columns(self) -> dict[str, Any]:
        """Return what tables tell of the evaluation, by column."""
        spec = self.spec
        names = (
            "model",
            "family",
            "dataset",
            "norm",
            "weights_sha256",
            "plugin_version",
            "seed",
            "device",
            "torch_version",
            "audit_share",
            "data_sha256",
        )
        return {
            **{name: getattr(spec, name) for name in names},
            "parameters": self.parameters,
            "lipschitz_bound": self.lipschitz_bound,
            "declared_bounds": "+".join(self.declared_bounds),
            "suite": self.suite or ("custom" if spec.attacks else "none"),
            "training_record": self.training_record,
            "attacks": [a.label for a in spec.attacks if not a.only_on_signs],
            "certifiers": [certifier.label for certifier in spec.certifiers],
        }


def _stage_of(content: Mapping[str, Any]) -> StageSpec:
    """Return the stage of a record; raises KeyError, TypeError or ValueError where it is none."""
    stage = StageSpec(**_known(StageSpec, content))
    for name in ("name", "label"):
        if not isinstance(value := getattr(stage, name), str):
            raise TypeError(f"the {name} of a stage is a text, not {value!r:.100}")
    return stage


def _known(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that are fields: later versions may write more."""
    names = {part.name for part in fields(kind)}
    return {name: value for name, value in content.items() if name in names}


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
