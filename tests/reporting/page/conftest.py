"""Sites of models that do not exist, and a browser that looks at them."""

import shutil

import pytest
from oracles.evidence import evidence
from oracles.hostile_names import HOSTILE, IMAGE, SCRIPT, TEMPLATE
from published_rows import published_rows

from robustbench_dyn.plugins import load_plugins
from robustbench_dyn.reporting.page import write_page
from robustbench_dyn.reporting.properties import Findings, Measured
from robustbench_dyn.reporting.published import entry_of
from robustbench_dyn.reporting.ranking import ranked

BROWSER = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
THREAT_MODELS = (
    ("fashion_mnist", "L2", 0.25),
    ("fashion_mnist", "L2", 0.5),
    ("cifar10", "Linf", 8 / 255),
)
CARD = f"""\
name: mine
family: Mine
summary: "{SCRIPT}"
equation: ["{TEMPLATE}", "x < y"]
version: "1"
properties: []
sources: ["arXiv 2210.02373", "javascript:alert(1)"]
authors: ["{IMAGE.replace('"', chr(92) + '"')}"]
weights: []
"""


@pytest.fixture(scope="session")
def entries():
    """Return rows of six models on three threat models, with seeds, flags and other images."""
    return published_rows(6, 120, threat_models=THREAT_MODELS)


@pytest.fixture(scope="session")
def findings(entries):
    """Return one property that holds of the first model, and one that does not."""
    weights = entries[0].row["weights_sha256"]
    told = {"model": "lipflow", "dataset": "fashion_mnist", "part": "features", "parts": 2}
    told |= {"points": "random", "tolerance": 1e-6, "note": "", "weights_sha256": weights}
    return Findings(
        [
            Measured(**told, claim="nonexpansive", defect=1e-9, holds=True),
            Measured(**told, claim="invertible", defect=0.25, holds=False),
        ]
    )


@pytest.fixture(scope="session")
def site(entries, findings, tmp_path_factory):
    """Return the folder of a site with usual names."""
    folder = tmp_path_factory.mktemp("page") / "site"
    write_page(entries, findings, folder)
    return folder


@pytest.fixture(scope="module")
def hostile_site(tmp_path_factory, own_plugins_of_a_module):
    """Return the folder of a site whose families, attacks, certifiers and card are hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "mine").mkdir()
    (folder / "mine/card.yaml").write_text(CARD)
    (folder / "mine/__init__.py").write_text("def build(input_shape, n_classes): ...\n")
    load_plugins(folder / "mine")
    entries = ranked(
        [
            entry_of(
                evidence(
                    model,
                    "ccbum",
                    family=family,
                    attacks=(IMAGE, TEMPLATE),
                    certifiers=(SCRIPT,),
                    device=IMAGE,
                    suite=TEMPLATE,
                    weights_sha256=str(k) * 64,
                ),
                "a row",
            )
            for k, (model, family) in enumerate(zip(("mine", "b", "c"), HOSTILE, strict=True))
        ]
    )
    entries = [entry._replace(row=entry.row | {"open_flags": ""}) for entry in entries]
    write_page(entries, Findings(), folder / "site", title=SCRIPT)
    return folder / "site"


@pytest.fixture(scope="session")
def browser():
    """Return Debian's browser, which the tests share; each opens a context of its own."""
    if BROWSER is None:
        pytest.skip("there is no chromium; install it by: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield opened
        opened.close()


class Tab:
    """A tab that notes what goes wrong: messages of errors, and requests that leave the site."""

    def __init__(self, page, folder):
        self.page, self.folder = page, folder
        self.errors, self.requests = [], []
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def _note(self, kind, text):
        if kind in ("error", "warning"):
            self.errors.append(text)

    def open(self, name):
        self.page.goto(f"{self.folder.as_uri()}/{name}")
        return self.page

    def left(self):
        """Return the requests for anything outside of the folder."""
        inside = (self.folder.as_uri(), "data:")
        return [url for url in self.requests if not url.startswith(inside)]


@pytest.fixture
def tab_of(browser):
    """Return a function that opens a tab on a site; at the end no tab may have noted an error."""
    contexts, tabs = [], []

    def open_tab(folder, *, width=1280, scripts=True, theme="light"):
        contexts.append(
            browser.new_context(
                viewport={"width": width, "height": 900},
                java_script_enabled=scripts,
                color_scheme=theme,
            )
        )
        tabs.append(Tab(contexts[-1].new_page(), folder))
        return tabs[-1]

    yield open_tab
    for context in contexts:
        context.close()
    assert [error for tab in tabs for error in tab.errors] == []
    assert [url for tab in tabs for url in tab.left()] == []


@pytest.fixture
def tab(tab_of, site):
    """Return a tab on the site with usual names."""
    return tab_of(site)
