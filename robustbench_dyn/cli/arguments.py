"""Arguments of an evaluation, checked before torch is imported: a wrong one is refused at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustbench_dyn.cli.options import DEFAULT_DATASET, DEFAULT_NORM
from robustbench_dyn.errors import InputError
from robustbench_dyn.threat_models import Norm, ThreatModel, parse_eps, parse_norm

# The default run ends in about a minute on two cores.
DEFAULT_N_EXAMPLES = 500
# A minimum-norm attack searches from every example, also from those that a certificate settles.
DEFAULT_N_OF_CURVES = 200
# Each example takes n0 + n passes, and more under attack.
DEFAULT_N_SMOOTHED = 100


class Defaults(NamedTuple):
    """What a model is evaluated on: a data set by name, a norm, and radii in raw input units."""

    dataset: str
    norm: Norm
    eps: list[float]


def resolve_defaults(
    model: str,
    dataset: str | None,
    norm: str | None,
    eps: Sequence[str],
    *,
    data_dir: Path | None = None,
) -> Defaults:
    """Return what is given, and the defaults in place of what is not.

    Raises InputError for a norm or an eps that is none, and for an unknown data set.
    """
    from robustbench_dyn.datasets import dataset_info
    from robustbench_dyn.models.sources import defaults_of

    radii = [*dict.fromkeys(parse_eps(text) for text in eps)]
    wanted = None if norm is None else parse_norm(norm)
    own = defaults_of(model, dataset=dataset, norm=wanted)
    info = dataset_info(dataset or own.dataset or DEFAULT_DATASET, data_dir=data_dir)
    chosen = wanted or own.norm or parse_norm(DEFAULT_NORM)
    if not radii:
        is_its_own = own.eps is not None and (info.name, chosen) == (own.dataset, own.norm)
        radii = [own.eps if is_its_own and own.eps is not None else info.eps_for(chosen)]
    return Defaults(dataset or info.name, chosen, radii)


class Target(NamedTuple):
    """What one model is evaluated on; n_examples: from the first one wanted on."""

    model: str
    dataset: str
    norm: Norm
    threat_models: list[ThreatModel]
    n_examples: int


def targets_of(
    models: Sequence[str],
    *,
    dataset: str | None,
    norm: str | None,
    eps: Sequence[str] = (),
    first: int = 0,
    n_examples: int | None,
    usual_n_examples: int,
    plugins: Sequence[Path],
    weights: Path | None = None,
    data_dir: Path | None = None,
) -> list[Target]:
    """Return a target for each model, in their order, each once.

    Raises InputError or RegistryError for a name, norm, eps or range of examples that cannot be,
    and for a model without weights for the data set.
    """
    if weights is not None:
        check_one_model(models, why="--weights fills one of them")
    return [
        _target(
            model,
            dataset=dataset,
            norm=norm,
            eps=eps,
            first=first,
            n_examples=n_examples,
            usual_n_examples=usual_n_examples,
            plugins=plugins,
            weights=weights,
            data_dir=data_dir,
        )
        for model in dict.fromkeys(models)
    ]


def _target(
    model: str,
    *,
    dataset: str | None,
    norm: str | None,
    eps: Sequence[str],
    first: int,
    n_examples: int | None,
    usual_n_examples: int,
    plugins: Sequence[Path],
    weights: Path | None,
    data_dir: Path | None,
) -> Target:
    from robustbench_dyn.datasets import dataset_info
    from robustbench_dyn.datasets.loading import example_range
    from robustbench_dyn.models.loading import check_model

    chosen = resolve_defaults(model, dataset, norm, eps, data_dir=data_dir)
    threat_models = [ThreatModel(chosen.norm, radius) for radius in chosen.eps]
    info = dataset_info(chosen.dataset, data_dir=data_dir)
    for threat_model in threat_models:
        threat_model.check_input_shape(info.input_shape)
    left = example_range(info, "test", first, n_examples)
    n = min(usual_n_examples, len(left)) if n_examples is None else len(left)
    check_model(model, dataset=info.name, norm=chosen.norm, plugins=tuple(plugins), weights=weights)
    return Target(model, chosen.dataset, chosen.norm, threat_models, n)


def check_methods(attacks: str | None, certifiers: str | None, targets: Sequence[Target]) -> None:
    """Raise InputError for attacks and certifiers that do not exist, or do not fit the targets.

    None: the command has no such option.
    """
    from robustbench_dyn.attacks import resolve_attacks
    from robustbench_dyn.certification.catalogue import check_norms, named_certifiers
    from robustbench_dyn.datasets import dataset_info

    for target in targets:
        if attacks is not None:
            resolve_attacks(attacks, target.norm, dataset_info(target.dataset).n_classes)
        if certifiers is not None:
            check_norms(named_certifiers(certifiers).certifiers, target.norm)


def check_store(path: Path) -> None:
    """Raise InputError, StoreError or OutputError where no store can be opened or made at path."""
    from robustbench_dyn.files import check_writable
    from robustbench_dyn.results.store import Store

    try:
        exists = path.exists()
    except (OSError, ValueError):  # what opens it will say why
        exists = True
    if not exists and path.parent.is_dir():
        check_writable(path)
    else:
        Store(path).close()


def check_one_model(models: Sequence[str], *, why: str) -> None:
    """Raise InputError where several models are given; why: a clause for the message."""
    if len(dict.fromkeys(models)) > 1:
        raise InputError(f"--model is given {len(models)} times, but {why}; run it once for each")
