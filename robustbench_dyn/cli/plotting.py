"""Commands that draw: plot flow, curves, examples, radii, leaderboard."""

from __future__ import annotations

from collections.abc import Iterator
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
from robustbench_dyn.errors import InputError
from robustbench_dyn.results.verdicts import Status
from robustbench_dyn.threat_models import ThreatModel, parse_eps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robustbench_dyn.drawing.leaderboard import Bracket
    from robustbench_dyn.reporting.aggregation import Line
    from robustbench_dyn.reporting.published import Entry

# Radii at which plot flow runs certifiers. A finer grid gives radii closer to the decision
# boundary, where certifiers take longest.
_FLOW_RADII = 13
Picture = Annotated[Path, typer.Option(help="File of the picture, .png, .svg or .pdf.")]
Seed = Annotated[int, seed_option("the attacks")]


def plot_flow_(
    model: Model,
    to: Picture,
    dataset: Annotated[
        str, typer.Option(help="Data set in the plane: moons or spirals.")
    ] = "moons",
    n_examples: Annotated[int, typer.Option(help="Number of points.")] = 60,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Draw a flow in the plane: trajectories, decision regions, certified balls, attacks."""
    del trust  # heeded while the options were read
    with _picture(to) as figures:
        from robustbench_dyn.datasets import load_dataset
        from robustbench_dyn.drawing.flow import check_flow, plot_flow
        from robustbench_dyn.evaluation.distances import evaluate_distances
        from robustbench_dyn.models.loading import load_model

        data = load_dataset(dataset, n_examples=n_examples)
        network = load_model(model, dataset=dataset, norm="L2", plugins=tuple(plugins or ()))
        check_flow(network, data)
        evaluation = evaluate_distances(network, data, "L2", n_radii=_FLOW_RADII)
        figures.append(plot_flow(network, data, evaluation, title=model))


def plot_curves_(
    model: Annotated[list[str], typer.Option(help="A model; may be repeated.")],
    to: Picture,
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
    with _picture(to) as figures:
        from robustbench_dyn.cli.terminal import progress_display
        from robustbench_dyn.datasets import load_dataset
        from robustbench_dyn.drawing.curves import plot_curves
        from robustbench_dyn.evaluation.distances import evaluate_distances
        from robustbench_dyn.models.loading import load_model

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
                    network,
                    data,
                    norm,
                    certifiers=certifiers,
                    seed=seed,
                    store=store,
                    progress=progress,
                )
        figures.append(plot_curves(evaluations, bands=bands))


def plot_radii_(
    model: Model,
    to: Picture,
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
    with _picture(to) as figures:
        from robustbench_dyn.cli.terminal import progress_display
        from robustbench_dyn.datasets import load_dataset
        from robustbench_dyn.drawing.radii import plot_radii
        from robustbench_dyn.evaluation.distances import evaluate_distances
        from robustbench_dyn.models.loading import load_model

        data = load_dataset(dataset, n_examples=n_examples, data_dir=data_dir)
        network = load_model(model, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))
        with progress_display(enabled=True) as progress:
            evaluation = evaluate_distances(
                network,
                data,
                norm,
                certifiers=certifiers,
                seed=seed,
                store=store,
                progress=progress,
            )
        figures.append(plot_radii(evaluation))


def plot_examples_(
    model: Model,
    to: Picture,
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
    with _picture(to) as figures:
        from robustbench_dyn.cli.terminal import progress_display
        from robustbench_dyn.datasets import load_dataset
        from robustbench_dyn.drawing.examples import check_images, plot_examples
        from robustbench_dyn.evaluation.api import evaluate
        from robustbench_dyn.models.loading import load_model

        data = load_dataset(dataset, first=first, n_examples=n_examples, data_dir=data_dir)
        check_images(data)
        network = load_model(model, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))
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


def plot_leaderboard_(
    to: Picture,
    tables: Annotated[
        Path | None,
        typer.Option(help="A CSV, or a folder of tables; by default those that ship."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Only tables of this data set.")] = None,
    norm_name: Annotated[
        str | None, typer.Option("--norm", help="Only tables of this norm: L2, Linf or L1.")
    ] = None,
    eps: Annotated[
        str | None, typer.Option(help="Only tables of this radius, as 0.5 or 8/255.")
    ] = None,
) -> None:
    """Draw the brackets of all models of published tables, the best on top."""
    norm = parse_norm(norm_name) if norm_name is not None else None
    radius = parse_eps(eps) if eps is not None else None
    with _picture(to) as figures:
        from robustbench_dyn.drawing.leaderboard import Table, plot_leaderboard
        from robustbench_dyn.reporting.aggregation import lines

        chosen = [
            Table(table.title, [_bracket(line) for line in table.lines])
            for table in lines(_entries(tables))
            if dataset in (None, table.dataset)
            and norm in (None, table.norm)
            and radius in (None, table.eps)
        ]
        if not chosen:
            parts = (dataset, norm_name, f"eps {eps}" if eps is not None else None)
            asked = ", ".join(part for part in parts if part is not None)
            raise InputError(f"there is no table of {asked}; see: dynbench leaderboard --published")
        figures.append(plot_leaderboard(chosen))


def _entries(place: Path | None) -> list[Entry]:
    from robustbench_dyn.cli.options import require_tables
    from robustbench_dyn.reporting.published import read_folder, read_table, shipped_entries

    if place is None:
        return shipped_entries()
    found = read_table(place) if place.suffix == ".csv" else read_folder(require_tables(place))
    if not found:
        raise InputError(f"{place} holds no row of a table; write one with: dynbench leaderboard")
    return found


def _bracket(line: Line) -> Bracket:
    from robustbench_dyn.drawing.leaderboard import Bracket

    low, high = line.interval
    return Bracket(
        label=line.label,
        certified=line.certified.mean,
        empirical=None if line.empirical is None else line.empirical.mean,
        clean=line.clean.mean,
        low=low,
        high=high,
        ranked=line.certified_rank is not None,
    )


@contextmanager
def _picture(to: Path) -> Iterator[list[Figure]]:
    """Check the path of a picture; write there what the body leaves in the list."""
    from robustbench_dyn.drawing.figures import check_plot_path, save

    check_plot_path(to)
    figures: list[Figure] = []
    yield figures
    for figure in figures:
        save(figure, to)
    print_result(f"written to {to}")
