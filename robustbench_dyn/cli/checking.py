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
    AsJson,
    DataDir,
    Limited,
    Plugins,
    Quiet,
    Trust,
)
from robustbench_dyn.cli.output import print_error, print_json
from robustbench_dyn.cli.supervised import run_supervised
from robustbench_dyn.errors import InputError, RegistryError
from robustbench_dyn.files import check_writable, replacing
from robustbench_dyn.names import file_name, inside

if TYPE_CHECKING:
    from robustbench_dyn.cli.checklist import Checklist
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
    as_json: AsJson = False,
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Test the contract of a model, attack, certifier, data set or operation.

    Of a model: a list of rules, from the number of classes to certificates under attack, each with
    what was found and how to mend it. Of the others: each rule, with a negative control, a
    counterpart that breaks the rule on purpose.
    """
    del plugins, trust, limits, quiet  # heeded while the options were read
    from robustbench_dyn.cli.checklist import Checklist
    from robustbench_dyn.plugins import limits_in_use

    foreign = _untrusted(name)
    if foreign:
        run_supervised(foreign, limits_in_use(), seconds=_LONGEST)
    if keep is not None:
        check_writable(keep / "counterexample.npy")
    options = ArchitectureOptions(dataset, n_examples, keep)
    checklists = list[Checklist]()
    for subject in _subjects(name):
        if subject.kind == "model":
            checklists.append(_check_model(subject, options))
        else:
            checklists.append(_check_contract(subject, data_dir))
        if not as_json:
            checklists[-1].print()
    broken = [f"{each.kind} {each.name}: {rule}" for each in checklists for rule in each.broken]
    if as_json:
        print_json(
            {
                "name": name,
                "holds": not broken,
                "subjects": [checklist.document() for checklist in checklists],
            }
        )
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
    from robustbench_dyn.plugins import load_plugins, plugin_folders, read_plugin

    if not name or not Path(name).is_dir():
        return None
    folders = plugin_folders(Path(name).resolve())
    if not folders:
        raise InputError(f"{name} is no plugin: it has no card.yaml; first: dynbench new NAME")
    if len(folders) > 1:
        found = ", ".join(folder.name for folder in folders)
        raise InputError(f"{name} holds several plugins: {found}; check one at a time")
    load_plugins(name)
    return read_plugin(folders[0], f"the folder {folders[0]}")


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


def _check_model(subject: Subject, options: ArchitectureOptions) -> Checklist:
    """Test an architecture at its weights; keep the inputs at which a claim does not hold."""
    from robustbench_dyn.cli.checklist import Checklist, testing
    from robustbench_dyn.evaluation.contract import ModelFinding, check_model, subject_of
    from robustbench_dyn.models.architectures import split_name

    checklist = Checklist(subject.kind, subject.name)
    network = subject_of(
        subject.thing,
        dataset=options.dataset,
        variant=split_name(subject.name)[1],
        n_examples=options.n_examples,
    )
    if isinstance(network, ModelFinding):
        checklist.add(network)
        return checklist
    checklist.tested = network.described()
    broken = list[ModelFinding]()
    with testing(checklist) as tell:
        for finding in check_model(network):
            checklist.add(finding)
            tell(finding.rule)
            if finding.holds is False and finding.witness is not None:
                broken.append(finding)
    if options.keep is not None:
        import numpy as np

        for k, finding in enumerate(broken):
            name = file_name(subject.thing.name, finding.rule, str(k), suffix=".npy")
            with replacing(inside(options.keep, name)) as partial:
                np.save(partial, finding.witness.numpy())  # type: ignore[union-attr]
    return checklist


def _check_contract(subject: Subject, data_dir: Path | None) -> Checklist:
    """Test what a plugin or this package brings by the contract of its kind."""
    from robustbench_dyn.cli.checklist import Checklist, testing

    checklist = Checklist(subject.kind, subject.name)
    with testing(checklist) as tell:
        for part, finding in _findings(subject, data_dir):
            checklist.add_rule(part, finding)
            tell(finding.rule)
    return checklist


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
