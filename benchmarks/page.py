"""The site of many models: its size, how long it takes to write, and when a browser paints it.

    python benchmarks/page.py [--models 26] [--examples 1000] [--screenshots FOLDER]

Rows are of models that do not exist, on eight threat models, with evidence (published_rows.py).
first_paint is the first contentful paint in Chromium, of pages opened from the disk, the median of
several. --screenshots: also write pictures of each page at two widths and in both themes.
Results: benchmarks/results/page.csv.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measuring
from playwright.sync_api import Browser, sync_playwright
from published_rows import THREAT_MODELS, published_rows

from robustbench_dyn.reporting.page import write_page
from robustbench_dyn.reporting.properties import Findings

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PAGES = {
    "index": "index.html",
    "model": "models/lipflow.html",
    "curves": "curves.html",
    "compare": "compare.html?a=lipflow&b=sll",
}
RUNS = 5
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(ARGUMENTS)
        )
        yield browser
        browser.close()


def first_paint(browser: Browser, address: str) -> float:
    """Return the seconds until a page shows its first text, the median of fresh contexts."""
    taken = []
    for _ in range(RUNS):
        with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
            page = context.new_page()
            page.goto(address)
            page.wait_for_function(f"() => {PAINT} !== undefined")
            taken.append(page.evaluate(PAINT) / 1000)
    return statistics.median(taken)


def take_screenshots(browser: Browser, site: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for width in (390, 1280):
        for theme in ("light", "dark"):
            viewport: Any = {"width": width, "height": 900}
            with browser.new_context(viewport=viewport, color_scheme=theme) as context:
                for name, address in PAGES.items():
                    page = context.new_page()
                    page.goto(f"{site.as_uri()}/{address}")
                    page.screenshot(path=folder / f"{name}-{width}-{theme}.png", full_page=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=26)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--screenshots", type=Path)
    arguments = parser.parse_args()
    entries = published_rows(arguments.models, arguments.examples)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        site = Path(folder) / "site"
        started = time.perf_counter()
        written = write_page(entries, Findings(), site)
        seconds = time.perf_counter() - started
        if arguments.screenshots:
            take_screenshots(browser, site, arguments.screenshots)
        common = {
            "models": arguments.models,
            "threat_models": len(THREAT_MODELS),
            "rows": len(entries),
            "examples": arguments.examples,
            "site_bytes": sum(path.stat().st_size for path in written),
            "build_seconds": round(seconds, 2),
        }
        rows = [
            {
                "page": name,
                "page_bytes": (site / address.partition("?")[0]).stat().st_size,
                "first_paint": round(first_paint(browser, f"{site.as_uri()}/{address}"), 3),
                **common,
            }
            for name, address in PAGES.items()
        ]
    measuring.write("page", rows)


if __name__ == "__main__":
    main()
