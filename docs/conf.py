"""Configuration of the documentation's site; `python docs/build_site.py` builds and checks it."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT)]

from generators import generate, links, maths, notes  # noqa: E402

from robustbench_dyn import __version__  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = PROJECT["name"]
author = PROJECT["authors"][0]["name"]
copyright = f"2026 {author}"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
exclude_patterns = ["_build", "generators", "**/requirements.txt"]
nitpicky = True
# Types of other packages, and of modules that the reference does not describe: their documents
# are elsewhere, and the build has no network.
nitpick_ignore_regex = [(r"py:.*", r"(?!robustbench_dyn\.[A-Za-z_]+$).*")]

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

# Options are written --like-this in the help texts.
smartquotes = False

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "default"
pygments_dark_style = "github-dark"


def setup(app: Any) -> None:
    """Write the generated pages, and connect what reads and renders pages."""
    generate(DOCS)
    app.connect("source-read", links.read)
    app.connect("missing-reference", links.resolve)
    app.connect("autodoc-process-docstring", notes.process)
    app.connect("autodoc-process-signature", notes.signature)
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(maths.inline, None),
        block_renderers=(maths.block, None),
    )


html_math_renderer = "mathml"
