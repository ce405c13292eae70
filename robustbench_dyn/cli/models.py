"""Commands about models: list, show, check, train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from robustbench_dyn.cli.options import (
    DataDir,
    Plugins,
    check_device,
    print_error,
)
from robustbench_dyn.errors import InputError


def list_(
    what: Annotated[
        Literal["models", "datasets", "attacks", "certifiers"], typer.Argument(help="What to list.")
    ],
    plugins: Plugins = None,
) -> None:
    """List models, data sets, attacks or certifiers."""
    from robustbench_dyn.cli.terminal import plain_table

    if what == "models":
        plain_table(("model", "family", "weights for", "origin"), _model_rows())
    elif what == "datasets":
        from robustbench_dyn.datasets import dataset_info, dataset_names

        infos = [dataset_info(name) for name in dataset_names()]
        rows = [
            (i.name, "x".join(map(str, i.input_shape)), str(i.n_classes),
             ", ".join(f"{split}: {i.sizes[split]} {i.availability[split]}" for split in i.sizes))
            for i in infos
        ]  # fmt: skip
        plain_table(("dataset", "input", "classes", "splits"), rows)
    elif what == "attacks":
        from robustbench_dyn.attacks import ATTACKS, SUITES

        kinds = {name: ATTACKS.get(name) for name in ATTACKS}
        rows = [
            (name, kind.library, ", ".join(sorted(kind.norms)), kind.description)
            for name, kind in kinds.items()
        ]
        rows += [(name, "suite", "", SUITES.get(name).description) for name in SUITES]
        plain_table(("attack", "library", "norms", "description"), rows)
    else:
        from robustbench_dyn.certification.catalogue import certifier_names

        smoothing = ("smoothing", "votes on noisy copies; of the smoothed classifier: "
                                  "dynbench smooth")  # fmt: skip
        plain_table(("certifier", "proves by"), [*certifier_names().items(), smoothing])


def show(
    model: Annotated[str, typer.Argument(help="The model's name, see: dynbench list models.")],
    plugins: Plugins = None,
) -> None:
    """Show a model's card."""
    from robustbench_dyn.models.architectures import full_name, split_name
    from robustbench_dyn.models.loading import discover

    architecture = discover().get(split_name(model)[0])
    card = architecture.card
    typer.echo(f"{card.name} {card.version} ({card.family}), from {architecture.origin}")
    typer.echo(card.summary)
    for title, values in (("properties", card.properties), ("sources", card.sources)):
        if values:
            typer.echo(f"{title}: {', '.join(values)}")
    for weights in card.weights:
        options = ", ".join(f"{key}={value}" for key, value in weights.options.items())
        trained_for = f"{weights.dataset}" + (f", {weights.norm}" if weights.norm else "")
        name = full_name(card.name, weights.variant)
        seconds = weights.training_seconds
        trained_in = "" if seconds is None else f"; {seconds:g} s of training"
        typer.echo(
            f"{name} for {trained_for}: {weights.file}; {options}; {weights.recipe}{trained_in}"
        )


def check(
    model: Annotated[str, typer.Argument(help="NAME, NAME/VARIANT, or a plugin's folder.")],
    dataset: Annotated[str | None, typer.Option(help="At the weights for this data set.")] = None,
    n_examples: Annotated[int, typer.Option(help="How many examples start the search.")] = 4,
    keep: Annotated[
        Path | None, typer.Option(help="A folder for the counterexamples, as .npy.")
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Test what a model claims: each property, on data, random and searched points, in float64."""
    from robustbench_dyn.cli.terminal import findings_display
    from robustbench_dyn.models.architectures import split_name
    from robustbench_dyn.models.loading import discover
    from robustbench_dyn.plugins import load_plugins, read_plugin
    from robustbench_dyn.properties.architectures import check_architecture

    if Path(model).is_dir():
        folder = Path(model).resolve()
        plugin = read_plugin(folder, f"the folder {folder}")
        name, variant = plugin.name, ""
        load_plugins(folder)
    else:
        name, variant = split_name(model)
    architecture = discover().get(name)
    with findings_display() as show_finding:
        findings = []
        for finding in check_architecture(
            architecture, dataset=dataset, variant=variant, n_examples=n_examples
        ):
            findings.append(finding)
            show_finding(finding)
    broken = [finding for finding in findings if not finding.holds]
    if keep is not None and broken:
        import numpy as np

        keep.mkdir(parents=True, exist_ok=True)
        for k, finding in enumerate(broken):
            if finding.witness is not None:
                np.save(keep / f"{name}-{finding.claim}-{k}.npy", finding.witness.numpy())
    if broken:
        names = ", ".join(sorted({finding.claim for finding in broken}))
        print_error(f"{model} does not keep what it claims: {names}")
        raise typer.Exit(1)


def train(
    model: Annotated[str, typer.Option(help="NAME or NAME/VARIANT to train.")],
    dataset: Annotated[str, typer.Option(help="The data set's training split.")] = "fashion_mnist",
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe; by default the plugin's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the weights go (.safetensors).")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    n_examples: Annotated[int | None, typer.Option(help="Train on the first N only.")] = None,
    plugins: Plugins = None,
    data_dir: DataDir = None,
) -> None:
    """Train a model by its recipe; a killed training goes on where it stopped."""
    from robustbench_dyn.cli.terminal import training_display
    from robustbench_dyn.models.architectures import split_name
    from robustbench_dyn.models.loading import discover
    from robustbench_dyn.training import loop as training
    from robustbench_dyn.training import recipes

    name, variant = split_name(model)
    architecture = discover().get(name)
    path = recipe or recipes.find_recipe(architecture, dataset, variant)
    content = recipes.read_recipe(path)
    if content.dataset != dataset:
        raise InputError(f"the recipe {path} is for dataset {content.dataset!r}, not {dataset!r}")
    target = out or Path("trained") / f"{model.replace('/', '-')}-{dataset}.safetensors"
    with training_display() as progress:
        trained = training.train(
            content, architecture, target, data_dir=data_dir, device=str(check_device(device)),
            n_examples=n_examples, progress=progress,
        )  # fmt: skip
    import yaml

    typer.echo(
        f"trained in {trained.seconds:.0f} s of processor time: {trained.path}; "
        "its entry for card.yaml:"
    )
    entry = training.card_entry(content, trained, f"recipes/{path.name}")
    typer.echo(yaml.safe_dump({"weights": [entry]}, sort_keys=False).rstrip())


def _model_rows() -> list[tuple[str, ...]]:
    from robustbench_dyn.models.architectures import full_name
    from robustbench_dyn.plugins import find_plugins

    rows = list[tuple[str, ...]]()
    for plugin in sorted(find_plugins(), key=lambda plugin: plugin.name):
        if not plugin.provides("architecture"):
            continue
        if plugin.problem or plugin.card is None:
            rows.append((plugin.name, "broken", plugin.problem, plugin.origin))
        else:
            trained = {full_name(w.dataset, w.variant) for w in plugin.card.weights}
            rows.append(
                (plugin.name, plugin.card.family, ", ".join(sorted(trained)) or "–", plugin.origin)
            )
    return rows
