"""Tables of docs/extending.md: the templates of plugins, and the rules of contracts.

`python benchmarks/tables.py` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from robustbench_dyn.attacks import contract as attacks
from robustbench_dyn.certification.contract import certifier_controls, operation_controls
from robustbench_dyn.cli.scaffolding import NewKind, plugin_files, render
from robustbench_dyn.datasets import contract as datasets
from robustbench_dyn.evaluation.contract import RULES
from robustbench_dyn.plugins.contract import Control, Rule

# Those in the docs are the modules of tests/plugins/example.
NAMES: dict[NewKind, str] = {
    "architecture": "residual",
    "attack": "ascent",
    "certifier": "bound",
    "dataset": "diagonal",
    "operation": "squash",
}


def template(kind: NewKind) -> str:
    """Return what `dynbench new NAME --kind KIND` writes, as a code block."""
    return f"```python\n{render(NAMES[kind], kind).rstrip()}\n```"


def template_file(path: str) -> str:
    """Return another file that `dynbench new NAME` writes for an architecture, as a code block."""
    return f"```yaml\n{plugin_files(NAMES['architecture'], 'architecture')[path].rstrip()}\n```"


def of_model_rules() -> str:
    """Return a table of the rules for networks, each with how to mend one that breaks it."""
    lines = ["| rule | what is expected | how to mend it |", "| --- | --- | --- |"]
    lines += [f"| {rule.name} | {rule.expected} | {rule.remedy} |" for rule in RULES]
    return "\n".join(lines)


def of_rules(rules: Iterable[Rule[Any]]) -> str:
    """Return a table of rules, each with the faults of its broken counterparts."""
    return table((rule.name, [fault for fault, _ in rule.broken]) for rule in rules)


def of_controls(controls: Iterable[Control]) -> str:
    """Return a table of rules, each with the faults of its broken counterparts."""
    faults = dict[str, list[str]]()
    for control in controls:
        faults.setdefault(control.rule, []).append(control.fault)
    return table(faults.items())


def table(rows: Iterable[tuple[str, list[str]]]) -> str:
    """Return a markdown table of rules and faults."""
    lines = ["| rule | the test must catch one that |", "| --- | --- |"]
    lines += [f"| {rule} | {', '.join(faults)} |" for rule, faults in rows]
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "template_architecture": partial(template, "architecture"),
    "template_attack": partial(template, "attack"),
    "template_certifier": partial(template, "certifier"),
    "template_dataset": partial(template, "dataset"),
    "template_operation": partial(template, "operation"),
    "template_card": partial(template_file, "card.yaml"),
    "template_recipe": partial(template_file, "recipes/moons.yaml"),
    "contract_models": of_model_rules,
    "contract_attacks": lambda: of_rules(attacks.rules("L2")),
    "contract_certifiers": lambda: of_controls(certifier_controls()),
    "contract_datasets": lambda: of_rules(datasets.rules()),
    "contract_operations": lambda: of_controls(operation_controls()),
}
