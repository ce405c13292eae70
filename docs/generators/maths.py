"""Formulas as MathML, which browsers draw themselves: no script, nothing from elsewhere."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

_BAR = re.compile(r"<mo([^>]*)>([‖|])</mo>")


def mathml(formula: str, *, as_block: bool = False) -> str:
    """Return a formula of LaTeX as MathML; the bars of a norm keep their size.

    An index is part of the closing bar for the browser, which would stretch the opening one to it.
    """
    shown = tex2mathml(formula, as_block=as_block)
    return _BAR.sub(_of_its_size, shown)


def _of_its_size(bar: re.Match[str]) -> str:
    form = "prefix" if "mathopen" in bar[1] else "postfix"
    return f'<mo form="{form}" stretchy="false">{bar[2]}</mo>'


def inline(translator: Any, node: nodes.Element) -> NoReturn:
    """Write a formula within a line."""
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.Element) -> NoReturn:
    """Write a formula on a line of its own, which a narrow screen scrolls."""
    shown = mathml(node.astext(), as_block=True)
    translator.body.append(f'<div class="formula">{shown}</div>\n')
    raise nodes.SkipNode
