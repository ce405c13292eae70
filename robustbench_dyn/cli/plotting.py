"""Commands that evaluate models and draw what comes of it: plot flow, curves, examples, radii."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_dyn.cli.options import (
    Attacks,
    Certifiers,
    DataDir,
    First,
    Model,
    NExamples,
    NormName,
    Plugins,
    StoreFile,
    TestSplit,
    Trust,
    parse_norm,
    seed_option,
)
from robustbench_dyn.cli.output import print_result
from robustbench_dyn.results.verdicts import Status
from robustbench_dyn.threat_models import Norm, ThreatModel, parse_eps

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from robustbench_dyn.datasets import Dataset
    from robustbench_dyn.evaluation.result import CurveEvaluation

# Radii at which plot flow runs certifiers. A finer grid gives radii closer to the decision
# boundary, where certifiers take longest.
_FLOW_RADII = 13
PictureFile = Annotated[Path, typer.Option(help="File of the picture, .png, .svg or .pdf.")]
Seed = Annotated[int, seed_option("the attacks")]


def plot_flow_(
    model: Model,
    to: PictureFile,
    dataset: Annotated[
        str, typer.Option(help="Data set in the plane: moons or spirals.")
    ] = "moons",
    n_examples: Annotated[int, typer.Option(help="Number of points.")] = 60,
    certifiers: Certifiers = "auto",
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Draw a flow in the plane: trajectories, decision regions, certified balls, attacks."""
    del trust  # heeded while the options were read
    with picture(to) as figures:
        from robustbench_dyn.drawing.flow import check_flow, plot_flow
        from robustbench_dyn.evaluation.distances import evaluate_distances

        data = _data(dataset, n_examples)
        (network,) = _networks([model], data, "L2", plugins)
        check_flow(network, data)
        evaluation = evaluate_distances(
            network, data, "L2", n_radii=_FLOW_RADII, certifiers=certifiers
        )
        figures.append(plot_flow(network, data, evaluation, title=model))


def plot_curves_(
    model: Annotated[list[str], typer.Option(help="A model; may be repeated.")],
    to: PictureFile,
    dataset: TestSplit = "fashion_mnist",
    norm_name: NormName = "L2",
    n_examples: NExamples = 100,
    certifiers: Certifiers = "auto",
    bands: Annotated[
        bool, typer.Option("--bands", help="Fill the brackets of models that share a panel.")
    ] = False,
    seed: Seed = 0,
    store: StoreFile = Path("dynbench.sqlite"),
    plugins: Plugins = None,
    trust: Trust = False,
    data_dir: DataDir = None,
) -> None:
    """Draw certified and empirical accuracy over eps, one bracket per model."""
    del trust  # heeded while the options were read
    norm = parse_norm(norm_name)
    with picture(to) as figures:
        from robustbench_dyn.drawing.curves import plot_curves

        data, names = _data(dataset, n_examples, data_dir=data_dir), list(dict.fromkeys(model))
        # All of them first: a wrong name must not end the command after the work on the others.
        networks = _networks(names, data, norm, plugins)
        evaluations = {
            name: _distances(network, data, norm, certifiers=certifiers, seed=seed, store=store)
            for name, network in zip(names, networks, strict=True)
        }
        figures.append(plot_curves(evaluations, bands=bands))


def plot_radii_(
    model: Model,
    to: PictureFile,
    dataset: TestSplit = "fashion_mnist",
    norm_name: NormName = "L2",
    n_examples: NExamples = 100,
    certifiers: Certifiers = "auto",
    seed: Seed = 0,
    store: StoreFile = Path("dynbench.sqlite"),
    plugins: Plugins = None,
    trust: Trust = False,
    data_dir: DataDir = None,
) -> None:
    """Draw how large certified radii and distances of adversarial examples are."""
    del trust  # heeded while the options were read
    norm = parse_norm(norm_name)
    with picture(to) as figures:
        from robustbench_dyn.drawing.radii import plot_radii

        data = _data(dataset, n_examples, data_dir=data_dir)
        (network,) = _networks([model], data, norm, plugins)
        evaluation = _distances(network, data, norm, certifiers=certifiers, seed=seed, store=store)
        figures.append(plot_radii(evaluation))


def plot_examples_(
    model: Model,
    to: PictureFile,
    dataset: TestSplit = "fashion_mnist",
    norm_name: NormName = "L2",
    eps: Annotated[
        str | None, typer.Option(help="Radius, as 0.5 or 8/255; by default that of run.")
    ] = None,
    first: First = 0,
    n_examples: NExamples = 100,
    status: Annotated[
        list[Status] | None,
        typer.Option(help="Draw examples of this status; may be repeated. By default: broken."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=500, help="Draw at most so many.")] = 12,
    attacks: Attacks = "standard",
    certifiers: Certifiers = "auto",
    seed: Seed = 0,
    store: StoreFile = Path("dynbench.sqlite"),
    plugins: Plugins = None,
    trust: Trust = False,
    data_dir: DataDir = None,
) -> None:
    """Draw images, their perturbations and their adversarial examples, or certified images.

    With the options and the store of an earlier run, nothing is computed again.
    """
    del trust  # heeded while the options were read
    from robustbench_dyn.cli.evaluating import DEFAULT_EPS

    norm = parse_norm(norm_name)
    threat_model = ThreatModel(norm, parse_eps(eps) if eps is not None else DEFAULT_EPS[norm])
    with picture(to) as figures:
        from robustbench_dyn.cli.terminal import progress_display
        from robustbench_dyn.drawing.examples import check_images, plot_examples
        from robustbench_dyn.evaluation.api import evaluate

        data = _data(dataset, n_examples, first=first, data_dir=data_dir)
        check_images(data)
        (network,) = _networks([model], data, norm, plugins)
        with progress_display(enabled=True) as progress:
            evaluation = evaluate(
                network,
                data,
                threat_model,
                attacks=attacks,
                certifiers=certifiers,
                seed=seed,
                store=store,
                progress=progress,
            )
        statuses = list(dict.fromkeys(status or [Status.BROKEN]))
        figures.append(plot_examples(evaluation, statuses=statuses, count=count))


def _data(
    dataset: str, n_examples: int, *, first: int = 0, data_dir: Path | None = None
) -> Dataset:
    from robustbench_dyn.datasets import load_dataset

    return load_dataset(dataset, first=first, n_examples=n_examples, data_dir=data_dir)


def _networks(
    models: Sequence[str], data: Dataset, norm: Norm, plugins: Sequence[Path] | None
) -> list[nn.Module]:
    from robustbench_dyn.models.loading import load_model

    folders = tuple(plugins or ())
    return [load_model(name, dataset=data.name, norm=norm, plugins=folders) for name in models]


def _distances(
    network: nn.Module, data: Dataset, norm: Norm, *, certifiers: str, seed: int, store: Path
) -> CurveEvaluation:
    from robustbench_dyn.cli.terminal import progress_display
    from robustbench_dyn.evaluation.distances import evaluate_distances

    with progress_display(enabled=True) as progress:
        return evaluate_distances(
            network,
            data,
            norm,
            certifiers=certifiers,
            seed=seed,
            store=store,
            progress=progress,
        )


@contextmanager
def picture(to: Path) -> Iterator[list[Figure]]:
    """Check the path of a picture; write there what the body leaves in the list."""
    from robustbench_dyn.drawing.figures import check_plot_path, save

    check_plot_path(to)
    figures: list[Figure] = []
    yield figures
    for figure in figures:
        save(figure, to)
    print_result(f"written to {to}")
