"""Tables in the terminal: headings, numbers and sentences as people read them, at any width."""

import json
import re

import pytest
from oracles.command import dynbench_here
from oracles.evidence import evidence

from robustbench_dyn.cli.terminal import sweep_table
from robustbench_dyn.results.headings import heading

ON_MOONS = ("--model", "feedforward", "--dataset", "moons", "--n-examples", "8")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    return lambda *arguments: dynbench_here(arguments, tmp_path, monkeypatch, capsys)


@pytest.fixture
def screen(command, monkeypatch):
    """A function that returns the lines of a command in a terminal of some width."""

    def show(width, *arguments):
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(width))
        result = command(*arguments)
        assert result.returncode == 0, result.stderr
        return re.sub(r"\x1b\[[0-9;]*m", "", result.stdout).splitlines()

    return show


@pytest.mark.parametrize(("eps", "text"), [(8 / 255, "8/255"), (0.5, "0.5"), (1.0, "1")])
def test_a_sweep_is_printed_in_the_words_of_all_tables(eps, text, capsys):
    sweep_table([evidence("lipflow", "ccub", eps=eps).row()])
    out, _ = capsys.readouterr()
    headings, row = (re.split(r" {2,}", line.strip()) for line in out.splitlines()[:2])
    cells = dict(zip(headings, row, strict=True))
    assert cells["eps"] == text
    assert cells[heading("certified_accuracy")] == cells["certified %"] == "50.0"
    assert cells["data set"] == "digits"


WIDTHS = (40, 60, 80)
COMMANDS = [
    ("list", "models"),
    ("list", "datasets"),
    ("list", "attacks"),
    ("list", "certifiers"),
    ("list", "operations"),
    ("run", *ON_MOONS, "--eps", "0.1", "--attacks", "pgd", "--profile"),
    ("curve", *ON_MOONS, "--eps", "0.05", "--eps", "0.1", "--certifiers", "lipschitz"),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:2]))
def test_commands_fit_the_width_of_the_terminal(screen, arguments):
    for width in WIDTHS:
        lines = screen(width, *arguments)
        assert max(map(len, lines)) <= width
        assert not any("…" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "feedforward"),
        ("compare", "lipflow", "feedforward", "--norm", "L2", "--eps", "0.5"),
        ("leaderboard", "--published"),
    ],
    ids=lambda arguments: arguments[0] if isinstance(arguments, tuple) else str(arguments),
)
def test_commands_about_published_tables_fit_the_terminal(screen, arguments, width):
    lines = screen(width, *arguments)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)


def test_published_tables_fit_60_columns_with_whole_names(screen):
    lines = screen(60, "leaderboard", "--published")
    assert max(map(len, lines)) <= 60
    for name in ("expansive_contractive/prescribed", "feedforward/noise-0.25~0.25"):
        assert any(f" {name} " in line for line in lines)


def test_a_run_names_the_columns_it_left_out(screen):
    lines = screen(60, "run", *ON_MOONS, "--eps", "0.1", "--attacks", "pgd")
    told = " ".join(" ".join(lines).split())
    assert re.search(r"not shown: .*backward passes; a terminal of \d+ columns, or --json", told)
    wide = screen(200, "run", *ON_MOONS, "--eps", "0.1", "--attacks", "pgd")
    assert "not shown" not in " ".join(wide)


def test_lists_are_lines_for_programs_in_a_pipe(command):
    heading_line, *lines = command("list", "models").stdout.splitlines()
    names = [line.split()[0] for line in lines]
    assert heading_line.startswith("model ")
    assert {"lipflow", "lipflow/eps-0.5", "feedforward/l2-0.25"} <= set(names)
    assert all(re.fullmatch(r"[a-z0-9_./-]+", name) for name in names)


@pytest.mark.parametrize("what", ["models", "datasets", "attacks", "certifiers", "operations"])
def test_json_lists_what_the_table_lists(command, what):
    records = json.loads(command("list", what, "--json").stdout)[what]
    lines = command("list", what).stdout.splitlines()[1:]
    assert [record["name"] for record in records] == [line.split()[0] for line in lines]
    assert all(record["origin"] and not record["problem"] for record in records)


def test_nothing_certified_is_explained_in_the_table_and_in_json(command):
    options = (*ON_MOONS, "--eps", "0.1", "--attacks", "pgd", "--certifiers", "interval,lipschitz")
    text = command("run", *options).stdout
    assert "certified by none" not in text
    (reach,) = re.findall(r"lipschitz: proved 0 of \d+ examples; its radii reach (\S+)", text)
    assert float(reach) < 0.1
    (bound,) = re.findall(r"interval: proved 0 of .* lower bounds of the margin reach (\S+)", text)
    assert float(bound) < 0
    about = json.loads(command("run", *options, "--json").stdout)["run"]
    attempts = {attempt["certifier"]: attempt for attempt in about["attempts"]}
    assert attempts["lipschitz"]["radii"]["largest"] == pytest.approx(float(reach), rel=1e-2)
    assert attempts["interval"]["margins"]["largest"] == pytest.approx(float(bound), rel=1e-2)
    (counts,) = about["counts"]
    assert counts["certified"] == 0
    assert counts["broken"] + counts["undecided"] + counts["misclassified"] == 8
    # Where it is certified, nothing falls short.
    fine = command("run", *options, "--eps", "0.001").stdout
    assert re.search(r"lipschitz: at eps 0.1, proved 0 of", fine)


def test_a_run_without_certifiers_says_so(command):
    options = (*ON_MOONS, "--eps", "0.1", "--attacks", "pgd", "--certifiers", "none")
    assert "no certifier was run" in command("run", *options).stdout


def test_a_curve_says_in_json_what_it_was_made_of(command):
    options = (*ON_MOONS, "--eps", "0.05", "--certifiers", "lipschitz", "--json")
    document = json.loads(command("curve", *options).stdout)
    about = {name: document[name] for name in ("dataset", "n_examples", "seed", "attacks")}
    assert about == {"dataset": "moons", "n_examples": 8, "seed": 0, "attacks": "fab-min"}
    assert document["certifiers"] == "lipschitz"
    assert [point["eps"] for point in document["curve"]] == [0.05]


def test_quiet_leaves_errors_alone_on_stderr(command, tmp_path):
    options = ("run", *ON_MOONS, "--eps", "0.1", "--attacks", "pgd", "--certifiers", "none")
    quiet = command(*options, "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    loud = command(*options)
    assert "dynbench: verdicts kept in dynbench.sqlite" in loud.stderr
    assert loud.stdout == quiet.stdout
    refused = command(*options, "-q", "--eps", "none")
    assert refused.returncode == 2
    assert "eps='none'" in refused.stderr
    # The switch is off again.
    assert command(*options).stderr == loud.stderr


def test_what_is_written_is_announced(command):
    options = ("run", *ON_MOONS, "--eps", "0.1", "--attacks", "none", "--export", "all.csv")
    announced = command(*options, "--store", "kept.sqlite")
    assert "verdicts kept in kept.sqlite; written: all.csv" in announced.stderr
    # A document says it itself.
    result = command(*options, "--store", "kept.sqlite", "--json")
    assert result.stderr == ""
    about = json.loads(result.stdout)["run"]
    assert (about["store"], about["export"]) == ("kept.sqlite", "all.csv")
