"""Commands that draw: plot flow, plot curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_dyn.cli.options import (
    DataDir,
    Model,
    NExamples,
    NormName,
    Plugins,
    StoreFile,
    TestSplit,
)


def plot_flow_(
    model: Model,
    to: Annotated[Path, typer.Option(help="The picture, .png or .svg.")],
    dataset: Annotated[str, typer.Option(help="moons or spirals.")] = "moons",
    n_examples: Annotated[int, typer.Option(help="How many points are drawn.")] = 60,
    plugins: Plugins = None,
) -> None:
    """Draw a flow in the plane: ways through the layers, regions, certified balls, attacks."""
    from robustbench_dyn.datasets import load_dataset  # noqa: PLC0415
    from robustbench_dyn.models.loading import load_model  # noqa: PLC0415
    from robustbench_dyn.reporting import plots  # noqa: PLC0415

    plots.check_plot_path(to)
    data = load_dataset(dataset, n_examples=n_examples)
    network = load_model(model, dataset=dataset, norm="L2", plugins=tuple(plugins or ()))
    plots.save(plots.plot_flow(network, data, title=model), to)
    typer.echo(f"written to {to}")


def plot_curves_(
    model: Annotated[list[str], typer.Option(help="A model; give it several times.")],
    to: Annotated[Path, typer.Option(help="The picture, .png or .svg.")],
    dataset: TestSplit = "fashion_mnist",
    norm: NormName = "L2",
    n_examples: NExamples = 100,
    store: StoreFile = Path("dynbench.sqlite"),
    plugins: Plugins = None,
    data_dir: DataDir = None,
) -> None:
    """Draw certified and empirical accuracy over eps, a bracket for each model."""
    from robustbench_dyn.cli.terminal import progress_display  # noqa: PLC0415
    from robustbench_dyn.datasets import load_dataset  # noqa: PLC0415
    from robustbench_dyn.evaluation.distances import evaluate_distances  # noqa: PLC0415
    from robustbench_dyn.models.loading import load_model  # noqa: PLC0415
    from robustbench_dyn.reporting import plots  # noqa: PLC0415
    from robustbench_dyn.threat_models import check_norm  # noqa: PLC0415

    check_norm(norm)
    plots.check_plot_path(to)
    data = load_dataset(dataset, n_examples=n_examples, data_dir=data_dir)
    found = {}
    for name in dict.fromkeys(model):
        network = load_model(name, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))  # type: ignore[arg-type]
        with progress_display(enabled=True) as progress:
            found[name] = evaluate_distances(network, data, norm, store=store, progress=progress)  # type: ignore[arg-type]
    plots.save(plots.plot_curves(found), to)
    typer.echo(f"written to {to}")
