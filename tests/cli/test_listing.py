"""The command list: all names with their origins, broken ones with their reasons."""

import re

import pytest
from oracles.command import dynbench_here

from robustbench_dyn.cli.scaffolding import write_plugin


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    return lambda *arguments: dynbench_here(arguments, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("what", "row"),
    [
        ("models", r"euler_resnet .* fashion_mnist, moons"),
        ("models", r"euler_resnet/pgd .* moons"),
        ("models", r"  the folder "),
        ("datasets", r"moons .* 2x1x1 .* train: 1000 generated.* built-in"),
        ("attacks", r"fab-t .* robustbench-dyn .* L1, L2, Linf .* built-in"),
        ("attacks", r"standard .* suite .* built-in"),
        ("certifiers", r"complete .* Linf .* built-in"),
        ("certifiers", r"smoothing .* L2 .* dynbench smooth .* built-in"),
        ("operations", r"tanh .* built-in"),
    ],
)
def test_lists_show_built_in_names(command, what, row):
    assert re.search(f"^{row}" if row[0] != " " else row, command("list", what).stdout, re.M)


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("models", "architecture"),
        ("datasets", "dataset"),
        ("attacks", "attack"),
        ("certifiers", "certifier"),
        ("operations", "operation"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_reason(command, tmp_path, what, kind):
    folder = write_plugin(tmp_path / "mine", kind)
    before = command("list", what).stdout
    with (folder / "card.yaml").open("a") as card:
        card.write("requires: [no-such-package]\n")
    lines = command("list", what, "--plugins", "mine").stdout
    assert re.search(r"^mine .*broken: it needs no-such-package, which is", lines, re.MULTILINE)
    assert len(lines.splitlines()) >= len(before.splitlines()) + 1
