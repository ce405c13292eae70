"""Measured properties: the worst finding of each claim, in a file that reads back."""

import math
from types import SimpleNamespace

import pytest
import torch
from oracles.command import dynbench_here
from oracles.digits_plugin import write_plugin
from oracles.entries import entry

from robustbench_dyn.errors import InputError
from robustbench_dyn.properties import architectures
from robustbench_dyn.properties.base import Finding
from robustbench_dyn.reporting.properties import (
    Findings,
    Measured,
    measure,
    read_findings,
    to_csv,
)
from robustbench_dyn.reporting.published import read_folder
from robustbench_dyn.reporting.publishing import publish

HOLDS = Measured(
    "m/v~0.5", "digits", "lipschitz", "features.0", "data", 0.25, 0.5, True, "a note", "1" * 64, 3
)
FAILS = HOLDS._replace(claim="symplectic", defect=math.nextafter(0.5, 1), holds=False)
OTHER = HOLDS._replace(model="other", weights_sha256="2" * 64)


@pytest.mark.parametrize("text", ["=1+1", "-x", "a,b", 'a"b', "a\nb", "a\rb", "'=", ""])
def test_findings_read_back_as_they_were(text, tmp_path):
    path = tmp_path / "properties.csv"
    written = [HOLDS, FAILS._replace(note=text, defect=math.inf), OTHER._replace(part=text)]
    path.write_text(to_csv(Findings(written)), newline="")
    assert read_findings(path).measured == written


def test_a_defect_that_is_no_number_reads_back_as_a_failure(tmp_path):
    path = tmp_path / "properties.csv"
    path.write_text(to_csv(Findings([FAILS._replace(defect=math.nan)])))
    (read,) = read_findings(path).measured
    assert math.isnan(read.defect)
    assert not read.holds


def test_findings_are_those_of_the_weights():
    findings = Findings([HOLDS, FAILS, FAILS._replace(points="random"), OTHER])
    assert findings.of({"weights_sha256": "2" * 64}) == [OTHER]
    assert findings.failed({"weights_sha256": "1" * 64}) == ["symplectic"]
    assert findings.failed({"weights_sha256": "2" * 64}) == []
    for unknown in ("", None, "3" * 64):
        assert findings.of({"weights_sha256": unknown}) == []


def test_without_a_file_there_are_no_findings(tmp_path):
    assert read_findings(tmp_path / "properties.csv").measured == []


def line_of(**changes):
    return to_csv(Findings([HOLDS._replace(**changes)])).encode()


GOOD = line_of()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must have the columns model, dataset"),
        (GOOD.replace(b"claim", b"promise"), "must have the columns model, dataset"),
        (GOOD.replace(b"model,dataset", b"dataset,model"), "must have the columns"),
        (line_of(holds=False), "line 2: holds=False, but the defect is 0.25 of 0.5"),
        (line_of(defect=0.75), "line 2: holds=True, but the defect is 0.75 of 0.5"),
        (line_of(defect=math.nan), "holds=True, but the defect is nan"),
        (line_of(holds="yes"), "line 2 is no finding"),
        (line_of(defect="x"), "line 2 is no finding"),
        (line_of(parts=1.5), "line 2 is no finding"),
        (GOOD[:-1] + b",more\n", "line 2 is no finding"),
        (GOOD + b"a,b\n", "line 3 is no finding"),
        (GOOD + b'"open', "no table of findings"),
        (GOOD + b"\xff\n", "no table of findings"),
    ],
)
def test_a_file_that_no_version_wrote_is_refused(content, words, tmp_path):
    path = tmp_path / "properties.csv"
    path.write_bytes(GOOD)
    assert read_findings(path).measured == [HOLDS]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"properties\.csv") as caught:
        read_findings(path)
    assert words in str(caught.value)


def test_what_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "properties.csv").symlink_to("/proc/self/mem")
    with pytest.raises(InputError):
        read_findings(tmp_path / "properties.csv")


def test_the_worst_finding_of_each_claim_and_kind_of_points_is_kept(monkeypatch):
    found = [
        Finding("a", "x", "data", 0.5, 1.0),
        Finding("a", "y", "data", 5.0, 4.9, note="worst"),
        Finding("a", "z", "data", 0.9, 1.0),
        Finding("a", "x", "random", 0.1, 1.0),
        Finding("b", "x", "data", 9.0, 1.0),
        Finding("b", "y", "data", math.nan, 1.0, witness=torch.zeros(1)),
    ]
    monkeypatch.setattr(architectures, "check_architecture", lambda *_, **__: iter(found))
    weights = SimpleNamespace(dataset="digits", variant="v", sha256="1" * 64)
    measured = measure([(SimpleNamespace(name="m"), weights)])
    assert [(one.claim, one.points, one.part, one.parts) for one in measured] == [
        ("a", "data", "y", 3),
        ("a", "random", "x", 1),
        ("b", "data", "y", 2),
    ]
    assert [one.holds for one in measured] == [False, True, False]
    assert {one.model for one in measured} == {"m/v"}
    assert measured[0].note == "worst"


def test_the_command_measures_weights_that_were_not_measured(
    tmp_path, monkeypatch, capsys, untrusted
):
    found = [Finding("card", "", "names", 1.0, 0.0), Finding("lipschitz", "", "data", 0.0, 1.0)]
    monkeypatch.setattr(architectures, "check_architecture", lambda *_, **__: iter(found))
    card = write_plugin(tmp_path / "linear") / "card.yaml"
    digest = card.read_text().partition("sha256: ")[2][:64]
    publish([entry("linear", "ccb", weights_sha256=digest), entry("m", "ccb")], tmp_path / "t")

    def check(*more):
        line = ["leaderboard", "--to", "t", "--check", "--plugins", "linear", *more]
        result = dynbench_here(line, tmp_path, monkeypatch, capsys)
        assert result.returncode == 0, result.stderr
        flags = {one.row["model"]: one.row["open_flags"] for one in read_folder(tmp_path / "t")}
        return flags, read_findings(tmp_path / "t" / "properties.csv").measured

    flags, measured = check()
    assert (flags, measured) == ({"linear": "", "m": ""}, []), "code of others is not run"
    flags, measured = check("--trust")
    assert flags == {"linear": "property_failed:card", "m": ""}
    assert {one.weights_sha256 for one in measured} == {digest}
    assert [one.claim for one in measured] == ["card", "lipschitz"]
    monkeypatch.setattr(architectures, "check_architecture", lambda *_, **__: 1 / 0)
    assert check("--trust")[1] == measured
