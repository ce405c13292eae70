"""Commands that evaluate one model: run, smooth, curve."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from robustbench_dyn import __version__
from robustbench_dyn.cli.options import (
    AsJson,
    Certifiers,
    DataDir,
    Device,
    Model,
    NExamples,
    NormName,
    Plugins,
    StoreFile,
    TestSplit,
    check_device,
    check_export,
    parse_batch_size,
)
from robustbench_dyn.threat_models import ThreatModel, check_norm, parse_eps

# Chosen so that the default run ends in about a minute on two cores.
DEFAULT_N_EXAMPLES = 500
DEFAULT_EPS = {"L2": 0.5, "Linf": 8 / 255, "L1": 2.0}

Radii = Annotated[list[str] | None, typer.Option(help="One or more radii, as 0.5 or 8/255.")]
MoreRadii = Annotated[list[str] | None, typer.Argument(hidden=True)]


def run(
    model: Model,
    dataset: TestSplit = "fashion_mnist",
    norm: NormName = "L2",
    eps: Radii = None,
    more_eps: MoreRadii = None,
    n_examples: NExamples = DEFAULT_N_EXAMPLES,
    attacks: Annotated[
        str, typer.Option(help="standard, autoattack, plus, rand, none, or names with commas.")
    ] = "standard",
    certifiers: Certifiers = "auto",
    seed: Annotated[int, typer.Option(help="Seed of attacks and audit.")] = 0,
    batch_size: Annotated[str, typer.Option(help="Examples a batch, or auto.")] = "250",
    device: Device = "cpu",
    store: StoreFile = Path("dynbench.sqlite"),
    export: Annotated[
        Path | None, typer.Option(help="Write each example's verdict (.csv or .parquet).")
    ] = None,
    strict_rounding: Annotated[
        bool,
        typer.Option(
            "--strict-rounding",
            help="Take the worst case of the network's own rounding off its margins.",
        ),
    ] = False,
    as_json: AsJson = False,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time went.")] = False,
    plugins: Plugins = None,
    data_dir: DataDir = None,
) -> None:
    """Say of each test example whether it is certified, broken or undecided."""
    from robustbench_dyn.cli.terminal import bracket_table, cost_table, progress_display  # noqa: PLC0415
    from robustbench_dyn.datasets import load_dataset  # noqa: PLC0415  (heavy: --help is light)
    from robustbench_dyn.evaluation.api import evaluate_grid  # noqa: PLC0415
    from robustbench_dyn.models.loading import load_model  # noqa: PLC0415
    from robustbench_dyn.models.precision import PRECISION  # noqa: PLC0415
    from robustbench_dyn.reporting.export import write_tables  # noqa: PLC0415
    from robustbench_dyn.results.costs import peak_memory_mb  # noqa: PLC0415

    check_norm(norm)
    check_export(export)
    threat_models = _threat_models(norm, [*(eps or []), *(more_eps or [])])
    data = load_dataset(dataset, n_examples=n_examples, data_dir=data_dir)
    network = load_model(model, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))  # type: ignore[arg-type]
    with progress_display(enabled=not as_json) as progress:
        evaluations = evaluate_grid(
            network, data, threat_models, seed=seed, batch_size=parse_batch_size(batch_size),
            attacks=attacks, certifiers=certifiers, strict_rounding=strict_rounding,
            device=check_device(device), store=store, progress=progress,
        )  # fmt: skip
    if export is not None:
        write_tables((e.examples.assign(eps=e.threat_model.eps) for e in evaluations), export)
    if as_json:
        rows = [evaluation.summary for evaluation in evaluations]
        about = {"version": __version__, "store": str(store), "command": sys.argv[1:],
                 "stages": [asdict(cost) for e in evaluations for cost in e.costs],
                 "not_applicable": evaluations[0].not_applicable, "precision": PRECISION,
                 "rounding": "strict" if strict_rounding else "measured",
                 "peak_memory_mb": peak_memory_mb()}  # fmt: skip
        typer.echo(json.dumps({"rows": rows, "run": about}, indent=2, allow_nan=False))
    else:
        bracket_table(evaluations)
        if profile:
            cost_table(evaluations, peak_memory_mb())


def smooth(
    model: Model,
    sigma: Annotated[float, typer.Option(help="The noise's standard deviation, in input units.")],
    n0: Annotated[int, typer.Option(help="Noisy copies that choose the class.")] = 100,
    n: Annotated[int, typer.Option(help="Further copies that vote on it.")] = 1000,
    alpha: Annotated[float, typer.Option(help="How often a certificate may be wrong.")] = 0.001,
    dataset: TestSplit = "fashion_mnist",
    norm: NormName = "L2",
    eps: Radii = None,
    more_eps: MoreRadii = None,
    n_examples: NExamples = 100,
    attacks: Annotated[
        Literal["eot-pgd", "none"], typer.Option(help="Ascent in expectation over noise, or none.")
    ] = "eot-pgd",
    seed: Annotated[int, typer.Option(help="Seed of the noise and the audit.")] = 0,
    batch_size: Annotated[str, typer.Option(help="Noisy copies a batch, or auto.")] = "250",
    device: Device = "cpu",
    store: StoreFile = Path("dynbench.sqlite"),
    export: Annotated[
        Path | None, typer.Option(help="Write each example's certificate (.tsv).")
    ] = None,
    as_json: AsJson = False,
    plugins: Plugins = None,
    data_dir: DataDir = None,
) -> None:
    """Bracket the smoothed classifier of a model: votes on noisy copies, and attacks on it."""
    from robustbench_dyn.smoothing.statistics import Smoothing  # noqa: PLC0415

    # Before anything heavy: what is wrong with it can be told at once.
    smoothing = Smoothing(sigma, n0=n0, n=n, alpha=alpha)
    from robustbench_dyn.cli.terminal import bracket_table, progress_display  # noqa: PLC0415
    from robustbench_dyn.datasets import load_dataset  # noqa: PLC0415
    from robustbench_dyn.models.loading import load_model  # noqa: PLC0415
    from robustbench_dyn.reporting.export import check_export_path, write_certificates  # noqa: PLC0415
    from robustbench_dyn.smoothing import evaluate_smoothed  # noqa: PLC0415

    check_norm(norm)
    if export is not None:
        check_export_path(export, (".tsv",))
    threat_models = _threat_models(norm, [*(eps or []), *(more_eps or [])])
    data = load_dataset(dataset, n_examples=n_examples, data_dir=data_dir)
    network = load_model(model, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))  # type: ignore[arg-type]
    with progress_display(enabled=not as_json) as progress:
        smoothed = evaluate_smoothed(
            network, data, threat_models, smoothing, seed=seed,
            batch_size=parse_batch_size(batch_size), attacked=attacks != "none",
            device=check_device(device), store=store, progress=progress,
        )  # fmt: skip
    if export is not None:
        write_certificates(smoothed.certificates, export)
    if as_json:
        rows = [evaluation.summary for evaluation in smoothed.evaluations]
        about = {"version": __version__, "store": str(store), "command": sys.argv[1:],
                 "smoothing": asdict(smoothing)}  # fmt: skip
        typer.echo(json.dumps({"rows": rows, "run": about}, indent=2, allow_nan=False))
    else:
        bracket_table(smoothed.evaluations)


def curve(
    model: Model,
    dataset: TestSplit = "fashion_mnist",
    norm: NormName = "L2",
    eps: Annotated[
        list[str] | None, typer.Option(help="Radii; by default from 0 to where nothing stands.")
    ] = None,
    n_examples: NExamples = 200,
    certifiers: Certifiers = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the attack.")] = 0,
    device: Device = "cpu",
    store: StoreFile = Path("dynbench.sqlite"),
    export: Annotated[Path | None, typer.Option(help="Write the curve (.csv or .parquet).")] = None,
    as_json: AsJson = False,
    plugins: Plugins = None,
    data_dir: DataDir = None,
) -> None:
    """Bracket the robust accuracy over eps, by a minimum-norm attack and certifiers at each eps."""
    from robustbench_dyn.cli.terminal import plain_table, progress_display  # noqa: PLC0415
    from robustbench_dyn.datasets import load_dataset  # noqa: PLC0415
    from robustbench_dyn.evaluation.distances import evaluate_distances  # noqa: PLC0415
    from robustbench_dyn.models.loading import load_model  # noqa: PLC0415
    from robustbench_dyn.reporting.curves import curve as curve_of  # noqa: PLC0415
    from robustbench_dyn.reporting.export import write_tables  # noqa: PLC0415

    check_norm(norm)
    check_export(export)
    radii = [parse_eps(text) for text in eps] if eps else None
    data = load_dataset(dataset, n_examples=n_examples, data_dir=data_dir)
    for radius in radii or []:
        ThreatModel(norm, radius).check_input_shape(tuple(data.x.shape[1:]))  # type: ignore[arg-type]
    network = load_model(model, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))  # type: ignore[arg-type]
    with progress_display(enabled=not as_json) as progress:
        evaluation = evaluate_distances(
            network, data, norm, radii=radii, seed=seed, certifiers=certifiers,  # type: ignore[arg-type]
            device=check_device(device), store=store, progress=progress,
        )  # fmt: skip
    table = curve_of(evaluation, radii)
    flags = evaluation.summary["flags"]
    if export is not None:
        write_tables([table], export)
    points = table.to_dict("records")
    if as_json:
        about = {"model": model, "norm": norm, "curve": points, "flags": flags}
        typer.echo(json.dumps(about, indent=2))
    else:
        rows = [(f"{p['eps']:.4g}", f"{100 * p['certified_accuracy']:.1f}",
                 f"{100 * p['empirical_accuracy']:.1f}") for p in points]  # fmt: skip
        plain_table(("eps", "certified %", "empirical %"), rows)
        if flags:
            typer.echo(f"flags: {flags}")


def _threat_models(norm: str, radii: list[str]) -> list[ThreatModel]:
    """Return a threat model for each radius that was given, or for the default one."""
    found = [parse_eps(text) for text in radii] or [DEFAULT_EPS[norm]]
    return [ThreatModel(norm, radius) for radius in dict.fromkeys(found)]  # type: ignore[arg-type]
