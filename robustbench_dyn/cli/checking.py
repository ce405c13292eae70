"""The command check: the contract of whatever has a name, or of all that a plugin brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from robustbench_dyn.cli import completion
from robustbench_dyn.cli.options import (
    MODEL,
    OUTPUT,
    DataDir,
    Limited,
    Plugins,
    Trust,
)
from robustbench_dyn.cli.output import print_error
from robustbench_dyn.cli.supervised import run_supervised
from robustbench_dyn.errors import InputError, RegistryError
from robustbench_dyn.files import check_writable, replacing
from robustbench_dyn.names import file_name, inside

if TYPE_CHECKING:
    from robustbench_dyn.plugins import Kind, Plugin, Registry
    from robustbench_dyn.plugins.contract import Finding


# Contracts of the shipped things take seconds to minutes.
_LONGEST = 3600.0


class Subject(NamedTuple):
    """Something with a contract; kind: as in card.yaml, but for one thing."""

    kind: str
    name: str
    thing: Any


class ArchitectureOptions(NamedTuple):
    """At which weights an architecture is tested, and where its counterexamples go."""

    dataset: str | None
    n_examples: int
    keep: Path | None


def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|DIR",
            help="A name of any kind, or a plugin's folder.",
            autocompletion=completion.things,
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Test a model at its weights for this data set.",
            rich_help_panel=MODEL,
            autocompletion=completion.datasets,
        ),
    ] = None,
    n_examples: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Search for points that refute a property of a model from N examples; each "
            "takes thousands of passes.",
            rich_help_panel=MODEL,
        ),
    ] = 4,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for a model's counterexamples, as .npy files.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
) -> None:
    """Test the contract of a model, attack, certifier, data set or operation.

    Of a model: each property that it claims, on data, random and searched points, in float64. Of
    the others: each rule, with a negative control, a counterpart that breaks the rule on purpose.
    """
    del plugins, trust, limits  # heeded while the options were read
    from robustbench_dyn.plugins import limits_in_use

    foreign = _untrusted(name)
    if foreign:
        run_supervised(foreign, limits_in_use(), seconds=_LONGEST)
    if keep is not None:
        check_writable(keep / "counterexample.npy")
    options = ArchitectureOptions(dataset, n_examples, keep)
    broken = list[str]()
    for subject in _subjects(name):
        if subject.kind == "model":
            failed = _check_model(subject, options)
        else:
            failed = _check_contract(subject, data_dir)
        broken += [f"{subject.kind} {subject.name}: {rule}" for rule in failed]
    if broken:
        print_error(f"{name} does not keep its contract: {'; '.join(broken)}")
        raise typer.Exit(1)


def _untrusted(name: str) -> str:
    """Return where foreign code comes from that a check of this name may run; or nothing."""
    from robustbench_dyn.plugins import BUILT_IN, find_plugins, is_trusted

    plugin = _plugin(name)
    if plugin is not None:
        return "" if is_trusted(plugin) else plugin.origin
    for registry in _registries().values():
        if name in registry and registry.entry(name).origin == BUILT_IN:
            return ""
    foreign = [found for found in find_plugins() if not is_trusted(found)]
    # Without its code, it is not known what attacks and the like a plugin brings.
    named = [found for found in foreign if found.name == name.partition("/")[0]]
    shipped = {found.name for found in find_plugins() if is_trusted(found)}
    known = name.partition("/")[0] in shipped
    return next((found.origin for found in named or ([] if known else foreign)), "")


def _subjects(name: str) -> Iterator[Subject]:
    """Yield all that has this name, or all that the plugin in this folder brings."""
    plugin = _plugin(name)
    if plugin is None:
        yield from _named(name)
        return
    if plugin.card is None or plugin.problem:
        raise RegistryError(f"the plugin in {name} is broken: {plugin.problem}")
    for kind in plugin.card.provides:
        if kind == "architecture":
            yield from _named(plugin.name, kinds=("model",))
            continue
        registry = _registries()[kind]
        for known, entry in registry.entries().items():
            if entry.origin == plugin.origin:
                yield Subject(registry.kind, known, registry.get(known))


def _plugin(name: str) -> Plugin | None:
    """Load and return the plugin in a folder; None where name is no folder."""
    from robustbench_dyn.plugins import load_plugins, read_plugin

    if not Path(name).is_dir():
        return None
    if not (Path(name) / "card.yaml").is_file():
        raise InputError(f"{name} is no plugin: it has no card.yaml; first: dynbench new NAME")
    load_plugins(name)
    folder = Path(name).resolve()
    return read_plugin(folder, f"the folder {folder}")


def _registries() -> dict[Kind, Registry[Any]]:
    from robustbench_dyn.attacks import ATTACKS
    from robustbench_dyn.certification.catalogue import CERTIFIERS
    from robustbench_dyn.certification.network.operations import OPERATIONS
    from robustbench_dyn.datasets import DATASETS

    return {
        "attacks": ATTACKS,
        "certifiers": CERTIFIERS,
        "datasets": DATASETS,
        "operations": OPERATIONS,
    }


def _named(name: str, kinds: tuple[str, ...] | None = None) -> Iterator[Subject]:
    """Yield what has this name; raises InputError where nothing has."""
    from robustbench_dyn.models.architectures import split_name
    from robustbench_dyn.models.loading import discover
    from robustbench_dyn.plugins import unknown

    models, known = discover(), set[str]()
    found = False
    for registry in (models, *_registries().values()):
        plain = split_name(name)[0] if registry is models else name
        known |= set(registry)
        if plain in registry and (kinds is None or registry.kind in kinds):
            found = True
            yield Subject(registry.kind, name, registry.get(plain))
    if not found:
        what = "model, attack, certifier, data set or operation"
        raise InputError(unknown(what, name, sorted(known), see="dynbench list"))


def _check_model(subject: Subject, options: ArchitectureOptions) -> list[str]:
    """Print the findings of an architecture's properties; return the broken ones."""
    from robustbench_dyn.cli.terminal import findings_display
    from robustbench_dyn.models.architectures import split_name
    from robustbench_dyn.properties.architectures import check_architecture

    with findings_display() as show:
        findings = []
        for finding in check_architecture(
            subject.thing,
            dataset=options.dataset,
            variant=split_name(subject.name)[1],
            n_examples=options.n_examples,
        ):
            findings.append(finding)
            show(finding)
    broken = [finding for finding in findings if not finding.holds]
    if options.keep is not None and broken:
        import numpy as np

        for k, finding in enumerate(broken):
            if finding.witness is not None:
                name = file_name(subject.thing.name, finding.claim, str(k), suffix=".npy")
                with replacing(inside(options.keep, name)) as partial:
                    np.save(partial, finding.witness.numpy())
    return sorted({finding.claim for finding in broken})


def _check_contract(subject: Subject, data_dir: Path | None) -> list[str]:
    """Print the findings of a contract; return the broken rules."""
    from robustbench_dyn.cli.terminal import contract_display

    with contract_display(f"{subject.kind} {subject.name}") as show:
        broken = list[str]()
        for part, finding in _findings(subject, data_dir):
            show(part, finding)
            if finding.holds is False:
                broken.append(finding.rule)
    return list(dict.fromkeys(broken))


def _findings(subject: Subject, data_dir: Path | None) -> Iterator[tuple[str, Finding]]:
    """Yield the findings of a contract, each with the norm or other part that it is about."""
    checks: dict[str, Callable[[], Iterator[tuple[str, Finding]]]] = {
        "attack": lambda: _of_attack(subject.thing),
        "certifier": lambda: _of_certifier(subject.thing),
        "data set": lambda: _of_dataset(subject.thing, data_dir),
        "operation": lambda: _of_operation(subject.name, subject.thing),
    }
    yield from checks[subject.kind]()


def _of_attack(kind: Any) -> Iterator[tuple[str, Finding]]:
    from robustbench_dyn.attacks.contract import check_attack

    for norm in sorted(kind.norms):
        for finding in check_attack(kind(), norm):
            yield norm, finding


def _of_certifier(kind: Any) -> Iterator[tuple[str, Finding]]:
    from robustbench_dyn.certification.contract import certifier_controls, check_certifier
    from robustbench_dyn.plugins.contract import with_controls

    for finding in with_controls(check_certifier(kind()), certifier_controls()):
        yield "", finding


def _of_operation(name: str, handler: Any) -> Iterator[tuple[str, Finding]]:
    from robustbench_dyn.certification.contract import check_operation, operation_controls
    from robustbench_dyn.plugins.contract import with_controls

    example = getattr(handler, "example", None)
    for finding in with_controls(check_operation(name, example), operation_controls()):
        yield "", finding


def _of_dataset(info: Any, data_dir: Path | None) -> Iterator[tuple[str, Finding]]:
    from robustbench_dyn.datasets.contract import check_dataset

    for finding in check_dataset(info, data_dir=data_dir):
        yield "", finding
