"""A page for each architecture of the zoo, from its card, its weights and the published tables."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from generators import links
from generators.markdown import block, escaped, inline, literal, page, table
from robustbench_dyn.models.architectures import split_name
from robustbench_dyn.plugins import Card, find_plugins
from robustbench_dyn.reporting.page.cards import address
from robustbench_dyn.threat_models import format_eps

TABLES = links.ROOT / "leaderboards"
COMMANDS = ("dynbench show {}", "dynbench check {}", "dynbench run --model {}")
FLOW = "Sixty points of the two moons on their way through the layers, and the decision regions."
MEASURED = (
    "Measured on the trained weights in float64: the largest defect of all tested points and parts."
)
COLUMNS = ("model", "certified %", "empirical %", "clean %", "examples", "certifiers", "flags")


def pages(_docs: Path) -> dict[str, str]:
    """Return a page for each architecture that ships."""
    found = sorted(path.parent.name for path in (links.ROOT / "plugins").glob("*/card.yaml"))
    cards = {plugin.name: plugin.card for plugin in find_plugins() if plugin.card}
    return {f"zoo/{name}.md": of(name, cards[name]) for name in found}


def of(name: str, card: Card) -> str:
    """Return the page of one architecture."""
    return page(
        name,
        f"*{escaped(card.family)}.* {inline(card.summary)}",
        "\n\n".join(equation(card)),
        picture(name),
        "\n\n".join(claims(name, card)),
        "\n\n".join(rows(name)),
        "\n\n".join(weights(name, card)),
        "\n\n".join(sources(card)),
        "## Run it",
        block("\n".join(line.format(name) for line in COMMANDS), "console"),
        f"The code: [plugins/{name}](../../plugins/{name}/__init__.py).",
    )


def equation(card: Card) -> Iterator[str]:
    """Yield the equation of the card."""
    if card.equation:
        yield "## Equation"
        yield block("\n".join(card.equation))


def picture(name: str) -> str:
    """Return the picture of the flow, where the gallery has one."""
    path = links.DOCS / "gallery" / f"flow-{name}.png"
    if not path.exists():
        return ""
    shown = f"![{FLOW}](../gallery/{path.name})"
    return f"## Flow\n\n{shown}\n\n{FLOW} [The gallery](../gallery.md) explains."


def claims(name: str, card: Card) -> Iterator[str]:
    """Yield the claims of the card, with the defects that `--check` measured."""
    if not card.properties:
        return
    yield "## Claims"
    yield "The card claims: " + ", ".join(map(literal, card.properties)) + "."
    path = TABLES / "properties.csv"
    if not path.exists():
        return
    found = pd.read_csv(path, keep_default_na=False)
    found = found[[split_name(model)[0] == name for model in found["model"]]]
    if len(found):
        yield MEASURED
        groups = found.groupby(["model", "claim", "part"], sort=False)
        shown = (finding(place, rows.to_dict("list")) for place, rows in groups)
        yield table(
            ("model", "claim", "largest at", "tested on", "defect", "tolerance", "holds"), shown
        )


def finding(place: Iterable[object], found: Mapping[Hashable, Any]) -> tuple[str, ...]:
    """Return a row of the table of claims: the largest defect over all points of the test."""
    model, claim, part = map(str, place)
    return (
        literal(model),
        escaped(claim),
        literal(part) if part else "network",
        escaped(", ".join(found["points"])),
        literal(f"{max(map(float, found['defect'])):.2g}"),
        literal(f"{max(map(float, found['tolerance'])):.2g}"),
        "yes" if all(map(holds, found["holds"])) else "**no**",
    )


def holds(value: object) -> bool:
    """Return whether a column of True and False, which CSV may have made text, says True."""
    return str(value) == "True"


def rows(name: str) -> Iterator[str]:
    """Yield the published rows of all variants, by threat model."""
    of_all = [of_model(path, name) for path in TABLES.glob("*-*.csv")]
    tables = [found for found in of_all if len(found)]
    if tables:
        yield "## Published rows"
        yield "Certified means proved; empirical means not broken by the attacks of the suite."
    for found in sorted(tables, key=threat_model):
        dataset, norm, eps = threat_model(found)
        yield f"### {escaped(dataset)}, {norm}, eps {format_eps(eps)}"
        cells = [row(one) for one in found.to_dict("records")]
        flagged = any(cell[-1] for cell in cells)
        yield table(COLUMNS[: None if flagged else -1], (c if flagged else c[:-1] for c in cells))
    if tables:
        yield "[All tables](../results/leaderboards.md)"


def of_model(path: Path, name: str) -> pd.DataFrame:
    """Return the rows of a table that are of an architecture."""
    found = pd.read_csv(path, keep_default_na=False)
    return found[[base(model) == name for model in found["model"]]]


def threat_model(found: pd.DataFrame) -> tuple[str, str, float]:
    """Return data set, norm and eps of a table."""
    first = found.iloc[0]
    return str(first["dataset"]), str(first["norm"]), float(first["eps"])


def base(model: str) -> str:
    """Return the architecture of a model's name in a table."""
    return split_name(model)[0].partition("~")[0]


def row(of_table: Mapping[Hashable, Any]) -> tuple[str, ...]:
    """Return a row of a table as cells."""
    accuracies = [of_table[f"{kind}_accuracy"] for kind in ("certified", "empirical", "clean")]
    return (
        literal(of_table["model"]),
        *(f"{100 * float(value):.1f}" if value != "" else "" for value in accuracies),
        str(of_table["n_examples"]),
        escaped(str(of_table["certifiers"]).replace("+", ", ")),
        escaped(of_table["open_flags"]),
    )


def weights(name: str, card: Card) -> Iterator[str]:
    """Yield the sets of weights of a card, and their recipes."""
    if not card.weights:
        return
    yield "## Weights"
    shown = []
    for one in card.weights:
        full = f"{name}/{one.variant}" if one.variant else name
        options = ", ".join(f"{key}={value}" for key, value in one.options.items())
        seconds = f"{one.training_seconds:,.0f}" if one.training_seconds else ""
        recipe = Path(one.recipe).name if one.recipe else ""
        shown.append(
            (
                literal(full),
                literal(one.dataset),
                one.norm or "",
                escaped(options),
                seconds,
                literal(recipe) if recipe else "",
                literal(one.sha256[:12]),
            )
        )
    headings = ("model", "data set", "norm", "options", "training, s", "recipe", "SHA-256")
    yield table(headings, shown)


def sources(card: Card) -> Iterator[str]:
    """Yield the papers that a card names."""
    if card.sources:
        yield "## Sources"
        yield "\n".join(f"- {linked(source)}" for source in card.sources)


def linked(source: str) -> str:
    """Return a source as a link, where its address is known."""
    where = address(source)
    return f"[{escaped(source)}]({where})" if where else escaped(source)
