"""The reading of the command line: options given twice, several models, more radii."""

import pytest

from robustbench_dyn import cli

TWICE = [
    ["run", "--model", "lipflow", "--norm", "L2", "--norm", "L2"],
    ["run", "--model", "lipflow", "--n-examples", "3", "--n-examples=4"],
    ["run", "--model", "lipflow", "--strict-rounding", "--no-strict-rounding"],
    ["train", "--model", "lipflow", "--model", "sll"],
    ["plot", "flow", "--model", "lipflow", "--model", "sll", "--to", "x.png"],
    ["export", "x.csv", "--store", "a.sqlite", "--store", "b.sqlite"],
]


@pytest.mark.parametrize("arguments", TWICE, ids=" ".join)
def test_an_option_given_twice_is_an_error(arguments, capsys):
    assert cli.run(arguments) == 2
    err = capsys.readouterr().err
    assert "is given more than once" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "attacks"],
        ["settings", "--json", "--json"],
        ["run", "--model", "lipflow", "--model", "sll", "--eps", "0.1", "--eps", "1", "--help"],
    ],
    ids=" ".join,
)
def test_lists_and_flags_may_be_given_twice(arguments, capsys):
    assert cli.run(arguments) == 0
    assert "more than once" not in capsys.readouterr().err
