"""Commands that draw plots: plot flow, plot curves."""

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
    Trust,
    WeightsFile,
    parse_norm,
)
from robustbench_dyn.cli.output import print_result

# Radii at which plot flow runs certifiers. A finer grid gives radii closer to the decision
# boundary, where certifiers take longest.
_FLOW_RADII = 13


def plot_flow_(
    model: Model,
    to: Annotated[Path, typer.Option(help="File of the picture, .png or .svg.")],
    weights: WeightsFile = None,
    dataset: Annotated[
        str, typer.Option(help="Data set in the plane: moons or spirals.")
    ] = "moons",
    n_examples: Annotated[int, typer.Option(help="Number of points.")] = 60,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Draw a flow in the plane: trajectories, decision regions, certified balls, attacks."""
    del trust  # heeded while the options were read
    from robustbench_dyn.datasets import load_dataset
    from robustbench_dyn.evaluation.distances import evaluate_distances
    from robustbench_dyn.models.loading import load_model
    from robustbench_dyn.reporting import plots

    plots.check_plot_path(to)
    data = load_dataset(dataset, n_examples=n_examples)
    network = load_model(
        model, dataset=dataset, norm="L2", plugins=tuple(plugins or ()), weights=weights
    )
    plots.check_flow(network, data)
    evaluation = evaluate_distances(network, data, "L2", n_radii=_FLOW_RADII)
    plots.save(plots.plot_flow(network, data, evaluation, title=model), to)
    print_result(f"written to {to}")


def plot_curves_(
    model: Annotated[list[str], typer.Option(help="A model; may be repeated.")],
    to: Annotated[Path, typer.Option(help="File of the picture, .png or .svg.")],
    dataset: TestSplit = "fashion_mnist",
    norm_name: NormName = "L2",
    n_examples: NExamples = 100,
    store: StoreFile = Path("dynbench.sqlite"),
    plugins: Plugins = None,
    trust: Trust = False,
    data_dir: DataDir = None,
) -> None:
    """Draw certified and empirical accuracy over eps, one bracket per model."""
    del trust  # heeded while the options were read
    from robustbench_dyn.cli.terminal import progress_display
    from robustbench_dyn.datasets import load_dataset
    from robustbench_dyn.evaluation.distances import evaluate_distances
    from robustbench_dyn.models.loading import load_model
    from robustbench_dyn.reporting import plots

    norm = parse_norm(norm_name)
    plots.check_plot_path(to)
    data = load_dataset(dataset, n_examples=n_examples, data_dir=data_dir)
    # All of them first: a wrong name must not end the command after the work on the others.
    networks = {
        name: load_model(name, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))
        for name in dict.fromkeys(model)
    }
    evaluations = {}
    for name, network in networks.items():
        with progress_display(enabled=True) as progress:
            evaluations[name] = evaluate_distances(
                network, data, norm, store=store, progress=progress
            )
    plots.save(plots.plot_curves(evaluations), to)
    print_result(f"written to {to}")
