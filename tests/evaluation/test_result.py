"""Evaluations as they are shown: repr, HTML, Markdown, arrays, figures."""

import dataclasses
import pickle
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from oracles import halfspaces, points

from robustbench_dyn import (
    Smoothing,
    ThreatModel,
    evaluate,
    evaluate_distances,
    evaluate_smoothed,
    load_dataset,
    load_model,
)
from robustbench_dyn.results.attempts import Attempt, Spread
from robustbench_dyn.results.verdicts import EXAMPLE_COLUMNS

DISTANCES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.45)
L2 = ThreatModel("L2", 0.25)


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(halfspaces(), points(DISTANCES), L2, attacks="pgd", name="half")


@pytest.fixture(scope="module")
def curve():
    return evaluate_distances(halfspaces(), points(DISTANCES), "L2", n_radii=5, name="half")


@pytest.fixture(scope="module")
def smoothed():
    model, data = load_model("lipflow", dataset="moons"), load_dataset("moons", n_examples=6)
    radii = [ThreatModel("L2", 0.05), ThreatModel("L2", 0.1)]
    return evaluate_smoothed(model, data, radii, Smoothing(0.1, n0=10, n=50), attacked=False)


class Texts(HTMLParser):
    """Collects the texts of a document; each tag must be closed."""

    def __init__(self):
        super().__init__()
        self.texts, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def texts(html):
    parser = Texts()
    parser.feed(html)
    assert not parser.open
    return parser.texts


def test_the_repr_is_one_line_with_bracket_and_counts(evaluation, curve, smoothed):
    assert repr(evaluation).startswith("Evaluation(half on 6 examples of custom")
    assert "L2 eps 0.25: robust accuracy in [50.0 %, 50.0 %]; 3 certified" in repr(evaluation)
    assert repr(curve).startswith("CurveEvaluation(half on 6 examples of custom")
    assert "[100.0 %, 100.0 %] at 0," in repr(curve)
    assert "lipflow~0.1" in repr(smoothed)
    for one in (evaluation, curve, smoothed):
        assert "\n" not in repr(one)


def test_the_last_column_has_the_adversarial_examples(evaluation):
    table = evaluation.examples
    assert tuple(table.columns) == (*EXAMPLE_COLUMNS, "x_adv")
    x = evaluation.data.x.numpy()
    for place, row in table.iterrows():
        if row["status"] != "broken":
            assert row["x_adv"] is None
            continue
        assert (row["x_adv"].shape, row["x_adv"].dtype) == (x[0].shape, x.dtype)
        distance = np.linalg.norm((row["x_adv"].astype(float) - x[place]).ravel())
        assert distance == pytest.approx(row["adversarial_distance"])
        row["x_adv"][:] = 0  # an array of its own, which may be written into
    assert table["x_adv"].notna().sum() == 3


def test_the_html_has_the_counts_the_row_and_the_notes(evaluation):
    html = evaluation._repr_html_()
    told = texts(html)
    for words in ("half on 6 examples of custom", "[50.0 %, 50.0 %]", "50.0", "attacked with pgd"):
        assert any(words in text for text in told), words
    svg = ET.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])
    widths = [float(part.get("width")) for part in svg.iter("rect")]
    assert widths == [300, 300]


def test_the_html_has_the_colours_of_its_page(evaluation, curve):
    for html in (evaluation._repr_html_(), curve._repr_html_()):
        assert "currentColor" in html or "color:inherit" in html
        assert "background:#fff" not in html
        assert "black" not in html


def test_texts_from_outside_are_escaped(evaluation):
    evil = "<script>alert(1)</script>&\"'"
    summary = evaluation.summary | {"model": evil, "certifiers": evil, "flags": evil}
    attempt = Attempt(certifier=evil, eps=0.1, not_applicable=evil)
    shown = dataclasses.replace(evaluation, summary=summary, attempts=(attempt,))
    html = shown._repr_html_()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5
    assert any(evil in text for text in texts(html))
    assert "<script" not in shown.to_markdown()


def test_what_certifiers_lacked_is_told(evaluation):
    short = Attempt(certifier="lipschitz", eps=0.1, tried=9, radii=Spread(0.03, 0.01))
    unfit = Attempt(certifier="interval", eps=0.1, not_applicable="it does not know 'gelu'")
    shown = dataclasses.replace(evaluation, attempts=(short, unfit))
    for text in (shown._repr_html_(), shown.to_markdown()):
        assert "lipschitz: proved 0 of 9 examples; its radii reach 0.03 (median 0.01)" in text
        assert "interval: not run: it does not know" in text


def test_flags_are_explained(evaluation):
    summary = evaluation.summary | {"flags": "errors:2"}
    flagged = dataclasses.replace(evaluation, summary=summary)
    for text in (flagged._repr_html_(), flagged.to_markdown()):
        assert "flag errors:2: the logits of so many examples are not finite" in text
    assert "errors:2" not in evaluation.to_markdown()


def test_an_evaluation_without_attack_goes_up_to_clean():
    evaluation = evaluate(halfspaces(), points(DISTANCES), L2, attacks="none")
    assert "robust accuracy in [50.0 %, 100.0 %]" in repr(evaluation)
    assert "attacked with none" in evaluation.to_markdown()


def cells(markdown):
    rows = [line.strip("|").split("|") for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def test_markdown_is_a_table_with_the_row(evaluation):
    headings, rule, row = cells(evaluation.to_markdown())
    assert len(headings) == len(rule) == len(row)
    told = dict(zip(headings, row, strict=True))
    assert (told["certified %"], told["broken"], told["gap"]) == ("50.0", "3", "0.0")


def test_a_curve_is_told_at_its_radii(curve):
    rows = cells(curve.to_markdown())
    assert rows[0] == ["eps", "certified %", "empirical %"]
    assert len(rows) == 2 + len(curve.radii)
    assert "attacked with fab-min" in curve.to_markdown()
    assert "certified and empirical accuracy" in curve._repr_html_()


def test_a_curve_names_the_certifiers_of_its_grid():
    found = evaluate_distances(
        halfspaces(), points(DISTANCES), "L2", n_radii=3, certifiers="lipschitz,interval"
    )
    assert found.summary["certifiers"] == "lipschitz+interval"


def test_a_smoothed_evaluation_has_the_attributes_of_the_first(smoothed):
    first, second = smoothed.evaluations
    assert smoothed.summary is first.summary
    assert smoothed.examples is first.examples
    for name in ("verdicts", "threat_model", "key", "costs", "not_applicable", "data"):
        assert getattr(smoothed, name) == getattr(first, name)
    assert smoothed.at(0.1) is second
    with pytest.raises(ValueError, match=r"eps=0.2 was not evaluated; choose one of 0.05, 0.1"):
        smoothed.at(0.2)
    assert len(cells(smoothed.to_markdown())) == 4
    assert smoothed._repr_html_().count("<svg") == 2


@pytest.mark.parametrize("kind", ["evaluation", "curve", "smoothed"])
def test_all_kinds_can_be_plotted_and_shown(kind, request):
    one = request.getfixturevalue(kind)
    for figure in (one.plot(), one.plot(title="mine"), one.show(0)):
        assert figure.axes
    assert "mine" in one.plot(title="mine").get_suptitle()


def test_a_pickled_evaluation_leaves_the_model_behind(evaluation):
    copy = pickle.loads(pickle.dumps(evaluation))
    assert evaluation.model is not None
    assert copy.model is None
    assert repr(copy) == repr(evaluation)
    assert "makes it another class" in copy.show(0).get_suptitle()
