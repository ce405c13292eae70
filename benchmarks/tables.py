"""Write the tables in docs/ from the results of the benchmarks and the leaderboards.

    python benchmarks/tables.py

A page marks a table by <!-- table NAME --> and <!-- end of NAME -->; this script replaces the text
in between. No number there is typed by hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import extending
import measuring
import pandas as pd
from scipy.stats import binomtest
from zoo import weights_of

from robustbench_dyn.certification.proofs.lipschitz import LARGEST_NONVACUOUS_BOUND
from robustbench_dyn.threat_models import format_eps

DOCS = Path(__file__).parents[1] / "docs"
LEADERBOARDS = Path(__file__).parents[1] / "leaderboards"
SEED = Path(__file__).parent / "seed_experiment"
DATASET, COPIES = "fashion_mnist", "cifar10_jpeg"
BUDGETS = (100, 300, 1000, math.inf)
CLAIMS_OF_ALL = ("deterministic", "batch-independent", "lipschitz")


def soundness() -> str:
    """Return the number of attacked certificates by data set, norm and certifier."""
    rows = pd.read_csv(measuring.RESULTS / "soundness.csv")
    rows = rows[rows["certified"] > 0]
    shown = []
    for place, group in rows.groupby(["dataset", "norm", "certifier"], sort=True):
        images = map(str, sorted(set(group["n_examples"].astype(int))))
        shown.append(
            (
                *map(str, place),
                len(group),
                " or ".join(images),
                f"{group['certified'].sum():.0f}",
                f"{group['hits'].sum():.0f}",
                f"{group['nearest'].min():.3f}",
            )
        )
    heading = "data|norm|certifier|networks|images|certificates|hits|nearest example, in radii"
    return markdown(heading.split("|"), shown)


def certifier_cost() -> str:
    """Return the cost of each certifier per example."""
    rows = pd.read_csv(measuring.RESULTS / "certifier_cost.csv")
    shown = []
    for row in rows.to_dict("records"):
        decided = f"{row['certified']} + {row['broken']}" if row["broken"] else row["certified"]
        shown.append(
            (
                row["model"],
                row["dataset"],
                f"{row['parameters']:,}",
                row["norm"],
                f"{row['eps']:.2g}",
                row["certifier"],
                f"{decided} of {row['n_examples']}",
                f"{row['seconds']:.2g}",
                f"{row['forward_passes']:,.0f}",
                f"{row['seconds_once']:.2g}",
            )
        )
    heading = (
        "network|data|parameters|norm|eps|certifier|decided|seconds per example|forward passes|"
        "seconds once"
    )
    machine = rows["machine"].iloc[0]
    return markdown(heading.split("|"), shown) + f"\n\nMeasured on: {machine}."


def small_brackets() -> str:
    """Return how far the brackets of small networks close."""
    rows = pd.read_csv(measuring.RESULTS / "small_brackets.csv")
    shown = [
        (
            row["model"],
            "" if pd.isna(row["neurons"]) else f"{row['neurons']:.0f}",
            row["norm"],
            f"{row['eps']:.2g}",
            *(percent(row[column]) for column in ("clean", "certified", "empirical", "gap")),
            f"{row['seconds']:.0f}",
        )
        for row in rows.to_dict("records")
    ]
    heading = "network|neurons|norm|eps|clean|certified|empirical|gap|processor s"
    images, machine = rows["n_examples"].iloc[0], rows["machine"].iloc[0]
    told = f"Moons, {images} examples each, by default. Measured on: {machine}."
    return markdown(heading.split("|"), shown) + f"\n\n{told}"


def joint_search() -> str:
    """Return what searching many examples in one pass saves."""
    rows = pd.read_csv(measuring.RESULTS / "joint_search.csv")
    shown = [
        (
            row["model"],
            row["neurons"],
            f"{row['entries']:,}",
            row["norm"],
            f"{row['eps']:.2g}",
            *(row[f"decided_{way}"] for way in ("apart", "together")),
            "yes" if row["same"] else "no",
            *(f"{row[f'seconds_{way}']:.1f}" for way in ("apart", "together")),
            f"{row['seconds_apart'] / row['seconds_together']:.1f}",
        )
        for row in rows.to_dict("records")
    ]
    heading = (
        "network|neurons|entries|norm|eps|decided apart|decided together|same verdicts|apart, s|"
        "together, s|times faster"
    )
    images, machine = rows["n_examples"].iloc[0], rows["machine"].iloc[0]
    told = f"Moons, {images} examples each, processor seconds. Measured on: {machine}."
    return markdown(heading.split("|"), shown) + f"\n\n{told}"


def certified_at(rows: pd.DataFrame) -> dict[str, str]:
    """Return the headings of the certified accuracies, by column."""
    return {
        column: f"at {eps}"
        for column in map(str, rows)
        if (eps := column.removeprefix("certified_")) != column
    }


def frontier(name: str = "frontier", by: str = "certified_0.5") -> str:
    """Return clean and certified accuracy of all weights with a certificate that costs a pass."""
    rows = pd.read_csv(measuring.RESULTS / f"{name}.csv")
    radii = certified_at(rows)
    shown = []
    for row in rows.sort_values(by, ascending=False).to_dict("records"):
        seconds = row["training_seconds"]
        shown.append(
            (
                row["model"],
                f"{row['parameters']:,}",
                f"{seconds:.0f}" if seconds > 0 else "",
                percent(row["clean_accuracy"]),
                *(percent(row[column]) for column in radii),
            )
        )
    return markdown(("weights", "parameters", "training, s", "clean", *radii.values()), shown)


def budgets() -> str:
    """Return the best certified accuracy at each radius of weights trained within a time."""
    rows = pd.read_csv(measuring.RESULTS / "frontier.csv")
    radii = certified_at(rows)
    shown = []
    for most in BUDGETS:
        within = rows[rows["training_seconds"] <= most]
        best = [within.loc[within[column].idxmax()] for column in radii]
        cells = [
            f"{percent(row[column])} {row['model']}"
            for row, column in zip(best, radii, strict=True)
        ]
        shown.append(("any" if most == math.inf else f"at most {most:,.0f}", *cells))
    return markdown(("training, s", *radii.values()), shown)


def recipe_tries(name: str = "recipe_tries") -> str:
    """Return the accuracies that changed recipes gave on held-out training images."""
    rows = pd.read_csv(measuring.RESULTS / f"{name}.csv")
    radii = certified_at(rows)
    shown = [
        (
            row["model"],
            "" if pd.isna(row["changes"]) else row["changes"],
            f"{row['training_seconds']:.0f}",
            percent(row["clean_accuracy"]),
            *(percent(row[column]) for column in radii),
        )
        for row in rows.to_dict("records")
    ]
    return markdown(("recipe", "changes", "training, s", "clean", *radii.values()), shown)


def seeds(name: str = "seeds", sampled: str = "certified_0.5") -> str:
    """Return the mean of each accuracy over training seeds, the least and the most.

    sampled: the column of which the interval of sampling is shown beside them.
    """
    rows = pd.read_csv(measuring.RESULTS / f"{name}.csv")
    radii = certified_at(rows)
    shown = []
    for model, of_model in rows.groupby("model", sort=False):
        accuracies = [of_model[column] for column in ("clean_accuracy", *radii)]
        cells = [
            f"{percent(a.mean())} ({percent(a.min())} to {percent(a.max())})" for a in accuracies
        ]
        n = int(of_model["n_examples"].iloc[0])
        certified = round(float(of_model[sampled].mean()) * n)
        interval = binomtest(certified, n).proportion_ci()
        sampling = f"{percent(interval.low)} to {percent(interval.high)}"
        shown.append((model, len(of_model), *cells, sampling))
    interval_at = f"95 % interval of sampling {radii[sampled]}"
    heading = ("recipe", "seeds", "clean", *radii.values(), interval_at)
    return markdown(heading, shown)


def training_cost() -> str:
    """Return the cost of a training step, also relative to lipflow."""
    rows = pd.read_csv(measuring.RESULTS / "training_cost.csv")
    shown: list[tuple[object, ...]] = [
        (
            row["model"],
            f"{row['parameters']:,}",
            f"{1000 * row['seconds_a_step']:.0f}",
            f"{row['times_lipflow']:.2f}",
            row["epochs"],
            f"{row['training_seconds']:.0f}",
        )
        for row in rows.to_dict("records")
    ]
    heading = ("model", "parameters", "ms per step", "relative to lipflow", "epochs", "total, s")
    return markdown(heading, shown) + f"\n\nMeasured on: {rows['machine'].iloc[0]}."


def seed_experiment() -> str:
    """Return the accuracies of the published comparison at eps 0.5, by network and margin."""
    rows = pd.read_csv(measuring.RESULTS / f"seed_experiment_{DATASET}.csv")
    clean = rows[rows["eps"] == 0].set_index(["steps", "margin"])["certified"]
    shown: list[tuple[object, ...]] = [
        (
            row["steps"],
            f"{row['margin']:g}",
            f"{row['lipschitz_bound']:.3g}",
            percent(clean[row["steps"], row["margin"]]),
            percent(row["weak_pgd"]),
            percent(row["autoattack"]),
            percent(row["certified"]),
        )
        for row in rows[rows["eps"] == 0.5].to_dict("records")
    ]
    heading = "steps|margin|Lipschitz bound|clean|published PGD|AutoAttack|certified"
    return markdown(heading.split("|"), shown)


def seed_experiment_in_colour() -> str:
    """Return the published accuracies at eps 0.5 beside those measured on the JPEG copies."""
    published = pd.read_csv(SEED / "published.csv").set_index("steps")
    path = measuring.RESULTS / f"seed_experiment_{COPIES}.csv"
    rows = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["eps", "steps", "margin"])
    shown: list[tuple[object, ...]] = []
    for steps, one in published.iterrows():
        own = rows[(rows["steps"] == steps) & (rows["margin"] == one["margin"])]
        found = ["not measured", *[""] * 5]
        if len(own):
            clean, at = own[own["eps"] == 0].iloc[0], own[own["eps"] == 0.5].iloc[0]
            narrow = own[(own["eps"] - 36 / 255).abs() < 1e-9].iloc[0]
            found = [
                percent(clean["certified"]),
                *(percent(at[column]) for column in ("weak_pgd", "autoattack", "certified")),
                percent(narrow["certified"]),
                f"{at['lipschitz_bound']:.3g}",
            ]
        shown.append(
            (steps, f"{one['margin']:g}", percent(one["eps_0"]), percent(one["eps_0.5"]), *found)
        )
    heading = (
        "steps|margin|clean, published|PGD, published|clean|PGD|AutoAttack|certified|"
        "certified at 36/255|Lipschitz bound"
    )
    return markdown(heading.split("|"), shown)


def colour() -> str:
    """Return clean and certified accuracy of all weights for colour, on all test copies."""
    path = measuring.RESULTS / "colour.csv"
    rows = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["model"])
    radii = certified_at(rows)
    shown: list[tuple[object, ...]] = [
        (
            row["model"],
            f"{row['parameters']:,}",
            "" if pd.isna(row["training_seconds"]) else f"{row['training_seconds']:.0f}",
            percent(row["clean"]),
            *(percent(row[column]) for column in radii),
        )
        for row in rows.to_dict("records")
    ]
    return markdown(("weights", "parameters", "training, s", "clean", *radii.values()), shown)


def copies() -> str:
    """Return on how many pairs of an original and its copy the verdicts of a network differ."""
    path = measuring.RESULTS / "copies.csv"
    rows = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    shown: list[tuple[object, ...]] = [
        (
            row["model"],
            row["norm"],
            format_eps(row["eps"]),
            *(
                f"{row[f'{what}_originals']}, {row[f'{what}_copies']}, {row[f'{what}_differ']}"
                for what in ("clean", "certified", "empirical")
            ),
            "" if pd.isna(row["median_radius_apart"]) else f"{row['median_radius_apart']:.2g}",
        )
        for row in rows.to_dict("records")
    ]
    heading = "network|norm|eps|clean|certified|not broken|radii apart, median"
    table = markdown(heading.split("|"), shown)
    if rows.empty:
        return table
    most = {what: rows[f"{what}_differ"].max() for what in ("clean", "certified", "empirical")}
    return (
        f"{table}\n\nOf {rows['n'].max()} pairs, at most {most['clean']} differ in the clean "
        f"prediction, {most['certified']} in the certificate and {most['empirical']} in what the "
        "attacks leave."
    )


def claims() -> str:
    """Return the claims of each network that hold, and the tightness of its Lipschitz bound."""
    rows = pd.read_csv(measuring.RESULTS / "claims.csv", keep_default_na=False)
    rows = rows[(rows["dataset"] == DATASET) & (rows["claim"] != "card")]
    shown: list[tuple[object, ...]] = []
    for name, group in rows.groupby("model", sort=True):
        slopes = group[group["claim"] == "lipschitz"]
        ratio = 1 + slopes["defect"].max()
        bound = re.search(r"of at most (\S+):", str(slopes["note"].iloc[0]))
        holds_all = group.groupby("claim", sort=False)["holds"].all()
        names = [
            claim if holds else f"**not {claim}**"
            for claim, holds in holds_all.items()
            if claim not in CLAIMS_OF_ALL or not holds
        ]
        shown.append(
            (
                name,
                ", ".join(sorted(map(str, names))),
                bound[1] if bound else "",
                f"{ratio:.3f}" if ratio >= 0.001 else "< 0.001",
            )
        )
    heading = ("weights", "claims that hold", "Lipschitz bound", "largest slope over bound")
    return markdown(heading, shown)


def brackets(threat: str, dataset: str = DATASET) -> pd.DataFrame:
    """Return the best certified and the lowest empirical accuracy of each model, best first."""
    table = pd.read_csv(LEADERBOARDS / f"{dataset}-{threat}.csv")
    return table.groupby("model", sort=False).agg(
        family=("family", "first"),
        clean=("clean_accuracy", "first"),
        images=("n_examples", "first"),
        certified=("certified_accuracy", "max"),
        empirical=("empirical_accuracy", "min"),
        bound=("lipschitz_bound", "min"),
    )


def zoo() -> str:
    """Return certified and empirical accuracy of each published model in L2 and Linf."""
    return published(DATASET, ("L2-0.5", "Linf-2_255", "Linf-8_255"))


def zoo_in_colour() -> str:
    """Return the same of the networks for colour."""
    in_l2 = [f"L2-{eps}" for eps in ("36_255", "72_255", "108_255", "0.5", "1")]
    return published(COPIES, (*in_l2, "Linf-2_255", "Linf-8_255"))


def published(dataset: str, threats: Sequence[str]) -> str:
    """Return the published rows of a data set: a model a line, a threat model a column."""
    tables = [brackets(threat, dataset) for threat in threats]
    models = pd.concat(tables)
    models = models[~models.index.duplicated()]
    seconds = {name: one.training_seconds for name, one in weights_of(dataset).items()}
    shown = [
        (
            name,
            row["family"],
            "" if (spent := seconds.get(str(name).partition("~")[0])) is None else f"{spent:.0f}",
            _images(table.loc[name, "images"] for table in tables if name in table.index),
            percent(row["clean"]),
            *(
                f"{percent(table.loc[name, 'certified'])} / {percent(table.loc[name, 'empirical'])}"
                if name in table.index
                else ""
                for table in tables
            ),
        )
        for name, row in models.iterrows()
    ]
    heading = (
        "model",
        "family",
        "training, s",
        "images",
        "clean",
        *(threat.replace("_", "/") for threat in threats),
    )
    return markdown(heading, shown)


def _images(counts: Iterable[int]) -> str:
    """Say how many images the columns of a line are about."""
    return " or ".join(f"{count:,}" for count in sorted(set(counts), reverse=True))


def ceiling() -> str:
    """Return the networks with the most certified and the most unbroken of all test images."""
    table = brackets("L2-0.5")
    table = table[table["images"] == table["images"].max()]
    best = dict.fromkeys([table["certified"].idxmax(), table["empirical"].idxmax()])
    shown: list[tuple[object, ...]] = [
        (name, *(percent(row[kind]) for kind in ("clean", "certified", "empirical")))
        for name, row in table.loc[list(best)].iterrows()
    ]
    return markdown(("weights", "clean", "certified", "empirical"), shown)


def gaps() -> str:
    """Return the gap between certified and empirical accuracy, averaged over models."""
    shown: list[tuple[object, ...]] = []
    for threat in ("L2-0.25", "L2-0.5", "L2-1", "Linf-2_255", "Linf-8_255", "Linf-0.1"):
        bracket = brackets(threat)
        gap = bracket["empirical"] - bracket["certified"]
        constrained = gap[bracket["bound"] <= LARGEST_NONVACUOUS_BOUND]
        shown.append(
            (
                threat.replace("-", " ").replace("_", "/"),
                len(gap),
                percent(gap.mean()),
                len(constrained),
                percent(constrained.mean()),
                percent(constrained.median()),
                percent(constrained.max()),
                constrained.idxmax(),
            )
        )
    heading = (
        "threat model|models|mean gap|with a non-vacuous bound|their mean gap|their median gap|"
        "largest|of"
    )
    return markdown(heading.split("|"), shown)


def masked_gradients() -> str:
    """Return the results of the standard suite on each masked network, and those of BPDA."""
    rows = pd.read_csv(measuring.RESULTS / "masked_gradients.csv", keep_default_na=False)
    shown: list[tuple[object, ...]] = [
        (
            row["mask"],
            percent(row["clean"]),
            percent(row["empirical"]),
            percent(float(row["bpda"])) if row["bpda"] != "" else "",
            row["found_by"],
            row["flags"],
        )
        for row in rows.to_dict("records")
    ]
    return markdown(("mask", "clean", "empirical", "BPDA", "found by", "flags"), shown)


def rounding() -> str:
    """Return certified accuracy without, with the default, and with the strict allowance."""
    rows = pd.read_csv(measuring.RESULTS / "rounding.csv")
    shown: list[tuple[object, ...]] = []
    for model, group in rows.groupby("model", sort=True):
        if not group["without"].any():
            continue
        cells = [
            " / ".join(f"{row[name]:.1f}" for name in ("without", "default", "strict"))
            for row in group.sort_values(["norm", "eps"]).to_dict("records")
        ]
        shown.append((model, group["n_examples"].iloc[0], *cells))
    grid = rows.drop_duplicates(["norm", "eps"]).sort_values(["norm", "eps"])
    heading = [f"{row['norm']} {row['eps']:.3g}" for row in grid.to_dict("records")]
    return markdown(("network", "images", *heading), shown)


def adversaries() -> str:
    """Return the certificates, flags and refusals of each adversarial module."""
    rows = pd.read_csv(measuring.RESULTS / "adversaries.csv", keep_default_na=False)
    shown: list[tuple[object, ...]] = []
    for row in rows.to_dict("records"):
        refusals = [text.split(";")[0] for text in row["refusals"].split(" | ") if text]
        results = [row["certificates"], row["flags"], *refusals[:2]]
        trick = row["trick"].replace("|", "\\|")
        shown.append(
            (
                row["family"],
                f"`{row['adversary']}`",
                trick,
                row["refuted"],
                "; ".join(part for part in results if part).replace("|", "\\|"),
            )
        )
    heading = ("family", "module", "what it does", "refuted", "certificates, flags, refusals")
    return markdown(heading, shown)


def tried() -> str:
    """Return the number of cases that each module of tests/faults and tests/hostile tries."""
    rows = pd.read_csv(measuring.RESULTS / "tried.csv")
    shown: list[tuple[object, ...]] = [
        (row["kind"], row["subject"].replace("|", "\\|"), f"`{row['module']}`", row["cases"])
        for row in rows.to_dict("records")
    ]
    shown.append(("all", "", f"{len(rows)} modules", rows["cases"].sum()))
    return markdown(("kind", "subject", "module", "cases"), shown)


def isolation() -> str:
    """Return what the border between two processes costs."""
    rows = pd.read_csv(measuring.RESULTS / "isolation.csv")
    shown: list[tuple[object, ...]] = [
        (
            row["threads"],
            row["work"],
            f"{row['median_seconds_inside']:.3g}",
            f"{row['median_seconds_outside']:.3g}",
            f"{row['times_inside']:.2f}",
            row["pairs"],
        )
        for row in rows.to_dict("records")
    ]
    return markdown(("threads", "work", "seconds inside", "outside", "ratio", "pairs"), shown)


def faults() -> str:
    """Return how many faults of each command were tried, and what they did."""
    rows = pd.read_csv(measuring.RESULTS / "faults.csv")
    counts = ["tried", "at_work", "survived", "lost", "unequal", "corrupt", "half_written"]
    counts += ["orphans", "leftovers", "tracebacks"]
    shown: list[tuple[object, ...]] = [
        (row["fault"], row["command"], *(row[name] for name in counts))
        for row in rows.to_dict("records")
    ]
    shown.append(("all", "", *rows[counts].sum()))
    heading = (name.replace("_", " ") for name in counts)
    return markdown(("fault", "command", *heading), shown)


def cheats() -> str:
    """Return what is reported of each cheating model, and how it ends."""
    rows = pd.read_csv(measuring.RESULTS / "cheats.csv", keep_default_na=False)
    first = rows.iloc[0]
    shown: list[tuple[object, ...]] = []
    for row in rows.to_dict("records"):
        refused = bool(row["error"])
        numbers = [
            "" if refused else f"{100 * int(row[name]) / int(row['n_examples']):.1f}"
            for name in ("clean", "certified", "empirical")
        ]
        signs = row["error"].split(";")[0] if refused else row["flags"]
        ended = row["outcome"] + (f": {row['why_not']}" if row["why_not"] else "")
        shown.append((f"`{row['cheat']}`", row["trick"], *numbers, ended, signs))
    share = 100 / int(first["n_examples"])
    heading = "cheat|what it does|clean|certified|empirical|outcome|flags or error"
    return (
        f"The truth: {share * int(first['true_clean']):.1f} % clean, "
        f"{share * int(first['true_robust']):.1f} % robust, of {first['n_examples']} examples.\n\n"
        + markdown(heading.split("|"), shown)
    )


TABLES: dict[str, Callable[[], str]] = {
    "tried": tried,
    "faults": faults,
    "isolation": isolation,
    "soundness": soundness,
    "certifier_cost": certifier_cost,
    "small_brackets": small_brackets,
    "joint_search": joint_search,
    "frontier": frontier,
    "frontier_linf": lambda: frontier("frontier_Linf", "certified_0.1"),
    "budgets": budgets,
    "recipe_tries": recipe_tries,
    "recipe_tries_linf": lambda: recipe_tries("recipe_tries_Linf"),
    "seeds": seeds,
    "seeds_linf": lambda: seeds("seeds_Linf", "certified_0.1"),
    "training_cost": training_cost,
    "zoo": zoo,
    "zoo_in_colour": zoo_in_colour,
    "claims": claims,
    "seed_experiment": seed_experiment,
    "seed_experiment_in_colour": seed_experiment_in_colour,
    "colour": colour,
    "copies": copies,
    "ceiling": ceiling,
    "gaps": gaps,
    "masked_gradients": masked_gradients,
    "rounding": rounding,
    "adversaries": adversaries,
    "cheats": cheats,
    **extending.TABLES,
}


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def markdown(heading: Sequence[object], rows: list[tuple[object, ...]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def fill(page: str) -> str:
    """Return a page with all its tables rewritten; raises KeyError for an unknown table."""

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- table {name} -->\n\n{TABLES[name]()}\n\n<!-- end of {name} -->"

    marked = r"<!-- table (?P<name>\w+) -->.*?<!-- end of (?P=name) -->"
    return re.sub(marked, table, page, flags=re.DOTALL)


def main() -> None:
    for path in sorted(DOCS.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        filled = fill(page)
        if filled != page:
            path.write_text(filled, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
