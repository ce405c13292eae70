"""Each option of each command with values of every wrong kind: one line on stderr and exit 2."""

import contextlib
import os
import sys
import time

import pytest
import typer
from oracles.command import dynbench
from oracles.digits_plugin import write_plugin

from robustbench_dyn import cli
from robustbench_dyn.errors import shown
from robustbench_dyn.plugins import discovery

LONG, DIGITS = "a" * 5000, "9" * 5000
NO_TEXT = ["[/b]", "\x1b[31m", "\udcff", "a\nb", "nul\0"]
NO_NUMBER = [
    "",
    " ",
    "x",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "0x10",
    "8/1e-400",
    "1/0",
    DIGITS,
    *NO_TEXT,
]
NO_SEED = [*NO_NUMBER, "1.5", "1e3", str(2**63), str(-(2**63) - 1), "9" * 30]
NO_COUNT = [*NO_SEED, "0", "-1", "-9223372036854775808"]
NO_EPS = [
    *NO_NUMBER,
    "0",
    "-1",
    "-8/255",
    "1e1000000000",
    "1e-1000000000",
    "1000",
    "٣",
    "1_0",
    "8/0",
]
NO_NAME = ["", " ", "nothing", "../x", "/", ".", "/etc/passwd", "PGD()", LONG, DIGITS, *NO_TEXT]
NO_MODEL = [":", "x:y", "timm:", "hf:", "module:", "module:no.py:f", "onnx:no/such", "module/a/b"]
NO_LIST = [
    *NO_NAME, ",", ":", "=", "pgd:n_steps", "pgd:n_steps=", "pgd:n_steps=x", "pgd:=1",
    "pgd:n_steps=-1", "pgd:n_steps=1e400", f"pgd:n_steps={DIGITS}", "pgd:n_steps=.nan", "n_steps=1",
    "pgd:n_steps=2001-99-99", "pgd:n_steps=[[", "pgd:n_steps=!!int abc", "pgd:__class__=1",
]  # fmt: off
NO_PATH = ["nul\0", LONG]
NO_FILE = ["", ".", "pipe", "loop", "no/such", "/dev/zero", "/dev/null", "/proc/self/mem", *NO_PATH]
NO_STORE = [*NO_FILE, "junk"]
NO_STORES = ["linear", *(path for path in NO_STORE if path not in ("", "."))]
NO_FILES_OF_DATA = [
    *("npz:", "npz:no.npz", "npz:junk", "npz:pipe", "npz:.", "npz:/dev/zero", "npz:nul\0", "nzp:x"),
    *("folder:f.txt", "folder:pipe", "folder:loop", "folder:no", "idx:f.txt", "idx:pipe,pipe"),
    *("idx:junk,junk", "idx:junk,", "idx:/dev/zero,/dev/zero", "folder:~no-such-user/x", "hf:"),
    *("parquet:", "parquet:no/such", "parquet:/dev/zero", "parquet:."),
    *(
        f"{form}:{text}"
        for form in ("npz", "folder", "idx")
        for text in (LONG, "\x1b[31m", "\udcff")
    ),
]
NO_FOLDER = ["f.txt", "pipe", "loop", "no/such", "/dev/null", *NO_PATH]
NO_TABLE = ["", "x", "x.txt", "x.csv.gz", ".csv", *NO_PATH]
NO_DEVICE = ["", "x", "meta", "cuda:-1", "cuda:999999999999", "cpu:x", DIGITS, *NO_TEXT]
NO_CHOICE = ["", "x", "EOT-PGD", *NO_TEXT]
FLAGS = {
    "as_json",
    "strict_rounding",
    "profile",
    "quiet",
    "package",
    "install",
    "version",
    "add",
    "replace",
    "check",
    "published",
    "pending",
    "help",
    "trust",
    "delete",
    "replay",
    "full",
    "correct",
    "examples",
    "bands",
}

VALUES = {
    "model": [*NO_NAME, *NO_MODEL],
    "weights": ["f.txt", "junk", "no.pt", "/dev/zero", "pipe", *NO_PATH],
    "dataset": [*NO_NAME, *NO_FILES_OF_DATA],
    "norm_name": [*NO_NAME, "L3", "l", "l2.0", "2"],
    "eps": NO_EPS,
    "more_eps": NO_EPS,
    "n_examples": [*NO_COUNT, "1798"],
    "first": [*NO_NUMBER, "1.5", "-1", "1797", str(10**30)],
    "attacks": NO_LIST,
    "certifiers": NO_LIST,
    "certify_seconds": [*NO_NUMBER, "0", "-1"],
    "seed": NO_SEED,
    "limits": [
        *("memory=2", "memory_gib", "memory_gib=0", "memory_gib=nan", "memory_gib=-1"),
        *("memory_gib=1e400", "seconds_per_call=soon", "open_files=3", "open_files=true"),
        *("memory_gib=2,square", "2", "=", "memory_gib=[1]", f"memory_gib={'9' * 5000}"),
    ],
    "batch_size": [*NO_COUNT, "Auto", "1_0", "٣"],
    "device": NO_DEVICE,
    "store": NO_STORE,
    # A folder stands for the stores in it.
    "stores": ["linear", "pipe", "loop", "junk", "f.txt", "/dev/zero", "no/such", *NO_PATH],
    "export": NO_TABLE,
    "remove": NO_NAME[1:],
    "why": [" ", "x", LONG, *NO_TEXT],
    "adversarial": [*NO_NUMBER, "1.5", "1e3", "-1"],
    "latex": ["", "x", "x.txt", "x.tex.gz", ".tex", "f.txt/x.tex", *NO_PATH],
    "page": ["", ".", "/", "f.txt", "pipe", "loop/x", "junk", "/dev/null/x", *NO_PATH],
    "plugins": NO_FOLDER,
    "data_dir": ["f.txt", "pipe", "/dev/null"],
    "sigma": [*NO_NUMBER, "0", "-1", "11", "1e300"],
    "n0": [*NO_COUNT, str(10**10)],
    "n": [*NO_COUNT, "9", str(10**10)],
    "alpha": [*NO_NUMBER, "0", "-1", "0.5", "1", "1e-320", "1e-101"],
    "what": NO_CHOICE,
    "name": ["", " ", "/", ".", "..", "Big", "1a", "a-b", "no/such/Big", LONG, DIGITS, *NO_TEXT],
    "kind": NO_CHOICE,
    "file": ["", ".", "pipe", "loop", "junk", "f.txt", "/dev/zero", "no/such", *NO_PATH],
    "recipe": ["", ".", "pipe", "loop", "junk", "f.txt", "/dev/zero", "no/such", *NO_PATH],
    "engine": NO_NAME,
    "workers": [*NO_NUMBER, "1.5", "0", "-1"],
    "one": NO_NAME,
    "other": NO_NAME,
    "tables": NO_FOLDER,
    "status": [*NO_CHOICE, "Broken", "robust"],
    "count": [*NO_COUNT, "501"],
    "sample": NO_COUNT,
    "evidence": [".", "pipe", "loop", "junk", "f.txt", "/dev/zero", "no/such", *NO_PATH],
    "source": ["x" * 201],
    "to": [],
    "out": [],
    "keep": [],
}
# Where a command takes other values than the rest.
OWN_VALUES = {
    ("smooth", "attacks"): NO_CHOICE,
    ("smooth", "norm_name"): NO_NAME,
    ("check", "name"): ["", "nothing", "f.txt", "pipe", "junk", LONG, *NO_TEXT],
    ("verify", "path"): ["", "linear", "pipe", "loop", "junk", "f.txt", "no/such", *NO_PATH],
    ("verify", "model"): ["nothing", "no such", LONG, "linear@ffff"],
    ("export", "to"): ["", ".", "x", "x.txt", *NO_PATH],
    ("leaderboard", "to"): ["f.txt", "pipe", "junk", "/dev/null/x", *NO_PATH],
    ("leaderboard", "page"): ["f.txt", "pipe", "junk", "loop", ".", "/dev/null/x", *NO_PATH],
    ("compare", "store"): [*NO_STORES, "no.sqlite"],
    ("leaderboard", "store"): NO_STORES,
    ("store merge", "to"): ["", ".", "pipe", "loop", "junk", "/dev/zero", "good.sqlite", *NO_PATH],
    ("new", "to"): ["f.txt", "pipe", "junk", "/dev/null", *NO_PATH],
    ("train", "plot"): ["", ".", "x", "x.gif", "x.png.exe", *NO_PATH],
    ("plot flow", "to"): ["", ".", "x", "x.gif", "x.png.exe", *NO_PATH],
    ("plot curves", "to"): ["", ".", "x", "x.gif", "x.png.exe", *NO_PATH],
    ("plot radii", "to"): ["", ".", "x", "x.gif", "x.png.exe", *NO_PATH],
    ("plot examples", "to"): ["", ".", "x", "x.gif", "x.png.exe", *NO_PATH],
    ("plot leaderboard", "to"): ["", ".", "x", "x.gif", "x.png.exe", *NO_PATH],
    ("plot leaderboard", "tables"): [*NO_FOLDER, "x.csv", "linear"],
    ("sweep", "device"): ["", "x", "meta", "cuda:-1", "cuda:999999999999", DIGITS, *NO_TEXT],
    # An empty name stands for the data set of the model's weights.
    ("check", "dataset"): NO_NAME[1:],
    # Unused by models and tables, and a fault of each shard in a sweep.
    ("check", "data_dir"): [],
    ("leaderboard", "data_dir"): [],
    ("sweep", "data_dir"): [],
}
LINEAR = ["--model", "linear", "--plugins", "linear"]
DIGITS_SET = ["--dataset", "digits", "--n-examples", "4"]
COMMANDS = {
    "run": [*LINEAR, *DIGITS_SET, "--attacks", "none"],
    "smooth": [*LINEAR, *DIGITS_SET, "--attacks", "none", "--sigma", "0.25"],
    "curve": [*LINEAR, *DIGITS_SET, "--certifiers", "none"],
    "list": [],
    "show": ["--plugins", "linear"],
    "check": ["--plugins", "linear"],
    "new": [],
    "train": [*LINEAR, "--dataset", "digits", "--recipe", "recipe.yaml"],
    "sweep": ["--plugins", "linear"],
    "leaderboard": ["--store", "good.sqlite"],
    "compare": ["--store", "good.sqlite"],
    "export": ["--store", "good.sqlite"],
    "verify": ["--plugins", "linear"],
    "settings": [],
    "store check": [],
    "store merge": [],
    "plot flow": ["--model", "lipflow", "--to", "x.png"],
    "plot curves": [*LINEAR, *DIGITS_SET, "--to", "x.png"],
    "plot radii": [*LINEAR, *DIGITS_SET, "--to", "x.png"],
    "plot examples": [*LINEAR, *DIGITS_SET, "--to", "x.png"],
    "plot leaderboard": ["--tables", "ranked", "--to", "x.png"],
}
ARGUMENTS = {
    "list": "models", "show": "linear", "check": "linear", "new": "mine", "sweep": "sweep.yaml",
    "export": "x.csv", "store check": "good.sqlite", "store merge": "good.sqlite",
    "compare": "linear linear~0.25", "verify": "ranked",
}  # fmt: off
# The other commands take the same options from the same functions.
QUICK = ("run", "new")
TAKE_SECONDS = ("certifiers", "device")


def parameters():
    """Yield the name of each command, and each of its parameters."""

    def walk(command, path):
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*path, name))
        if not hasattr(command, "commands"):
            for parameter in command.params:
                yield " ".join(path), parameter

    yield from walk(typer.main.get_command(cli.app), ())


CASES = [
    pytest.param(
        command,
        parameter,
        OWN_VALUES.get((command, parameter.name), VALUES.get(parameter.name)),
        id=f"{command} {parameter.name}",
        marks=[pytest.mark.slow] if command not in QUICK or parameter.name in TAKE_SECONDS else [],
    )
    for command, parameter in parameters()
    if parameter.name not in FLAGS
]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("here")
    write_plugin(folder / "linear")
    (folder / "junk").write_bytes(bytes(range(256)) * 20)
    (folder / "f.txt").write_text("x" * 2000)
    (folder / "sweep.yaml").write_text(
        "models: [linear]\ndatasets: [digits]\nthreat_models: [{norm: L2, eps: [0.5]}]\n"
        "n_examples: 4\nseeds: [0]\nattacks: none\n"
    )
    (folder / "recipe.yaml").write_text("model: linear\ndataset: digits\nepochs: 1\n")
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(discovery, "_registered", [*discovery._registered])
        for command in ("run", "smooth"):
            assert cli.run([command, *COMMANDS[command], "--store", "good.sqlite"]) == 0
        assert cli.run(["leaderboard", "--store", "good.sqlite", "--to", "ranked"]) == 0
        yield folder


def arguments(command, parameter, value):
    """Return a command line in which this parameter has this value, and all others a good one."""
    option = parameter.opts[0]
    if not option.startswith("-"):
        others = {"first": [value, "linear~0.25"], "second": ["linear", value]}
        return [*command.split(), *COMMANDS[command], "--", *others.get(parameter.name, [value])]
    rest = COMMANDS[command]
    if option in rest:
        place = rest.index(option)
        rest = rest[:place] + rest[place + 2 :]
    positional = ARGUMENTS.get(command, "").split()
    return [*command.split(), *positional, *rest, f"{option}={value}"]


@pytest.mark.parametrize(("command", "parameter", "values"), CASES)
def test_a_bad_value_is_refused_in_one_line(command, parameter, values, here, monkeypatch, capsys):
    assert values is not None, f"give values that --{parameter.name} of {command} must refuse"
    monkeypatch.setattr(cli.failures.tempfile, "tempdir", str(here))
    wrong = []
    for value in values:
        line = arguments(command, parameter, value)
        monkeypatch.setattr(sys, "argv", ["dynbench", *line])
        start = time.process_time()
        code = cli.run(line)
        seconds = time.process_time() - start
        out, err = capsys.readouterr()
        one_line = err.startswith("dynbench: ") and err.count("\n") == 1 and len(err) < 4000
        if code != 2 or out or not one_line or not err.rstrip("\n").isprintable() or seconds > 10:
            wrong.append(
                f"{shown(value)}: exit {code}, {seconds:.1f} s, {out[:99]!r} {err[:300]!r}"
            )
    assert not wrong, "\n".join(wrong)


def test_the_good_values_are_accepted(here):
    for command in ("run", "smooth", "list", "show", "compare"):
        positional = ARGUMENTS.get(command, "").split()
        assert cli.run([command, *positional, *COMMANDS[command]]) == 0, command


@pytest.mark.parametrize("value", ["1e1000000000", "[/b]"])
def test_a_bad_value_ends_the_process_with_exit_code_2(value, tmp_path):
    result = dynbench("run", "--model", "lipflow", "--eps", value, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("dynbench: eps=")
    assert result.stderr.count("\n") == 1
