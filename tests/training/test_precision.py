"""The precision of a training: bfloat16 only where it is fast."""

import logging
import os
import platform
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from robustbench_dyn.models.loading import discover
from robustbench_dyn.training import precision
from robustbench_dyn.training.loop import train
from robustbench_dyn.training.recipes import Recipe

CPU = torch.device("cpu")


@pytest.fixture
def bfloat16_takes(monkeypatch):
    def times(ratio):
        monkeypatch.setattr(
            precision,
            "seconds_of_products",
            lambda dtype, _device: ratio if dtype == torch.bfloat16 else 1.0,
        )

    return times


def test_a_slow_bfloat16_is_not_used_and_said_once(bfloat16_takes, caplog):
    bfloat16_takes(13.0)
    with caplog.at_level(logging.WARNING):
        assert not precision.uses_bfloat16("bfloat16", CPU)
    (record,) = caplog.records
    assert "in float32" in record.message
    assert "13 times" in record.message


def test_a_fast_bfloat16_is_used_where_a_recipe_asks_for_it(bfloat16_takes, caplog):
    bfloat16_takes(0.5)
    assert precision.uses_bfloat16("bfloat16", CPU)
    bfloat16_takes(13.0)
    assert not precision.uses_bfloat16("float32", CPU)
    assert not caplog.records


@pytest.mark.parametrize(("ratio", "equal"), [(13.0, True), (0.5, False)])
def test_a_training_without_bfloat16_is_that_in_float32(ratio, equal, bfloat16_takes, tmp_path):
    bfloat16_takes(ratio)
    trained = []
    for name in ("float32", "bfloat16"):
        recipe = Recipe(
            model="lipflow",
            dataset="digits",
            options={"channels": 8, "terms": 16, "depth": 1, "dense_depth": 2},
            epochs=1,
            batch_size=64,
            precision=name,
        )
        out = tmp_path / f"{name}.safetensors"
        train(recipe, discover().get(recipe.model), out, n_examples=256)
        trained.append(load_file(out))
    same = all(torch.equal(trained[0][key], trained[1][key]) for key in trained[0])
    assert same == equal


@pytest.mark.skipif(platform.machine() != "x86_64", reason="sets the instructions of x86")
def test_a_processor_without_instructions_for_it_is_found():
    program = (
        "import torch; from robustbench_dyn.training.precision import uses_bfloat16; "
        "print(uses_bfloat16('bfloat16', torch.device('cpu')))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == ["False"]
    assert "training in float32" in ended.stderr
