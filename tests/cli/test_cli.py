"""The command line: its output, its errors and its exit codes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import pandas as pd
import pytest
from oracles.command import dynbench, dynbench_here, refused
from oracles.digits_plugin import UNSOUND, write_plugin
from oracles.stores import rows_in

from robustbench_dyn import cli
from robustbench_dyn.resources import shipped
from robustbench_dyn.results.verdicts import EXAMPLE_COLUMNS

# Runs in seconds.
QUICK = ["run", "--model", "lipflow", "--n-examples", "16", "--attacks", "pgd"]


@pytest.fixture
def here(monkeypatch, capsys):
    """A function that runs the command in this process, in a folder."""

    def call(folder, *arguments):
        return dynbench_here(arguments, folder, monkeypatch, capsys)

    return call


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """One finished run, in a process of its own: its folder and its JSON."""
    folder = tmp_path_factory.mktemp("run")
    options = ["--eps", "0.5", "--eps", "1.0", "--json", "--export", "verdicts.csv"]
    result = dynbench(*QUICK, *options, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, json.loads(result.stdout)


def test_run_prints_one_json_document_with_a_row_per_eps(quick_run):
    _, document = quick_run
    assert [row["eps"] for row in document["rows"]] == [0.5, 1.0]
    for row in document["rows"]:
        assert row["n_examples"] == 16
        assert row["certified_accuracy"] <= row["empirical_accuracy"] <= row["clean_accuracy"]
    assert document["rows"][1]["certified_accuracy"] <= document["rows"][0]["certified_accuracy"]


def test_export_holds_every_example_at_every_eps(quick_run):
    folder, document = quick_run
    table = pd.read_csv(folder / "verdicts.csv")
    assert table.groupby("eps")["example_id"].count().tolist() == [16, 16]
    assert tuple(table.columns) == (*EXAMPLE_COLUMNS, "eps")
    certified = (table[table["eps"] == 0.5]["status"] == "certified").mean()
    assert certified == pytest.approx(document["rows"][0]["certified_accuracy"])


def test_a_repeated_run_prints_the_same_rows(quick_run, here):
    folder, document = quick_run
    again = here(folder, *QUICK, "--eps", "0.5", "--eps", "1.0", "--json")
    # Its seconds and its date, too: the rows come from the store.
    assert json.loads(again.stdout)["rows"] == document["rows"]


def test_leaderboard_writes_a_csv_per_threat_model_and_a_page(quick_run, here):
    folder, document = quick_run
    assert here(folder, "leaderboard", "--to", "boards").returncode == 0
    table = pd.read_csv(folder / "boards" / "fashion_mnist-L2-0.5.csv")
    assert table["model"].tolist() == ["lipflow"]
    expected = document["rows"][0]["certified_accuracy"]
    assert table["certified_accuracy"].tolist() == [pytest.approx(expected)]
    assert "fashion_mnist, L2, eps 1" in (folder / "boards" / "README.md").read_text()
    path = folder / "boards" / "fashion_mnist-L2-0.5.csv"
    table.assign(model="another").to_csv(path, index=False)
    assert here(folder, "leaderboard", "--to", "boards", "--add").returncode == 0
    assert sorted(pd.read_csv(path)["model"]) == ["another", "lipflow"]


def test_the_table_shows_the_numbers_of_the_json(quick_run, here, monkeypatch):
    folder, document = quick_run
    monkeypatch.setenv("COLUMNS", "140")
    result = here(folder, *QUICK, "--eps", "0.5")
    assert f"{100 * document['rows'][0]['certified_accuracy']:.1f}" in result.stdout


def test_help_imports_nothing_heavy():
    script = (
        "import sys\nfrom robustbench_dyn.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "leaderboard" in result.stdout


@pytest.mark.parametrize(
    ("variables", "spin_count"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None)],
)
def test_idle_threads_sleep_soon_by_default(variables, spin_count, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cli, "run", lambda _: seen.append(os.environ.get("GOMP_SPINCOUNT")))
    seen = []
    with mock.patch.dict(os.environ, variables), pytest.raises(SystemExit):
        cli.main()
    assert seen == [spin_count]


def test_the_spin_count_is_set_before_torch_reads_it(tmp_path):
    shown = dynbench("show", "lipflow", cwd=tmp_path, env={"OMP_DISPLAY_ENV": "verbose"})
    if "GOMP_SPINCOUNT" not in shown.stderr:
        pytest.skip("torch has another OpenMP library here")
    assert "GOMP_SPINCOUNT = '5000'" in shown.stderr


def test_output_of_compiled_code_goes_to_stderr():
    script = (
        "import os\nfrom robustbench_dyn import cli\nfrom robustbench_dyn.cli import output\n"
        "def noisy():\n os.write(1, b'from below'); output.print_result('the answer')\n"
        "cli.app.command('noisy')(noisy)\ncli.main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, "noisy"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "the answer\n", "from below")


@pytest.mark.parametrize("what", ["models", "datasets", "attacks", "certifiers"])
def test_list_prints_the_names(what, tmp_path, here):
    expected = {
        "models": "lipflow",
        "datasets": "digits",
        "attacks": "apgd-t",
        "certifiers": "lipschitz",
    }
    result = here(tmp_path, "list", what)
    assert result.returncode == 0
    assert expected[what] in result.stdout


def test_show_prints_the_card(tmp_path, here):
    result = here(tmp_path, "show", "lipflow")
    assert "arXiv 2210.02373" in result.stdout
    assert "weights/fashion_mnist.safetensors" in result.stdout
    assert "run it: dynbench run --model lipflow --dataset fashion_mnist" in result.stdout
    # The card has no training time for the first weights.
    untimed = here(tmp_path, "show", "feedforward").stdout
    assert re.search(r"^feedforward +fashion_mnist +any .*  –  ", untimed, re.MULTILINE)
    assert re.search(r"^sll .*  79 s  ", here(tmp_path, "show", "sll").stdout, re.MULTILINE)


def test_show_of_a_variant_shows_its_weights_and_published_rows(tmp_path, here):
    shown = here(tmp_path, "show", "lipflow/eps-0.5", "--json")
    document = json.loads(shown.stdout)
    assert {weights["name"] for weights in document["weights"]} == {"lipflow/eps-0.5"}
    assert {row["model"] for row in document["rows"]} == {"lipflow/eps-0.5"}
    row = next(row for row in document["rows"] if (row["norm"], row["eps"]) == ("L2", 0.5))
    text = here(tmp_path, "show", "lipflow/eps-0.5").stdout
    assert re.search(
        rf"^L2 +0.5 +{100 * row['certified_accuracy']:.1f} +{100 * row['empirical_accuracy']:.1f}",
        text,
        re.MULTILINE,
    )
    wrong = here(tmp_path, "show", "lipflow/eps-0.55")
    assert (wrong.returncode, "did you mean 'eps-0.5'" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--model", "lipflow", "--norm", "Linf", "--eps", "8"], ["8/255"]),
        (["run", "--model", "lipflow", "--eps", "big"], ["'big'"]),
        (["run", "--model", "lipflo"], ["did you mean 'lipflow'"]),
        (["run", "--model", "lipflow", "--dataset", "fashion"], ["fashion_mnist"]),
        (["run", "--model", "lipflow", "--attacks", "pdg"], ["pgd"]),
        (["run", "--model", "lipflow", "--certifiers", "magic"], ["magic"]),
        (["run", "--model", "lipflow", "--n-examples", "0"], ["n_examples"]),
        (["run", "--model", "lipflow", "--device", "cuda:7"], ["device"]),
        (["run", "--model", "lipflow", "--store", "no/where.sqlite"], ["does not exist"]),
        (["run", "--model", "lipflow", "--export", "x.txt"], [".csv"]),
        (["run", "--model", "lipflow", "--plugins", "nowhere"], ["nowhere"]),
        (["show", "nothing"], ["nothing"]),
        (["leaderboard"], ["there is no store"]),
        (["train", "--model", "lipflow", "--recipe", "none.yaml"], ["none.yaml"]),
    ],
)
def test_invalid_input_gives_one_line(arguments, words, tmp_path, here):
    refused(here(tmp_path, *arguments), *words)


def test_invalid_input_ends_the_process_with_exit_code_2(tmp_path):
    refused(dynbench("export", "verdicts.csv", cwd=tmp_path), "there is no store")


def test_a_truncated_data_file_gives_one_line(tmp_path, here):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(bytes([0, 0, 8, 3]) + bytes(100))
    result = here(tmp_path, "train", "--model", "lipflow", "--data-dir", tmp_path)
    refused(result, "train-images-idx3-ubyte")
    assert not (tmp_path / "trained").exists()


def test_a_corrupted_weights_file_gives_one_line(tmp_path, here):
    folder = tmp_path / "flow"
    shutil.copytree(shipped("plugins") / "lipflow", folder)
    card = folder / "card.yaml"
    card.write_text(card.read_text().replace("name: lipflow", "name: flow"))
    weights = folder / "weights" / "fashion_mnist.safetensors"
    options = ["run", "--model", "flow", "--plugins", folder, "--n-examples", "4"]
    options += ["--attacks", "none"]
    sound = here(tmp_path, *options)
    assert sound.returncode == 0, sound.stderr
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused(here(tmp_path, *options), "SHA-256", str(weights))


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_verdicts(tmp_path, here):
    options = [*QUICK, "--eps", "0.5", "--batch-size", "2", "--json"]
    whole = here(tmp_path, *options, "--store", "whole.sqlite", "--export", "whole.csv")
    assert whole.returncode == 0, whole.stderr
    store = tmp_path / "killed.sqlite"
    script = "from robustbench_dyn.cli import main; main()"
    killed = subprocess.Popen(
        [sys.executable, "-c", script, *options, "--store", str(store)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while rows_in(store, "verdicts") < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert rows_in(store, "verdicts") >= 4
    assert rows_in(store, "runs") == 0, "it ended before it was killed"
    resumed = here(tmp_path, *options, "--store", store, "--export", "resumed.csv")
    assert resumed.returncode == 0, resumed.stderr
    tables = [pd.read_csv(tmp_path / f"{name}.csv") for name in ("whole", "resumed")]
    first, second = (table.drop(columns="seconds") for table in tables)
    pd.testing.assert_frame_equal(first, second)


def test_a_refuted_certificate_ends_with_exit_1_and_gets_no_row(tmp_path, here):
    folder = write_plugin(tmp_path / "louder", UNSOUND, factor=3)
    options = ["run", "--model", "louder", "--plugins", folder, "--dataset", "digits"]
    options += ["--eps", "1.5", "--n-examples", "50", "--attacks", "pgd", "--json"]
    for _ in range(2):
        result = here(tmp_path, *options)
        assert result.returncode == 1, result.stderr
        assert "soundness violation" in result.stderr
        assert result.stdout == ""
    assert list((tmp_path / "counterexamples").glob("*.npz"))
    refused(here(tmp_path, "leaderboard"), "no finished run")
