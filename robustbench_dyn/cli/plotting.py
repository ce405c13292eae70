"""Commands that evaluate models and draw what comes of it: plot flow, curves, examples, radii."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_dyn.cli.arguments import (
    DEFAULT_N_EXAMPLES,
    DEFAULT_N_OF_CURVES,
    Target,
    check_methods,
    check_store,
    targets_of,
)
from robustbench_dyn.cli.loading import load_network, read_data
from robustbench_dyn.cli.options import (
    MODEL,
    OUTPUT,
    THREAT,
    Attacks,
    Certifiers,
    DataDir,
    First,
    Model,
    Models,
    NormName,
    Plugins,
    Quiet,
    StoreFile,
    TestSplit,
    Trust,
    WeightsFile,
    n_examples_option,
    seed_option,
)
from robustbench_dyn.cli.output import announce_files, print_result
from robustbench_dyn.progress.loading import say
from robustbench_dyn.results.verdicts import Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from robustbench_dyn.datasets import Dataset
    from robustbench_dyn.evaluation.result import CurveEvaluation

# Radii at which plot flow runs certifiers. A finer grid gives radii closer to the decision
# boundary, where certifiers take longest.
_FLOW_RADII = 13
# More examples hardly change a picture, and a minimum-norm attack searches from each.
_N_DRAWN = 100
PictureFile = Annotated[
    Path,
    typer.Option(
        metavar="FILE", help="File of the picture, .png, .svg or .pdf.", rich_help_panel=OUTPUT
    ),
]
Seed = Annotated[int, seed_option("the attacks")]
N = Annotated[int | None, n_examples_option(str(_N_DRAWN))]


def plot_flow_(
    model: Model,
    to: PictureFile,
    weights: WeightsFile = None,
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
    certifiers: Certifiers = "auto",
    quiet: Quiet = False,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Draw a flow in the plane: trajectories, decision regions, certified balls, attacks."""
    del trust  # heeded while the options were read
    (target,) = targets_of(
        [model],
        dataset=dataset,
        norm="L2",
        n_examples=n_examples,
        usual_n_examples=n_examples,
        plugins=plugins or (),
        weights=weights,
    )
    check_methods(None, certifiers, [target])
    with picture(to) as figures:
        say("loading torch")
        from robustbench_dyn.drawing.flow import check_flow, plot_flow
        from robustbench_dyn.evaluation.distances import evaluate_distances

        data = read_data(target)
        network = load_network(target, plugins, weights)
        check_flow(network, data)
        evaluation = evaluate_distances(
            network,
            data,
            "L2",
            n_radii=_FLOW_RADII,
            certifiers=certifiers,
            progress=False if quiet else None,
        )
        figures.append(plot_flow(network, data, evaluation, title=model))


def plot_curves_(
    model: Models,
    to: PictureFile,
    dataset: TestSplit = None,
    norm_name: NormName = None,
    n_examples: Annotated[
        int | None,
        n_examples_option(f"{DEFAULT_N_OF_CURVES}, since the attack starts from each"),
    ] = None,
    certifiers: Certifiers = "auto",
    bands: Annotated[
        bool,
        typer.Option(
            "--bands",
            help="Fill the brackets of models that share a panel.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    seed: Seed = 0,
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
        data_dir=data_dir,
    )
    check_methods(None, certifiers, targets)
    check_store(store)
    with picture(to, store) as figures:
        say("loading torch")
        from robustbench_dyn.drawing.curves import plot_curves

        # All of them first: a broken one must not end the command after the work on the others.
        networks = [load_network(target, plugins) for target in targets]
        evaluations = {
            target.model: _distances(
                network,
                read_data(target, data_dir=data_dir),
                target,
                certifiers=certifiers,
                seed=seed,
                store=store,
                quiet=quiet,
            )
            for target, network in zip(targets, networks, strict=True)
        }
        figures.append(plot_curves(evaluations, bands=bands))


def plot_radii_(
    model: Model,
    to: PictureFile,
    weights: WeightsFile = None,
    dataset: TestSplit = None,
    norm_name: NormName = None,
    n_examples: N = None,
    certifiers: Certifiers = "auto",
    seed: Seed = 0,
    store: StoreFile = Path("dynbench.sqlite"),
    quiet: Quiet = False,
    plugins: Plugins = None,
    trust: Trust = False,
    data_dir: DataDir = None,
) -> None:
    """Draw how large certified radii and distances of adversarial examples are."""
    del trust  # heeded while the options were read
    (target,) = targets_of(
        [model],
        dataset=dataset,
        norm=norm_name,
        n_examples=n_examples,
        usual_n_examples=_N_DRAWN,
        plugins=plugins or (),
        weights=weights,
        data_dir=data_dir,
    )
    check_methods(None, certifiers, [target])
    check_store(store)
    with picture(to, store) as figures:
        say("loading torch")
        from robustbench_dyn.drawing.radii import plot_radii

        evaluation = _distances(
            load_network(target, plugins, weights),
            read_data(target, data_dir=data_dir),
            target,
            certifiers=certifiers,
            seed=seed,
            store=store,
            quiet=quiet,
        )
        figures.append(plot_radii(evaluation))


def plot_examples_(
    model: Model,
    to: PictureFile,
    weights: WeightsFile = None,
    dataset: TestSplit = None,
    norm_name: NormName = None,
    eps: Annotated[
        str | None,
        typer.Option(
            metavar="EPS",
            help="Radius, as 0.5 or 8/255.",
            show_default="that of run",
            rich_help_panel=THREAT,
        ),
    ] = None,
    first: First = 0,
    n_examples: Annotated[int | None, n_examples_option(str(DEFAULT_N_EXAMPLES))] = None,
    status: Annotated[
        list[Status] | None,
        typer.Option(
            help="Draw examples of this status; may be repeated.",
            show_default="broken",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=500, help="Draw at most so many.", rich_help_panel=OUTPUT
        ),
    ] = 12,
    attacks: Attacks = "standard",
    certifiers: Certifiers = "auto",
    seed: Seed = 0,
    store: StoreFile = Path("dynbench.sqlite"),
    quiet: Quiet = False,
    plugins: Plugins = None,
    trust: Trust = False,
    data_dir: DataDir = None,
) -> None:
    """Draw images, their perturbations and their adversarial examples, or certified images.

    With the options and the store of an earlier run, nothing is computed again.
    """
    del trust  # heeded while the options were read
    (target,) = targets_of(
        [model],
        dataset=dataset,
        norm=norm_name,
        eps=[] if eps is None else [eps],
        first=first,
        n_examples=n_examples,
        usual_n_examples=DEFAULT_N_EXAMPLES,
        plugins=plugins or (),
        weights=weights,
        data_dir=data_dir,
    )
    check_methods(attacks, certifiers, [target])
    check_store(store)
    with picture(to, store) as figures:
        say("loading torch")
        from robustbench_dyn.drawing.examples import check_images, plot_examples
        from robustbench_dyn.evaluation.api import evaluate
        from robustbench_dyn.progress.display import progress_display

        data = read_data(target, first=first, data_dir=data_dir)
        check_images(data)
        network = load_network(target, plugins, weights)
        with progress_display(enabled=not quiet) as progress:
            evaluation = evaluate(
                network,
                data,
                target.threat_models[0],
                attacks=attacks,
                certifiers=certifiers,
                seed=seed,
                store=store,
                progress=progress,
            )
        statuses = list(dict.fromkeys(status or [Status.BROKEN]))
        figures.append(plot_examples(evaluation, statuses=statuses, count=count))


def _distances(
    network: nn.Module,
    data: Dataset,
    target: Target,
    *,
    certifiers: str,
    seed: int,
    store: Path,
    quiet: bool,
) -> CurveEvaluation:
    from robustbench_dyn.evaluation.distances import evaluate_distances
    from robustbench_dyn.progress.display import progress_display

    with progress_display(enabled=not quiet) as progress:
        return evaluate_distances(
            network,
            data,
            target.norm,
            certifiers=certifiers,
            seed=seed,
            store=store,
            progress=progress,
        )


@contextmanager
def picture(to: Path, store: Path | None = None) -> Iterator[list[Figure]]:
    """Check the path of a picture; write there what the body leaves in the list."""
    from robustbench_dyn.drawing.figures import check_plot_path, save

    check_plot_path(to)
    figures: list[Figure] = []
    yield figures
    for figure in figures:
        save(figure, to)
    print_result(f"written to {to}")
    if store is not None:
        announce_files(store)
