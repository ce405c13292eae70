"""The command dynbench: the only module that prints, exits and reads arguments."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from robustbench_dyn import __version__
from robustbench_dyn.errors import DynbenchError, InputError, SoundnessError
from robustbench_dyn.threat_models import parse_eps

app = typer.Typer(
    help="Bracket the robustness of neural networks between attacks and certificates.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

plot = typer.Typer(help="Draw flows and brackets.", no_args_is_help=True)
app.add_typer(plot, name="plot")

# Chosen so that the default run ends in about a minute on two cores.
DEFAULT_N_EXAMPLES = 500
DEFAULT_EPS = {"L2": 0.5, "Linf": 8 / 255, "L1": 2.0}

Plugins = Annotated[
    list[Path] | None, typer.Option("--plugins", help="A folder of plugins, or of one plugin.")
]
Model = Annotated[str, typer.Option(help="NAME or NAME/VARIANT, see: dynbench list models.")]
TestSplit = Annotated[str, typer.Option(help="The data set's test split.")]
NormName = Annotated[str, typer.Option(help="L2, Linf or L1.")]
NExamples = Annotated[int, typer.Option(help="The first N test examples.")]
Certifiers = Annotated[str, typer.Option(help="auto, none, or names with commas.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
StoreFile = Annotated[Path, typer.Option("--store", help="The SQLite file that keeps verdicts.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where data sets that do not ship lie.")
]


def main() -> None:
    """Run the command; exit 1 for a refuted certificate, 2 for what the user gave wrong."""
    try:
        app(standalone_mode=True)
    except SoundnessError as error:
        _complain(f"soundness violation: {error}")
        sys.exit(1)
    except DynbenchError as error:
        _complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        _complain("interrupted; what was computed is kept, the same command goes on from there")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has left, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def run(
    model: Model,
    dataset: TestSplit = "fashion_mnist",
    norm: NormName = "L2",
    eps: Annotated[
        list[str] | None, typer.Option(help="One or more radii, as 0.5 or 8/255.")
    ] = None,
    more_eps: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
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
    as_json: AsJson = False,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time went.")] = False,
    plugins: Plugins = None,
    data_dir: DataDir = None,
) -> None:
    """Say of each test example whether it is certified, broken or undecided."""
    from robustbench_dyn.costs import peak_memory_mb  # noqa: PLC0415
    from robustbench_dyn.datasets import load_dataset  # noqa: PLC0415  (heavy: --help is light)
    from robustbench_dyn.evaluation import evaluate_grid  # noqa: PLC0415
    from robustbench_dyn.export import write_tables  # noqa: PLC0415
    from robustbench_dyn.registry import load_model  # noqa: PLC0415
    from robustbench_dyn.terminal import (  # noqa: PLC0415
        bracket_table,
        cost_table,
        progress_display,
    )
    from robustbench_dyn.threat_models import ThreatModel, check_norm  # noqa: PLC0415

    check_norm(norm)
    _check_export(export)
    given = [*(eps or []), *(more_eps or [])]
    radii = [parse_eps(text) for text in given] or [DEFAULT_EPS[norm]]
    threat_models = [ThreatModel(norm, radius) for radius in dict.fromkeys(radii)]  # type: ignore[arg-type]
    data = load_dataset(dataset, n_examples=n_examples, data_dir=data_dir)
    network = load_model(model, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))  # type: ignore[arg-type]
    with progress_display(enabled=not as_json) as progress:
        evaluations = evaluate_grid(
            network, data, threat_models, seed=seed, batch_size=_parse_batch_size(batch_size),
            attacks=attacks, certifiers=certifiers, device=_check_device(device), store=store,
            progress=progress,
        )  # fmt: skip
    if export is not None:
        write_tables((e.examples.assign(eps=e.threat_model.eps) for e in evaluations), export)
    if as_json:
        rows = [evaluation.summary for evaluation in evaluations]
        about = {"version": __version__, "store": str(store), "command": sys.argv[1:],
                 "stages": [asdict(cost) for e in evaluations for cost in e.costs],
                 "peak_memory_mb": peak_memory_mb()}  # fmt: skip
        typer.echo(json.dumps({"rows": rows, "run": about}, indent=2, allow_nan=False))
    else:
        bracket_table(evaluations)
        if profile:
            cost_table(evaluations, peak_memory_mb())


@app.command()
def smooth(
    model: Model,
    sigma: Annotated[float, typer.Option(help="The noise's standard deviation, in input units.")],
    n0: Annotated[int, typer.Option(help="Noisy copies that choose the class.")] = 100,
    n: Annotated[int, typer.Option(help="Further copies that vote on it.")] = 1000,
    alpha: Annotated[float, typer.Option(help="How often a certificate may be wrong.")] = 0.001,
    dataset: TestSplit = "fashion_mnist",
    norm: NormName = "L2",
    eps: Annotated[
        list[str] | None, typer.Option(help="One or more radii, as 0.5 or 8/255.")
    ] = None,
    more_eps: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
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
    from robustbench_dyn.certification.smoothing import Smoothing  # noqa: PLC0415

    # Before anything heavy: what is wrong with it can be told at once.
    smoothing = Smoothing(sigma, n0=n0, n=n, alpha=alpha)
    from robustbench_dyn.datasets import load_dataset  # noqa: PLC0415
    from robustbench_dyn.export import check_export_path, write_certificates  # noqa: PLC0415
    from robustbench_dyn.registry import load_model  # noqa: PLC0415
    from robustbench_dyn.smoothing import evaluate_smoothed  # noqa: PLC0415
    from robustbench_dyn.terminal import bracket_table, progress_display  # noqa: PLC0415
    from robustbench_dyn.threat_models import ThreatModel, check_norm  # noqa: PLC0415

    check_norm(norm)
    if export is not None:
        check_export_path(export, (".tsv",))
    given = [*(eps or []), *(more_eps or [])]
    radii = [parse_eps(text) for text in given] or [DEFAULT_EPS[norm]]
    threat_models = [ThreatModel(norm, radius) for radius in dict.fromkeys(radii)]  # type: ignore[arg-type]
    data = load_dataset(dataset, n_examples=n_examples, data_dir=data_dir)
    network = load_model(model, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))  # type: ignore[arg-type]
    with progress_display(enabled=not as_json) as progress:
        smoothed = evaluate_smoothed(
            network, data, threat_models, smoothing, seed=seed,
            batch_size=_parse_batch_size(batch_size), attacked=attacks != "none",
            device=_check_device(device), store=store, progress=progress,
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


@app.command()
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
    """Bracket the robust accuracy at every eps, from one run of a minimum-norm attack."""
    from robustbench_dyn import curves  # noqa: PLC0415
    from robustbench_dyn.datasets import load_dataset  # noqa: PLC0415
    from robustbench_dyn.export import write_tables  # noqa: PLC0415
    from robustbench_dyn.registry import load_model  # noqa: PLC0415
    from robustbench_dyn.terminal import plain_table, progress_display  # noqa: PLC0415
    from robustbench_dyn.threat_models import ThreatModel, check_norm  # noqa: PLC0415

    check_norm(norm)
    _check_export(export)
    radii = [parse_eps(text) for text in eps] if eps else None
    data = load_dataset(dataset, n_examples=n_examples, data_dir=data_dir)
    for radius in radii or []:
        ThreatModel(norm, radius).check_input_shape(tuple(data.x.shape[1:]))  # type: ignore[arg-type]
    network = load_model(model, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))  # type: ignore[arg-type]
    with progress_display(enabled=not as_json) as progress:
        evaluation = curves.evaluate_distances(
            network, data, norm, seed=seed, certifiers=certifiers,  # type: ignore[arg-type]
            device=_check_device(device), store=store, progress=progress,
        )  # fmt: skip
    table = curves.curve(evaluation, radii)
    if export is not None:
        write_tables([table], export)
    points = table.to_dict("records")
    if as_json:
        typer.echo(json.dumps({"model": model, "norm": norm, "curve": points}, indent=2))
    else:
        rows = [(f"{p['eps']:.4g}", f"{100 * p['certified_accuracy']:.1f}",
                 f"{100 * p['empirical_accuracy']:.1f}") for p in points]  # fmt: skip
        plain_table(("eps", "certified %", "empirical %"), rows)


@plot.command("flow")
def plot_flow_(
    model: Model,
    to: Annotated[Path, typer.Option(help="The picture, .png or .svg.")],
    dataset: Annotated[str, typer.Option(help="moons or spirals.")] = "moons",
    n_examples: Annotated[int, typer.Option(help="How many points are drawn.")] = 60,
    plugins: Plugins = None,
) -> None:
    """Draw a flow in the plane: ways through the layers, regions, certified balls, attacks."""
    from robustbench_dyn import plots  # noqa: PLC0415
    from robustbench_dyn.datasets import load_dataset  # noqa: PLC0415
    from robustbench_dyn.registry import load_model  # noqa: PLC0415

    plots.check_plot_path(to)
    data = load_dataset(dataset, n_examples=n_examples)
    network = load_model(model, dataset=dataset, norm="L2", plugins=tuple(plugins or ()))
    plots.save(plots.plot_flow(network, data, title=model), to)
    typer.echo(f"written to {to}")


@plot.command("curves")
def plot_curves_(
    model: Annotated[list[str], typer.Option(help="A model; give it several times.")],
    to: Annotated[Path, typer.Option(help="The picture, .png or .svg.")],
    dataset: TestSplit = "fashion_mnist",
    norm: NormName = "L2",
    n_examples: NExamples = 100,
    store: StoreFile = Path("dynbench.sqlite"),
    plugins: Plugins = None,
    data_dir: DataDir = None,
) -> None:
    """Draw certified and empirical accuracy over eps, a bracket for each model."""
    from robustbench_dyn import plots  # noqa: PLC0415
    from robustbench_dyn.curves import evaluate_distances  # noqa: PLC0415
    from robustbench_dyn.datasets import load_dataset  # noqa: PLC0415
    from robustbench_dyn.registry import load_model  # noqa: PLC0415
    from robustbench_dyn.terminal import progress_display  # noqa: PLC0415
    from robustbench_dyn.threat_models import check_norm  # noqa: PLC0415

    check_norm(norm)
    plots.check_plot_path(to)
    data = load_dataset(dataset, n_examples=n_examples, data_dir=data_dir)
    found = {}
    for name in dict.fromkeys(model):
        network = load_model(name, dataset=dataset, norm=norm, plugins=tuple(plugins or ()))  # type: ignore[arg-type]
        with progress_display(enabled=True) as progress:
            found[name] = evaluate_distances(network, data, norm, store=store, progress=progress)  # type: ignore[arg-type]
    plots.save(plots.plot_curves(found), to)
    typer.echo(f"written to {to}")


@app.command("list")
def list_(
    what: Annotated[
        Literal["models", "datasets", "attacks", "certifiers"], typer.Argument(help="What to list.")
    ],
    plugins: Plugins = None,
) -> None:
    """List models, data sets, attacks or certifiers."""
    from robustbench_dyn.terminal import plain_table  # noqa: PLC0415

    if what == "models":
        plain_table(("model", "family", "weights for", "origin"), _model_rows(plugins))
    elif what == "datasets":
        from robustbench_dyn.datasets import dataset_info, dataset_names  # noqa: PLC0415

        infos = [dataset_info(name) for name in dataset_names()]
        rows = [
            (i.name, "x".join(map(str, i.input_shape)), str(i.n_classes),
             ", ".join(f"{split}: {i.sizes[split]} {i.availability[split]}" for split in i.sizes))
            for i in infos
        ]  # fmt: skip
        plain_table(("dataset", "input", "classes", "splits"), rows)
    elif what == "attacks":
        from robustbench_dyn.attacks import attack_info, attack_names, suite_names  # noqa: PLC0415

        rows = [(n, attack_info(n).library, ", ".join(sorted(attack_info(n).norms)),
                 attack_info(n).description) for n in attack_names()]  # fmt: skip
        rows += [(name, "suite", "", "") for name in suite_names()]
        plain_table(("attack", "library", "norms", "description"), rows)
    else:
        from robustbench_dyn.certification import certifier_names  # noqa: PLC0415

        smoothing = ("smoothing", "votes on noisy copies; of the smoothed classifier: "
                                  "dynbench smooth")  # fmt: skip
        plain_table(("certifier", "proves by"), [*certifier_names().items(), smoothing])


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="The model's name, see: dynbench list models.")],
    plugins: Plugins = None,
) -> None:
    """Show a model's card."""
    from robustbench_dyn.architectures import full_name, split_name  # noqa: PLC0415
    from robustbench_dyn.registry import discover  # noqa: PLC0415

    architecture = discover(tuple(plugins or ())).load(split_name(model)[0])
    card = architecture.card
    typer.echo(f"{card.name} {card.version} ({card.family}), from {architecture.origin}")
    typer.echo(card.summary)
    for title, values in (("properties", card.properties), ("sources", card.sources)):
        if values:
            typer.echo(f"{title}: {', '.join(values)}")
    for weights in card.weights:
        options = ", ".join(f"{key}={value}" for key, value in weights.options.items())
        trained_for = f"{weights.dataset}" + (f", {weights.norm}" if weights.norm else "")
        name = full_name(card.name, weights.variant)
        seconds = weights.training_seconds
        trained_in = "" if seconds is None else f"; {seconds:g} s of training"
        typer.echo(
            f"{name} for {trained_for}: {weights.file}; {options}; {weights.recipe}{trained_in}"
        )


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="NAME, NAME/VARIANT, or a plugin's folder.")],
    dataset: Annotated[str | None, typer.Option(help="At the weights for this data set.")] = None,
    n_examples: Annotated[int, typer.Option(help="How many examples start the search.")] = 4,
    keep: Annotated[
        Path | None, typer.Option(help="A folder for the counterexamples, as .npy.")
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Test what a model claims: each property, on data, random and searched points, in float64."""
    from robustbench_dyn.architectures import split_name  # noqa: PLC0415
    from robustbench_dyn.checking import check_architecture  # noqa: PLC0415
    from robustbench_dyn.registry import discover  # noqa: PLC0415
    from robustbench_dyn.terminal import findings_display  # noqa: PLC0415

    folders = tuple(plugins or ())
    if Path(model).is_dir():
        folder = Path(model).resolve()
        registry = discover((*folders, folder))
        found = [name for name, known in registry.listings.items() if known.folder == folder]
        if not found:
            raise InputError(f"{model} is no plugin: it has no card.yaml")
        name, variant = found[0], ""
    else:
        registry = discover(folders)
        name, variant = split_name(model)
    architecture = registry.load(name)
    with findings_display() as show_finding:
        findings = []
        for finding in check_architecture(
            architecture, dataset=dataset, variant=variant, n_examples=n_examples
        ):
            findings.append(finding)
            show_finding(finding)
    broken = [finding for finding in findings if not finding.holds]
    if keep is not None and broken:
        import numpy as np  # noqa: PLC0415

        keep.mkdir(parents=True, exist_ok=True)
        for k, finding in enumerate(broken):
            if finding.witness is not None:
                np.save(keep / f"{name}-{finding.claim}-{k}.npy", finding.witness.numpy())
    if broken:
        names = ", ".join(sorted({finding.claim for finding in broken}))
        _complain(f"{model} does not keep what it claims: {names}")
        raise typer.Exit(1)


@app.command()
def train(
    model: Annotated[str, typer.Option(help="NAME or NAME/VARIANT to train.")],
    dataset: Annotated[str, typer.Option(help="The data set's training split.")] = "fashion_mnist",
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe; by default the plugin's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the weights go (.safetensors).")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    n_examples: Annotated[int | None, typer.Option(help="Train on the first N only.")] = None,
    plugins: Plugins = None,
    data_dir: DataDir = None,
) -> None:
    """Train a model by its recipe; a killed training goes on where it stopped."""
    from robustbench_dyn import training  # noqa: PLC0415
    from robustbench_dyn.architectures import split_name  # noqa: PLC0415
    from robustbench_dyn.registry import discover  # noqa: PLC0415
    from robustbench_dyn.terminal import training_display  # noqa: PLC0415

    name, variant = split_name(model)
    architecture = discover(tuple(plugins or ())).load(name)
    path = recipe or training.find_recipe(architecture, dataset, variant)
    content = training.read_recipe(path)
    if content.dataset != dataset:
        raise InputError(f"the recipe {path} is for dataset {content.dataset!r}, not {dataset!r}")
    target = out or Path("trained") / f"{model.replace('/', '-')}-{dataset}.safetensors"
    with training_display() as progress:
        trained = training.train(
            content, architecture, target, data_dir=data_dir, device=str(_check_device(device)),
            n_examples=n_examples, progress=progress,
        )  # fmt: skip
    import yaml  # noqa: PLC0415

    typer.echo(
        f"trained in {trained.seconds:.0f} s of processor time: {trained.path}; "
        "its entry for card.yaml:"
    )
    entry = training.card_entry(content, trained, f"recipes/{path.name}")
    typer.echo(yaml.safe_dump({"weights": [entry]}, sort_keys=False).rstrip())


@app.command("sweep")
def sweep_(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="What to run.")],
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Shards at a time; by default as many as cores.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda: one GPU a worker.")] = "cpu",
    store: StoreFile = Path("dynbench.sqlite"),
    as_json: AsJson = False,
    plugins: Plugins = None,
    data_dir: DataDir = None,
) -> None:
    """Run models x data sets x threat models x seeds; goes on where it was stopped."""
    from robustbench_dyn.sweep import read_sweep, sweep  # noqa: PLC0415
    from robustbench_dyn.terminal import sweep_display, sweep_table  # noqa: PLC0415

    content = read_sweep(file)
    with sweep_display(enabled=not as_json) as progress:
        outcome = sweep(
            content, store, engine=engine, workers=workers, device=device,
            plugins=tuple(plugins or ()), data_dir=data_dir, progress=progress,
        )  # fmt: skip
    if as_json:
        about = {"version": __version__, "store": str(store), "command": sys.argv[1:],
                 "failed": {str(shard): reason for shard, reason in outcome.failed.items()},
                 "unsound": {str(shard): reason for shard, reason in outcome.unsound.items()},
                 }  # fmt: skip
        typer.echo(json.dumps({"rows": outcome.rows, "run": about}, indent=2, allow_nan=False))
    else:
        sweep_table(outcome.rows)
    for shard, reason in (outcome.unsound | outcome.failed).items():
        _complain(f"{shard}: {reason}")
    if outcome.unsound or outcome.failed:
        raise typer.Exit(1 if outcome.unsound else 2)


@app.command()
def leaderboard(
    store: StoreFile = Path("dynbench.sqlite"),
    to: Annotated[Path, typer.Option(help="The folder that the tables go to.")] = Path(
        "leaderboards"
    ),
    published: Annotated[
        bool, typer.Option("--published", help="Show the tables that came with the package.")
    ] = False,
) -> None:
    """Write one CSV a data set and threat model, and a page of all of them."""
    from robustbench_dyn import leaderboard as tables  # noqa: PLC0415
    from robustbench_dyn.store import Store  # noqa: PLC0415
    from robustbench_dyn.terminal import page  # noqa: PLC0415

    if published:
        page(tables.to_markdown(tables.published()))
        return
    for path in tables.write_leaderboards(tables.leaderboard(Store(_existing(store))), to):
        typer.echo(path)


@app.command("export")
def export_(
    to: Annotated[Path, typer.Argument(help="The table (.csv or .parquet).")],
    store: StoreFile = Path("dynbench.sqlite"),
) -> None:
    """Write every verdict of a store, a row an example and eps."""
    from robustbench_dyn.export import export_store  # noqa: PLC0415
    from robustbench_dyn.store import Store  # noqa: PLC0415

    typer.echo(f"{export_store(Store(_existing(store)), to)} verdicts: {to}")


def _parse_batch_size(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise InputError(f"batch_size={text!r} is neither 'auto' nor a whole number") from None


def _model_rows(plugins: list[Path] | None) -> list[tuple[str, ...]]:
    from robustbench_dyn.architectures import full_name  # noqa: PLC0415
    from robustbench_dyn.registry import discover  # noqa: PLC0415

    rows = list[tuple[str, ...]]()
    for listing in sorted(discover(tuple(plugins or ())).listings.values(), key=lambda i: i.name):
        if listing.card is None:
            rows.append((listing.name, "broken", listing.problem, listing.origin))
        else:
            trained = ", ".join(
                sorted({full_name(w.dataset, w.variant) for w in listing.card.weights})
            )
            rows.append((listing.name, listing.card.family, trained or "–", listing.origin))
    return rows


def _check_device(name: str) -> Any:
    import torch  # noqa: PLC0415

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device={name!r} cannot be used: {reason}; try --device cpu") from None
    return device


def _check_export(path: Path | None) -> None:
    from robustbench_dyn.export import check_export_path  # noqa: PLC0415

    if path is not None:
        check_export_path(path)


def _existing(store: Path) -> Path:
    if not store.is_file():
        raise InputError(f"there is no store {store}; first: dynbench run --model NAME")
    return store


def _complain(message: str) -> None:
    typer.echo(f"dynbench: {' '.join(message.split())}", err=True)
