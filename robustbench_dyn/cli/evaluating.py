"""The command run: attacks and certificates at one eps or several."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_dyn import __version__
from robustbench_dyn.cli.arguments import (
    DEFAULT_N_EXAMPLES,
    check_methods,
    check_store,
    targets_of,
)
from robustbench_dyn.cli.loading import load_network, read_data
from robustbench_dyn.cli.options import (
    OUTPUT,
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

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from robustbench_dyn.evaluation.result import Evaluation


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
    from robustbench_dyn.cli.documents import attempts_of, counts_of, of_each, rows_of
    from robustbench_dyn.cli.terminal import bracket_table, cost_table
    from robustbench_dyn.evaluation.api import evaluate_grid
    from robustbench_dyn.models.precision import PRECISION
    from robustbench_dyn.progress.display import progress_display
    from robustbench_dyn.reporting.export import write_tables
    from robustbench_dyn.results.costs import peak_memory_mb

    where = check_device(device)
    by_model: dict[str, list[Evaluation]] = {}
    for target in targets:
        data = read_data(target, first=first, data_dir=data_dir)
        network = load_network(target, plugins, weights)
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
            "counts": of_each(counts_of, by_model),
            "attempts": of_each(attempts_of, by_model),
            "not_applicable": _of_one_or_all(
                {name: evaluations[0].not_applicable for name, evaluations in by_model.items()}
            ),
            "precision": PRECISION,
            "rounding": "strict" if strict_rounding else "measured",
            "peak_memory_mb": peak_memory_mb(),
        }
        print_json({"rows": rows_of(by_model), "run": about})


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


def _of_one_or_all(by_model: dict[str, Any]) -> Any:
    """Return what is told of the only model, or of each of several by its name."""
    return next(iter(by_model.values())) if len(by_model) == 1 else by_model
