"""Bad arguments are refused before torch is imported, which takes seconds."""

import json
import subprocess
import sys

import pytest

# Runs each line of arguments, and tells the exit codes; torch cannot be imported.
SCRIPT = """
import contextlib, io, json, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise RuntimeError("torch is imported")

sys.meta_path.insert(0, NoTorch())
from robustbench_dyn import cli
told = []
for line in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as err:
        code = cli.run(line)
    told.append((code, err.getvalue()))
json.dump(told, sys.stdout)
"""
RUN = "run --model lipflow"
REFUSED = [
    ("run --model lipflo", "lipflow"),
    ("run --model feedforward/l3", "no weights"),
    (f"{RUN} --dataset fashion", "fashion_mnist"),
    (f"{RUN} --dataset digits", "no weights for dataset 'digits'"),
    (f"{RUN} --norm L3", "Linf, L2, L1"),
    (f"{RUN} --eps big", "8/255"),
    (f"{RUN} --eps 300", "more than a quarter"),
    (f"{RUN} --eps=-1", "not a positive number"),
    (f"{RUN} --attacks pdg", "'pgd'"),
    (f"{RUN} --attacks pgd:steps=3", "n_steps"),
    (f"{RUN} --norm L1 --attacks deepfool", "supports"),
    (f"{RUN} --dataset moons --attacks apgd-t", "classes"),
    (f"{RUN} --certifiers magic", "lipschitz"),
    (f"{RUN} --certifiers complete:second=1", "seconds_per_example"),
    (f"{RUN} --norm L1 --certifiers lipschitz_in_box", "supports"),
    (f"{RUN} --n-examples 0", "n_examples=0"),
    (f"{RUN} --n-examples 10001", "10000"),
    (f"{RUN} --first 10000", "first=10000"),
    (f"{RUN} --batch-size many", "batch_size"),
    (f"{RUN} --device tpu", "cuda"),
    (f"{RUN} --store no/where.sqlite", "does not exist"),
    (f"{RUN} --store pyproject.toml", "pyproject.toml"),
    (f"{RUN} --export x.txt", ".csv"),
    (f"{RUN} --plugins nowhere", "nowhere"),
    (f"{RUN} --data-dir pyproject.toml", "is a file"),
    (f"{RUN} --limits memory=2", "memory_gib"),
    (f"{RUN} --seed 99999999999999999999", "64 bits"),
    (f"{RUN} --norm L2 --norm Linf", "more than once"),
    ("smooth --model lipflow --sigma 0", "sigma"),
    ("smooth --model lipflow --sigma 0.25 --device tpu", "cuda"),
    ("smooth --model lipflow --model sll --sigma 0.25 --export x.tsv", "no column"),
    ("curve --model lipflow --eps 0.1 99", "more than a quarter"),
    ("curve --model lipflow --certifiers magic", "lipschitz"),
    ("sweep nothing.yaml", "nothing.yaml"),
    ("sweep pyproject.toml", "pyproject.toml"),
    ("train --model lipflo", "lipflow"),
    ("train --model lipflow --device tpu", "cuda"),
    ("plot flow --model lipflow --dataset spirals --to x.png", "no weights"),
    ("plot curves --model lipflow --model lipflo --to x.png", "lipflow"),
    ("verify nowhere", "nowhere"),
    ("verify leaderboards --replay --full", "--full"),
    ("show lipflo", "lipflow"),
    ("compare lipflow sll --eps big", "8/255"),
]


@pytest.fixture(scope="module")
def told():
    """The exit code and the message of each line, and last those of a line that is right."""
    lines = [line.split() for line, _ in REFUSED] + [RUN.split()]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("index", range(len(REFUSED)), ids=lambda index: REFUSED[index][0])
def test_a_bad_argument_is_refused_without_torch(index, told):
    code, message = told[index]
    assert "torch is imported" not in message
    assert REFUSED[index][1] in message
    assert code == 2
    assert message.count("\n") == 1


def test_a_good_line_needs_torch(told):
    code, message = told[-1]
    assert code != 0
    assert "torch is imported" in message
