"""Commands that evaluate one model: run, smooth, curve."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from robustbench_dyn import __version__
from robustbench_dyn.cli.options import (
    AsJson,
    Attacks,
    Certifiers,
    DataDir,
    Device,
    First,
    Limited,
    Model,
    NExamples,
    NormName,
    Plugins,
    StoreFile,
    TestSplit,
    Trust,
    check_device,
    check_export,
    parse_batch_size,
    parse_norm,
    seed_option,
)
from robustbench_dyn.cli.output import print_json, print_result
from robustbench_dyn.threat_models import Norm, ThreatModel, parse_eps

# The default run ends in about a minute on two cores.
DEFAULT_N_EXAMPLES = 500
DEFAULT_EPS = {"L2": 0.5, "Linf": 8 / 255, "L1": 2.0}

EpsOption = Annotated[
    list[str] | None, typer.Option(help="One or more radii, as 0.5 or 8/255; may be repeated.")
]
MoreEps = Annotated[list[str] | None, typer.Argument(hidden=True)]


def run(
    model: Model,
    dataset: TestSplit = "fashion_mnist",
    norm_name: NormName = "L2",
    eps: EpsOption = None,
    more_eps: MoreEps = None,
    first: First = 0,
    n_examples: NExamples = DEFAULT_N_EXAMPLES,
    attacks: Attacks = "standard",
    certifiers: Certifiers = "auto",
    seed: Annotated[int, seed_option("the attacks and of the audit")] = 0,
    batch_size: Annotated[str, typer.Option(help="Examples per batch, or auto.")] = "250",
    device: Device = "cpu",
    store: StoreFile = Path("dynbench.sqlite"),
    export: Annotated[
        Path | None, typer.Option(help="Write the verdicts of all examples (.csv or .parquet).")
    ] = None,
    strict_rounding: Annotated[
        bool,
        typer.Option(
            "--strict-rounding",
            help="Subtract the worst-case rounding error of the network from its margins.",
        ),
    ] = False,
    as_json: AsJson = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print the cost of each stage.")
    ] = False,
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
) -> None:
    """Attack and certify a model: each test example ends certified, broken or undecided."""
    del trust, limits  # heeded while the options were read
    # Checked before the heavy imports, so that invalid options fail at once.
    norm, batch = parse_norm(norm_name), parse_batch_size(batch_size)
    threat_models = _threat_models(norm, [*(eps or []), *(more_eps or [])])
    from robustbench_dyn.cli.terminal import bracket_table, cost_table, progress_display
    from robustbench_dyn.datasets import load_dataset
    from robustbench_dyn.evaluation.api import evaluate_grid
    from robustbench_dyn.models.loading import load_model
    from robustbench_dyn.models.precision import PRECISION
    from robustbench_dyn.reporting.export import write_tables
    from robustbench_dyn.results.costs import peak_memory_mb

    check_export(export)
    data = load_dataset(dataset, first=first, n_examples=n_examples, data_dir=data_dir)
    network = load_model(model, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))
    with progress_display(enabled=not as_json) as progress:
        evaluations = evaluate_grid(
            network,
            data,
            threat_models,
            seed=seed,
            batch_size=batch,
            attacks=attacks,
            certifiers=certifiers,
            strict_rounding=strict_rounding,
            device=check_device(device),
            store=store,
            progress=progress,
        )
    if export is not None:
        # No column of a file holds the arrays of x_adv.
        tables = (
            e.examples.drop(columns="x_adv").assign(eps=e.threat_model.eps) for e in evaluations
        )
        write_tables(tables, export)
    if as_json:
        rows = [evaluation.summary for evaluation in evaluations]
        about = {
            "version": __version__,
            "store": str(store),
            "command": sys.argv[1:],
            "stages": [asdict(cost) for e in evaluations for cost in e.costs],
            "not_applicable": evaluations[0].not_applicable,
            "precision": PRECISION,
            "rounding": "strict" if strict_rounding else "measured",
            "peak_memory_mb": peak_memory_mb(),
        }
        print_json({"rows": rows, "run": about})
    else:
        bracket_table(evaluations)
        if profile:
            cost_table(evaluations, peak_memory_mb())


def smooth(
    model: Model,
    sigma: Annotated[float, typer.Option(help="Standard deviation of the noise, in input units.")],
    n0: Annotated[int, typer.Option(help="Noisy copies that select the class.")] = 100,
    n: Annotated[int, typer.Option(help="Noisy copies that estimate its probability.")] = 1000,
    alpha: Annotated[float, typer.Option(help="Failure probability of a certificate.")] = 0.001,
    dataset: TestSplit = "fashion_mnist",
    norm_name: NormName = "L2",
    eps: EpsOption = None,
    more_eps: MoreEps = None,
    first: First = 0,
    n_examples: NExamples = 100,
    attacks: Annotated[
        Literal["eot-pgd", "none"], typer.Option(help="PGD in expectation over the noise, or none.")
    ] = "eot-pgd",
    seed: Annotated[int, seed_option("the noise and of the audit")] = 0,
    batch_size: Annotated[str, typer.Option(help="Noisy copies per batch, or auto.")] = "250",
    device: Device = "cpu",
    store: StoreFile = Path("dynbench.sqlite"),
    export: Annotated[
        Path | None, typer.Option(help="Write the certificates of all examples (.tsv).")
    ] = None,
    as_json: AsJson = False,
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
) -> None:
    """Certify and attack the smoothed classifier of a model (randomised smoothing)."""
    del trust, limits  # heeded while the options were read
    from robustbench_dyn.smoothing.statistics import Smoothing

    # Checked before the heavy imports, so that invalid options fail at once.
    smoothing = Smoothing(sigma, n0=n0, n=n, alpha=alpha)
    norm, batch = parse_norm(norm_name), parse_batch_size(batch_size)
    threat_models = _threat_models(norm, [*(eps or []), *(more_eps or [])])
    from robustbench_dyn.cli.terminal import bracket_table, progress_display
    from robustbench_dyn.datasets import load_dataset
    from robustbench_dyn.models.loading import load_model
    from robustbench_dyn.reporting.export import check_export_path, write_certificates
    from robustbench_dyn.smoothing import evaluate_smoothed

    if export is not None:
        check_export_path(export, (".tsv",))
    data = load_dataset(dataset, first=first, n_examples=n_examples, data_dir=data_dir)
    network = load_model(model, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))
    with progress_display(enabled=not as_json) as progress:
        smoothed = evaluate_smoothed(
            network,
            data,
            threat_models,
            smoothing,
            seed=seed,
            batch_size=batch,
            attacked=attacks != "none",
            device=check_device(device),
            store=store,
            progress=progress,
        )
    if export is not None:
        write_certificates(smoothed.certificates, export)
    if as_json:
        rows = [evaluation.summary for evaluation in smoothed.evaluations]
        about = {
            "version": __version__,
            "store": str(store),
            "command": sys.argv[1:],
            "smoothing": asdict(smoothing),
        }
        print_json({"rows": rows, "run": about})
    else:
        bracket_table(smoothed.evaluations)


def curve(
    model: Model,
    dataset: TestSplit = "fashion_mnist",
    norm_name: NormName = "L2",
    eps: Annotated[
        list[str] | None, typer.Option(help="Radii; by default from 0 to the largest distance.")
    ] = None,
    n_examples: NExamples = 200,
    certifiers: Certifiers = "auto",
    seed: Annotated[int, seed_option("the attack")] = 0,
    device: Device = "cpu",
    store: StoreFile = Path("dynbench.sqlite"),
    export: Annotated[Path | None, typer.Option(help="Write the curve (.csv or .parquet).")] = None,
    as_json: AsJson = False,
    plugins: Plugins = None,
    trust: Trust = False,
    limits: Limited = "",
    data_dir: DataDir = None,
) -> None:
    """Bracket the robust accuracy over eps, with a minimum-norm attack and certifiers."""
    del trust, limits  # heeded while the options were read
    norm = parse_norm(norm_name)
    radii = [parse_eps(text) for text in eps] if eps else None
    from robustbench_dyn.cli.consoles import plain_table
    from robustbench_dyn.cli.terminal import progress_display
    from robustbench_dyn.datasets import load_dataset
    from robustbench_dyn.evaluation.distances import evaluate_distances
    from robustbench_dyn.models.loading import load_model
    from robustbench_dyn.reporting.curves import curve as curve_of
    from robustbench_dyn.reporting.export import write_tables
    from robustbench_dyn.results.headings import format_eps, format_percent, heading

    check_export(export)
    data = load_dataset(dataset, n_examples=n_examples, data_dir=data_dir)
    for value in radii or []:
        ThreatModel(norm, value).check_input_shape(tuple(data.x.shape[1:]))
    network = load_model(model, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))
    with progress_display(enabled=not as_json) as progress:
        evaluation = evaluate_distances(
            network,
            data,
            norm,
            radii=radii,
            seed=seed,
            certifiers=certifiers,
            device=check_device(device),
            store=store,
            progress=progress,
        )
    table = curve_of(evaluation, radii)
    flags = evaluation.summary["flags"]
    if export is not None:
        write_tables([table], export)
    points = table.to_dict("records")
    if as_json:
        about = {"model": model, "norm": norm, "curve": points, "flags": flags}
        print_json(about)
    else:
        rows = [
            (
                # Radii of a grid; their digits say nothing.
                format_eps(point["eps"], digits=4),
                format_percent(point["certified_accuracy"]),
                format_percent(point["empirical_accuracy"]),
            )
            for point in points
        ]
        plain_table([heading(column) for column in table.columns], rows)
        if flags:
            print_result(f"flags: {flags}")


def _threat_models(norm: Norm, radii: list[str]) -> list[ThreatModel]:
    """Return one threat model per radius; the default radius of the norm if there is none."""
    values = [parse_eps(text) for text in radii] or [DEFAULT_EPS[norm]]
    return [ThreatModel(norm, eps) for eps in dict.fromkeys(values)]
