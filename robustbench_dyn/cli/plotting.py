"""Commands that draw plots: plot flow, plot curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_dyn.cli.arguments import check_model, check_store, targets_of
from robustbench_dyn.cli.evaluating import DEFAULT_N_OF_CURVES
from robustbench_dyn.cli.options import (
    MODEL,
    OUTPUT,
    DataDir,
    Model,
    Models,
    NormName,
    Plugins,
    Quiet,
    StoreFile,
    TestSplit,
    Trust,
    n_examples_option,
)
from robustbench_dyn.cli.output import announce_files, print_result

PictureFile = Annotated[
    Path, typer.Option(metavar="FILE", help="Picture, .png or .svg.", rich_help_panel=OUTPUT)
]
# Radii at which plot flow runs certifiers. A finer grid gives radii closer to the decision
# boundary, where certifiers take longest.
_FLOW_RADII = 13


def plot_flow_(
    model: Model,
    to: PictureFile,
    dataset: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Data set in the plane: moons or spirals.", rich_help_panel=MODEL
        ),
    ] = "moons",
    n_examples: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Number of points; more of them hide each other.",
            rich_help_panel=MODEL,
        ),
    ] = 60,
    quiet: Quiet = False,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Draw a flow in the plane: trajectories, decision regions, certified balls, attacks."""
    del quiet, trust  # heeded while the options were read
    check_model(model, dataset, "L2", plugins or ())
    from robustbench_dyn.datasets import load_dataset
    from robustbench_dyn.evaluation.distances import evaluate_distances
    from robustbench_dyn.models.loading import load_model
    from robustbench_dyn.reporting import plots

    plots.check_plot_path(to)
    data = load_dataset(dataset, n_examples=n_examples)
    network = load_model(model, dataset=dataset, norm="L2", plugins=tuple(plugins or ()))
    plots.check_flow(network, data)
    evaluation = evaluate_distances(network, data, "L2", n_radii=_FLOW_RADII)
    plots.save(plots.plot_flow(network, data, evaluation, title=model), to)
    print_result(f"written to {to}")


def plot_curves_(
    model: Models,
    to: PictureFile,
    dataset: TestSplit = None,
    norm_name: NormName = None,
    n_examples: Annotated[
        int | None,
        n_examples_option(f"{DEFAULT_N_OF_CURVES}, since the attack starts from each"),
    ] = None,
    store: StoreFile = Path("dynbench.sqlite"),
    quiet: Quiet = False,
    plugins: Plugins = None,
    trust: Trust = False,
    data_dir: DataDir = None,
) -> None:
    """Draw certified and empirical accuracy over eps, one bracket per model."""
    del trust  # heeded while the options were read
    targets = targets_of(
        model,
        dataset=dataset,
        norm=norm_name,
        n_examples=n_examples,
        usual_n_examples=DEFAULT_N_OF_CURVES,
        plugins=plugins or (),
    )
    check_store(store)
    from robustbench_dyn.datasets import load_dataset
    from robustbench_dyn.evaluation.distances import evaluate_distances
    from robustbench_dyn.models.loading import load_model
    from robustbench_dyn.progress.display import progress_display
    from robustbench_dyn.reporting import plots

    plots.check_plot_path(to)
    # All of them first: a model that fails must not end the command after the work on others.
    networks = {
        target.model: load_model(
            target.model, dataset=target.dataset, norm=target.norm, plugins=tuple(plugins or ())
        )
        for target in targets
    }
    _, dataset_name, norm, _, n = targets[0]
    data = load_dataset(dataset_name, n_examples=n, data_dir=data_dir)
    evaluations = {}
    for name, network in networks.items():
        with progress_display(enabled=not quiet) as progress:
            evaluations[name] = evaluate_distances(
                network, data, norm, store=store, progress=progress
            )
    plots.save(plots.plot_curves(evaluations), to)
    print_result(f"written to {to}")
    announce_files(store)
