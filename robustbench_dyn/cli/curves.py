"""The command curve: the brackets of a model over a range of eps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_dyn.cli.arguments import (
    DEFAULT_N_OF_CURVES,
    check_methods,
    check_store,
    targets_of,
)
from robustbench_dyn.cli.loading import load_network, read_data
from robustbench_dyn.cli.options import (
    OUTPUT,
    THREAT,
    AsJson,
    Certifiers,
    CertifySeconds,
    DataDir,
    Device,
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
    seed_option,
)
from robustbench_dyn.cli.output import announce_files, print_json
from robustbench_dyn.progress.loading import say
from robustbench_dyn.threat_models import parse_eps

if TYPE_CHECKING:
    import pandas as pd


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
    from robustbench_dyn.evaluation.distances import evaluate_distances
    from robustbench_dyn.progress.display import progress_display
    from robustbench_dyn.reporting.curves import curve as curve_of
    from robustbench_dyn.reporting.export import write_tables

    where = check_device(device)
    tables: dict[str, pd.DataFrame] = {}
    documents = list[dict[str, Any]]()
    for target in targets:
        data = read_data(target, data_dir=data_dir)
        network = load_network(target, plugins, weights)
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
