"""The command smooth: certificates and attacks of the smoothed classifier of a model."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from robustbench_dyn import __version__
from robustbench_dyn.cli.arguments import (
    DEFAULT_N_SMOOTHED,
    check_one_model,
    check_store,
    targets_of,
)
from robustbench_dyn.cli.loading import load_network, read_data
from robustbench_dyn.cli.options import (
    METHODS,
    OUTPUT,
    AsJson,
    BatchSize,
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

if TYPE_CHECKING:
    from robustbench_dyn.evaluation.result import Evaluation

SMOOTHING = "Smoothing"


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
    from robustbench_dyn.cli.documents import attempts_of, counts_of, of_each, rows_of
    from robustbench_dyn.cli.terminal import bracket_table
    from robustbench_dyn.progress.display import progress_display
    from robustbench_dyn.reporting.export import write_certificates
    from robustbench_dyn.smoothing.api import evaluate_smoothed

    where = check_device(device)
    by_model: dict[str, list[Evaluation]] = {}
    for target in targets:
        data = read_data(target, first=first, data_dir=data_dir)
        network = load_network(target, plugins, weights)
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
            "counts": of_each(counts_of, by_model),
            "attempts": of_each(attempts_of, by_model),
        }
        print_json({"rows": rows_of(by_model), "run": about})
