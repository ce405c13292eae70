"""The command line takes models of other libraries and of the user's own files by their names."""

import json
import re

import pytest
import torch
from oracles.checkpoints import BUILD, hugging_face_folder, module_file, needs, timm_folder
from oracles.command import dynbench_here, refused

from robustbench_dyn import load_model
from robustbench_dyn.errors import DynbenchError
from robustbench_dyn.sweeps.sweep import sweep
from robustbench_dyn.sweeps.sweep_file import Sweep

NET = "module:nets/net.py:build"
QUICK = ["--dataset", "digits", "--n-examples", "8"]


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """A function that runs the command in a folder with a module file and weights for it."""
    monkeypatch.chdir(tmp_path)
    module_file(tmp_path / "nets")
    state = load_model(NET, dataset="digits").state_dict()
    # Class 0 for every image.
    state = {"1.weight": state["1.weight"] / 1000, "1.bias": torch.eye(10)[0]}
    torch.save(state, "w.pt")

    def call(*arguments):
        return dynbench_here(arguments, tmp_path, monkeypatch, capsys)

    return call


RUNS = {
    "run": ["--attacks", "pgd", "--eps", "0.1"],
    "smooth": ["--sigma", "0.1", "--n", "20", "--n0", "10", "--attacks", "none", "--eps", "0.1"],
    "curve": ["--eps", "0.1"],
}


@pytest.mark.parametrize("command", RUNS)
def test_each_command_evaluates_a_function_with_weights(command, here):
    options = [command, "--model", NET, *QUICK, *RUNS[command], "--json"]
    with_weights = here(*options, "--weights", "w.pt")
    assert with_weights.returncode == 0, with_weights.stderr
    found = json.loads(with_weights.stdout)
    if command == "curve":
        assert found["curve"][0]["certified_accuracy"] == 1 / 8
        assert json.loads(here(*options).stdout)["curve"][0]["certified_accuracy"] == 0
        return
    (row,), (other,) = found["rows"], json.loads(here(*options).stdout)["rows"]
    assert row["model"] == "module/net/build" + ("~0.1" if command == "smooth" else "")
    assert row["weights_sha256"] != other["weights_sha256"]


def test_a_repeated_run_computes_nothing(here):
    options = ["run", "--model", NET, *QUICK, *RUNS["run"], "--json"]
    once, again = (json.loads(here(*options).stdout) for _ in range(2))
    assert once["rows"] == again["rows"]


def test_a_picture_of_curves_takes_such_models(here, tmp_path):
    options = ["plot", "curves", "--model", NET, "--to", "a.png", *QUICK]
    assert here(*options).returncode == 0
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (NET.replace("build", "fixed"), ["module/net/fixed", "code of your own", "2307"]),
        pytest.param(
            "timm:tn", ["timm/tn", "3x16x16", "mean 0.4"], marks=[needs("timm"), pytest.mark.slow]
        ),
        pytest.param(
            "hf:hn",
            ["hf/hn", "3x16x16", "transformers"],
            marks=[needs("transformers"), pytest.mark.slow],
        ),
    ],
)
def test_show_says_what_is_known_of_a_model(name, words, here, tmp_path):
    if name == "timm:tn":
        timm_folder(tmp_path / "tn")
    if name == "hf:hn":
        hugging_face_folder(tmp_path / "hn")
    shown = here("show", name)
    assert shown.returncode == 0, shown.stderr
    assert all(word in shown.stdout for word in words), shown.stdout


def test_sources_are_listed(here):
    shown = here("list", "sources").stdout
    for form in ("robustbench:NAME", "timm:NAME", "hf:", "torchvision:NAME", "module:", "onnx:"):
        assert form in shown


def test_compare_takes_the_name_of_the_command_line(here):
    for file in ("w.pt", "v.pt"):
        if file == "v.pt":
            weights = torch.load("w.pt", weights_only=True)
            torch.save({name: 2 * tensor for name, tensor in weights.items()}, file)
        here("run", "--model", NET, *QUICK, *RUNS["run"], "--weights", file)
    refused(here("compare", NET, "lipflow", "--store", "dynbench.sqlite"), "@")
    asked = here("compare", "module/net/build", "lipflow", "--store", "dynbench.sqlite").stderr
    hashes = re.findall(r"build@(\w+)", asked)
    compared = here("compare", *(f"{NET}@{h}" for h in hashes), "--store", "dynbench.sqlite")
    assert compared.returncode == 0, compared.stderr
    assert f"module/net/build@{hashes[0]}" in compared.stdout
    refused(here("compare", f"{NET}@ffff", "lipflow", "--store", "dynbench.sqlite"), "ffff")


REFUSED = {
    "no such source": (["--model", "tim:x"], "did you mean 'timm'"),
    "no such file": (["--model", "module:no.py:f"], "there is no file 'no.py'"),
    "no weights": (["--model", NET, "--weights", "no.pt"], "there is no such file"),
    "no weights by name": (["--model", NET, "--weights", "nets/net.py"], "is no file of weights"),
    "a plugin with weights": (["--model", "lipflow", "--weights", "w.pt"], "names a plugin"),
    "other classes": (["--model", NET.replace("build", "fixed")], "cannot classify inputs"),
    "code that fails": (["--model", NET.replace("build", "fails")], "ValueError: no such luck"),
    "code that leaves": (["--model", NET.replace("build", "leaves")], "SystemExit"),
    "the name in a table": (["--model", "module/net/build"], "name in tables"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(case, here):
    arguments, words = REFUSED[case]
    refused(here("run", *arguments, *QUICK), words)


# Sweeps


def swept(names, **options):
    content = {
        "models": names,
        "datasets": ["digits"],
        "threat_models": [{"norm": "L2", "eps": [0.1]}],
        "n_examples": 8,
        "examples_per_shard": 4,
        "seeds": [0],
        "attacks": "pgd",
    }
    return sweep(Sweep.model_validate(content), options.pop("store"), workers=1, **options)


@pytest.mark.slow
def test_a_sweep_evaluates_models_by_name(here, tmp_path):
    outcome = swept(
        [NET, {"name": NET, "weights": "w.pt"}], store=tmp_path / "s.sqlite", trust=True
    )
    assert not outcome.failed
    assert [row["model"] for row in outcome.rows] == ["module/net/build"] * 2
    assert [row["n_examples"] for row in outcome.rows] == [8, 8]
    assert len({row["weights_sha256"] for row in outcome.rows}) == 2


@pytest.mark.parametrize(
    ("entry", "trust", "message"),
    [
        (NET, False, "would run inside this process; read it, and say --trust"),
        ({"name": NET, "weights": "no.pt"}, True, "there is no such file"),
        ("module:no.py:f", True, "there is no file"),
        ("tim:x", True, "did you mean 'timm'"),
        ({"name": "lipflow", "weights": "w.pt"}, True, "names a plugin"),
    ],
)
def test_a_sweep_refuses_before_anything_runs(entry, trust, message, here, tmp_path):
    with pytest.raises(DynbenchError, match=message):
        swept([entry], store=tmp_path / "s.sqlite", trust=trust)
    assert not (tmp_path / "s.sqlite").exists()


def test_code_of_a_row_does_not_run_when_it_is_verified(here, tmp_path):
    """A table that came from elsewhere may name any file."""
    here("run", "--model", NET, *QUICK, *RUNS["run"])
    here("leaderboard", "--to", "tables")
    (tmp_path / "nets" / "net.py").write_text("open('it ran', 'w')\n" + BUILD)
    answer = here("verify", "tables", "--replay", "--sample", "2")
    assert "the row cannot be replayed here" in answer.stdout.replace("\n        ", " ")
    assert not (tmp_path / "it ran").exists()


def test_weights_for_several_models_are_refused(here):
    shown = here("run", "--model", "lipflow", "--model", "sll", "--weights", "w.safetensors")
    refused(shown, "--model is given 2 times", "--weights fills one of them")
