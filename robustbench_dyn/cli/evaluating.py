"""Commands that evaluate one model: run, smooth, curve."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robustbench_dyn import __version__
from robustbench_dyn.cli.arguments import (
    check_methods,
    check_one_model,
    check_store,
    targets_of,
)
from robustbench_dyn.cli.options import (
    METHODS,
    OUTPUT,
    THREAT,
    AsJson,
    Attacks,
    BatchSize,
    Certifiers,
    CertifySeconds,
    DataDir,
    Device,
    EpsOption,
    First,
    Limited,
    Models,
    MoreEps,
    NormName,
    Plugins,
    Quiet,
    StoreFile,
    StrictRounding,
    TestSplit,
    Trust,
    WeightsFile,
    check_device,
    check_export,
    n_examples_option,
    parse_batch_size,
    seed_option,
)
from robustbench_dyn.cli.output import announce_files, print_json
from robustbench_dyn.progress.loading import say
from robustbench_dyn.threat_models import parse_eps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd

    from robustbench_dyn.evaluation.result import Evaluation

SMOOTHING = "Smoothing"
# The default run ends in about a minute on two cores.
DEFAULT_N_EXAMPLES = 500
# A minimum-norm attack searches from every example, also from those that a certificate settles.
DEFAULT_N_OF_CURVES = 200
# Each example takes n0 + n passes, and more under attack.
DEFAULT_N_SMOOTHED = 100


def run(
    model: Models,
    weights: WeightsFile = None,
    dataset: TestSplit = None,
    norm_name: NormName = None,
    eps: EpsOption = None,
    more_eps: MoreEps = None,
    first: First = 0,
    n_examples: Annotated[int | None, n_examples_option(str(DEFAULT_N_EXAMPLES))] = None,
    attacks: Attacks = "standard",
    certifiers: Certifiers = "auto",
    certify_seconds: CertifySeconds = None,
    seed: Annotated[int, seed_option("the attacks and of the audit")] = 0,
    batch_size: BatchSize = "250",
    device: Device = "cpu",
    store: StoreFile = Path("dynbench.sqlite"),
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the verdicts of all examples (.csv or .parquet).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    strict_rounding: StrictRounding = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Print the cost of each stage.", rich_help_panel=OUTPUT),
    ] = False,
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
) -> None:
    """Attack and certify a model: each test example ends certified, broken or undecided."""
    del trust, limits  # heeded while the options were read
    # Checked before the heavy imports, so that invalid options fail at once.
    batch = parse_batch_size(batch_size)
    targets = targets_of(
        model,
        dataset=dataset,
        norm=norm_name,
        eps=[*(eps or []), *(more_eps or [])],
        first=first,
        n_examples=n_examples,
        usual_n_examples=DEFAULT_N_EXAMPLES,
        plugins=plugins or (),
        weights=weights,
        data_dir=data_dir,
    )
    check_methods(attacks, certifiers, targets)
    check_export(export)
    check_store(store)
    say("loading torch")
    from robustbench_dyn.cli.documents import attempts_of, counts_of
    from robustbench_dyn.cli.terminal import bracket_table, cost_table
    from robustbench_dyn.datasets import load_dataset
    from robustbench_dyn.evaluation.api import evaluate_grid
    from robustbench_dyn.models.loading import load_model
    from robustbench_dyn.models.precision import PRECISION
    from robustbench_dyn.progress.display import progress_display
    from robustbench_dyn.reporting.export import write_tables
    from robustbench_dyn.results.costs import peak_memory_mb

    where = check_device(device)
    by_model: dict[str, list[Evaluation]] = {}
    for target in targets:
        say(f"reading {target.dataset}")
        data = load_dataset(
            target.dataset, first=first, n_examples=target.n_examples, data_dir=data_dir
        )
        say(f"loading {target.model}")
        network = load_model(
            target.model,
            dataset=target.dataset,
            norm=target.norm,
            plugins=tuple(plugins or ()),
            weights=weights,
        )
        with progress_display(enabled=not (as_json or quiet)) as progress:
            evaluations = evaluate_grid(
                network,
                data,
                target.threat_models,
                seed=seed,
                batch_size=batch,
                attacks=attacks,
                certifiers=certifiers,
                certify_seconds=certify_seconds,
                strict_rounding=strict_rounding,
                device=where,
                store=store,
                progress=progress,
            )
        by_model[target.model] = evaluations
        if not as_json:
            bracket_table(evaluations)
            if profile:
                cost_table(evaluations, peak_memory_mb())
    if export is not None:
        write_tables(_examples(by_model), export)
    if not as_json:
        announce_files(store, export)
    else:
        about = {
            "version": __version__,
            "store": str(store),
            "export": None if export is None else str(export),
            "command": sys.argv[1:],
            "stages": [
                {"model": name, **asdict(cost)}
                for name, evaluations in by_model.items()
                for evaluation in evaluations
                for cost in evaluation.costs
            ],
            "counts": _of_each(counts_of, by_model),
            "attempts": _of_each(attempts_of, by_model),
            "not_applicable": _of_one_or_all(
                {name: evaluations[0].not_applicable for name, evaluations in by_model.items()}
            ),
            "precision": PRECISION,
            "rounding": "strict" if strict_rounding else "measured",
            "peak_memory_mb": peak_memory_mb(),
        }
        print_json({"rows": _rows(by_model), "run": about})


def _examples(by_model: dict[str, list[Evaluation]]) -> Iterator[pd.DataFrame]:
    """Yield the verdicts of each evaluation, with its model where there are several."""
    for name, evaluations in by_model.items():
        for evaluation in evaluations:
            # No column of a file holds the arrays of x_adv.
            table = evaluation.examples.drop(columns="x_adv")
            table = table.assign(eps=evaluation.threat_model.eps)
            if len(by_model) > 1:
                table.insert(0, "model", name)
            yield table


def _rows(by_model: dict[str, list[Evaluation]]) -> list[dict[str, Any]]:
    """Return the rows of the leaderboard, of one model after the other."""
    return [evaluation.summary for evaluations in by_model.values() for evaluation in evaluations]


def _of_each(
    describe: Callable[[Sequence[Evaluation]], list[dict[str, Any]]],
    by_model: dict[str, list[Evaluation]],
) -> list[dict[str, Any]]:
    """Return descriptions of the evaluations, each with its model."""
    return [
        {"model": name, **document}
        for name, evaluations in by_model.items()
        for document in describe(evaluations)
    ]


def _of_one_or_all(by_model: dict[str, Any]) -> Any:
    """Return what is told of the only model, or of each of several by its name."""
    return next(iter(by_model.values())) if len(by_model) == 1 else by_model


def smooth(
    model: Models,
    sigma: Annotated[
        float,
        typer.Option(
            metavar="SIGMA",
            help="Standard deviation of the noise, in input units.",
            rich_help_panel=SMOOTHING,
        ),
    ],
    n0: Annotated[
        int,
        typer.Option(
            metavar="N", help="Noisy copies that select the class.", rich_help_panel=SMOOTHING
        ),
    ] = 100,
    n: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Noisy copies that estimate its probability.",
            rich_help_panel=SMOOTHING,
        ),
    ] = 1000,
    alpha: Annotated[
        float,
        typer.Option(
            metavar="ALPHA",
            help="Failure probability of a certificate.",
            rich_help_panel=SMOOTHING,
        ),
    ] = 0.001,
    weights: WeightsFile = None,
    dataset: TestSplit = None,
    norm_name: NormName = None,
    eps: EpsOption = None,
    more_eps: MoreEps = None,
    first: First = 0,
    n_examples: Annotated[
        int | None,
        n_examples_option(f"{DEFAULT_N_SMOOTHED}, since each takes n0 + n passes"),
    ] = None,
    attacks: Annotated[
        Literal["eot-pgd", "none"],
        typer.Option(help="PGD in expectation over the noise, or none.", rich_help_panel=METHODS),
    ] = "eot-pgd",
    seed: Annotated[int, seed_option("the noise and of the audit")] = 0,
    batch_size: BatchSize = "250",
    device: Device = "cpu",
    store: StoreFile = Path("dynbench.sqlite"),
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the certificates of all examples (.tsv), of one model.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
) -> None:
    """Certify and attack the smoothed classifier of a model (randomised smoothing)."""
    del trust, limits  # heeded while the options were read
    say("loading torch")
    from robustbench_dyn.smoothing.statistics import Smoothing

    # Checked before the heavy imports, so that invalid options fail at once.
    smoothing, batch = Smoothing(sigma, n0=n0, n=n, alpha=alpha), parse_batch_size(batch_size)
    targets = targets_of(
        model,
        dataset=dataset,
        norm=norm_name,
        eps=[*(eps or []), *(more_eps or [])],
        first=first,
        n_examples=n_examples,
        usual_n_examples=DEFAULT_N_SMOOTHED,
        plugins=plugins or (),
        weights=weights,
        data_dir=data_dir,
    )
    if export is not None:
        check_one_model(model, why="the format of --export has no column for it")
        check_export(export, (".tsv",))
    check_store(store)
    say("loading torch")
    from robustbench_dyn.cli.documents import attempts_of, counts_of
    from robustbench_dyn.cli.terminal import bracket_table
    from robustbench_dyn.datasets import load_dataset
    from robustbench_dyn.models.loading import load_model
    from robustbench_dyn.progress.display import progress_display
    from robustbench_dyn.reporting.export import write_certificates
    from robustbench_dyn.smoothing.api import evaluate_smoothed

    where = check_device(device)
    by_model: dict[str, list[Evaluation]] = {}
    for target in targets:
        say(f"reading {target.dataset}")
        data = load_dataset(
            target.dataset, first=first, n_examples=target.n_examples, data_dir=data_dir
        )
        say(f"loading {target.model}")
        network = load_model(
            target.model,
            dataset=target.dataset,
            norm=target.norm,
            plugins=tuple(plugins or ()),
            weights=weights,
        )
        with progress_display(enabled=not (as_json or quiet)) as progress:
            smoothed = evaluate_smoothed(
                network,
                data,
                target.threat_models,
                smoothing,
                seed=seed,
                batch_size=batch,
                attacked=attacks != "none",
                device=where,
                store=store,
                progress=progress,
            )
        by_model[target.model] = [*smoothed.evaluations]
        if export is not None:
            write_certificates(smoothed.certificates, export)
        if not as_json:
            bracket_table(smoothed.evaluations)
    if not as_json:
        announce_files(store, export)
    else:
        about = {
            "version": __version__,
            "store": str(store),
            "export": None if export is None else str(export),
            "command": sys.argv[1:],
            "smoothing": asdict(smoothing),
            "counts": _of_each(counts_of, by_model),
            "attempts": _of_each(attempts_of, by_model),
        }
        print_json({"rows": _rows(by_model), "run": about})


def curve(
    model: Models,
    weights: WeightsFile = None,
    dataset: TestSplit = None,
    norm_name: NormName = None,
    eps: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EPS",
            help="A radius, as 0.5 or 8/255; may be repeated, or be followed by more.",
            show_default="33 of them, from 0 to the largest distance",
            rich_help_panel=THREAT,
        ),
    ] = None,
    more_eps: MoreEps = None,
    n_examples: Annotated[
        int | None,
        n_examples_option(f"{DEFAULT_N_OF_CURVES}, since the attack starts from each"),
    ] = None,
    certifiers: Certifiers = "auto",
    certify_seconds: CertifySeconds = None,
    seed: Annotated[int, seed_option("the attack")] = 0,
    device: Device = "cpu",
    store: StoreFile = Path("dynbench.sqlite"),
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the curve (.csv or .parquet).", rich_help_panel=OUTPUT
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
) -> None:
    """Bracket the robust accuracy over eps, with a minimum-norm attack and certifiers."""
    del trust, limits  # heeded while the options were read
    texts = [*(eps or []), *(more_eps or [])]
    radii = [parse_eps(text) for text in texts] or None
    targets = targets_of(
        model,
        dataset=dataset,
        norm=norm_name,
        eps=texts,
        n_examples=n_examples,
        usual_n_examples=DEFAULT_N_OF_CURVES,
        plugins=plugins or (),
        weights=weights,
        data_dir=data_dir,
    )
    check_methods(None, certifiers, targets)
    check_export(export)
    check_store(store)
    say("loading torch")
    from robustbench_dyn.cli.documents import curve_document
    from robustbench_dyn.cli.terminal import curve_table
    from robustbench_dyn.datasets import load_dataset
    from robustbench_dyn.evaluation.distances import evaluate_distances
    from robustbench_dyn.models.loading import load_model
    from robustbench_dyn.progress.display import progress_display
    from robustbench_dyn.reporting.curves import curve as curve_of
    from robustbench_dyn.reporting.export import write_tables

    where = check_device(device)
    tables: dict[str, pd.DataFrame] = {}
    documents = list[dict[str, Any]]()
    for target in targets:
        say(f"reading {target.dataset}")
        data = load_dataset(target.dataset, n_examples=target.n_examples, data_dir=data_dir)
        say(f"loading {target.model}")
        network = load_model(
            target.model,
            dataset=target.dataset,
            norm=target.norm,
            plugins=tuple(plugins or ()),
            weights=weights,
        )
        with progress_display(enabled=not (as_json or quiet)) as progress:
            evaluation = evaluate_distances(
                network,
                data,
                target.norm,
                radii=radii,
                seed=seed,
                certifiers=certifiers,
                certify_seconds=certify_seconds,
                device=where,
                store=store,
                progress=progress,
            )
        points = curve_of(evaluation, radii)
        tables[target.model] = points
        documents.append(curve_document(evaluation, points) | {"store": str(store)})
        if not as_json:
            curve_table(evaluation, points)
    if export is not None:
        several = len(tables) > 1
        write_tables(
            (table.assign(model=name) if several else table for name, table in tables.items()),
            export,
        )
    if not as_json:
        announce_files(store, export)
    else:
        print_json(documents[0] if len(documents) == 1 else {"curves": documents})
