"""Commands that run a plugin's own code as a whole: check and train."""

import pytest
from oracles.command import dynbench, refused
from oracles.hostile_plugin import write_plugin

RECIPE = (
    "model: digits_mean\ndataset: digits\nepochs: 1\nbatch_size: 300\nlearning_rate: 0.01\n"
    "optimizer: adam\nloss: {offset: 0.1, temperature: 0.1}\nseed: 0\n"
)


def check(plugin, tmp_path, *options):
    return dynbench("check", plugin, *options, cwd=tmp_path)


def test_a_check_that_a_plugin_ends_is_no_check(tmp_path):
    plugin = write_plugin(tmp_path, "os._exit(0)", "build")
    refused(check(plugin, tmp_path), "digits_mean", "exit code 0", "before the command")


@pytest.mark.slow
@pytest.mark.parametrize("act", ["sys.exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
@pytest.mark.parametrize("place", ["import", "build", "forward"])
def test_a_check_that_a_plugin_ends_exits_with_an_error(tmp_path, act, place):
    result = check(write_plugin(tmp_path, act, place), tmp_path)
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_check_stays_within_its_memory(tmp_path):
    plugin = write_plugin(tmp_path, "torch.ones(5 * 2**28)", "build")
    result = check(plugin, tmp_path, "--limits", "memory_gib=1")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_an_honest_plugin_is_checked_as_inside(tmp_path):
    plugin = write_plugin(tmp_path)
    outside, inside = check(plugin, tmp_path), check(plugin, tmp_path, "--trust")
    # The last rule is the cost, which differs.
    assert outside.returncode == inside.returncode
    assert outside.stdout.splitlines()[:-1] == inside.stdout.splitlines()[:-1]
    assert "lipschitz" in outside.stdout or "deterministic" in outside.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("act", "code"), [("pass", 0), ("os._exit(0)", 2)])
def test_a_training_that_a_plugin_ends_says_so(tmp_path, act, code):
    plugin = write_plugin(tmp_path, act, "forward")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    result = dynbench(
        *("train", "--model", "digits_mean", "--plugins", plugin, "--dataset", "digits"),
        *("--recipe", "recipe.yaml", "--out", "w.safetensors"),
        cwd=tmp_path,
    )
    assert result.returncode == code, result.stderr
    assert (tmp_path / "w.safetensors").is_file() == (code == 0)
