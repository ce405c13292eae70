"""The commands of the tutorial and of the how-tos run in their order, as they stand."""

import shutil

import pytest
from oracles.pages import DOCS, ROOT, run, steps

WALKS = [
    "tutorial.md",
    "how-to/architecture.md",
    "how-to/attack.md",
    "how-to/certifier.md",
    "how-to/verify.md",
    "how-to/own-data.md",
]
# Their commands read what their programs write.
WITH_PROGRAMS = {"how-to/own-data.md"}


def walk(text, folder, *, programs=False):
    """Run the commands of a page in a folder; each ends with the exit code that the page names."""
    for kind, source, code in steps(text):
        if kind == "console" or programs:
            ended = run(kind, source, folder)
            assert ended.returncode == code, (source, ended.stdout, ended.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("page", WALKS)
def test_the_commands_of_a_page_run_in_their_order(page, tmp_path):
    shutil.copytree(ROOT / "leaderboards", tmp_path / "leaderboards")
    text = (DOCS / page).read_text(encoding="utf-8")
    walk(text, tmp_path, programs=page in WITH_PROGRAMS)


def test_a_command_with_another_exit_code_is_found(tmp_path):
    walk("```console\n$ test -d .\n$ test -f none   # exit 1\n```\n", tmp_path)
    with pytest.raises(AssertionError, match="test -f none"):
        walk("```console\n$ test -f none\n```\n", tmp_path)


@pytest.mark.parametrize("page", WALKS)
def test_a_walk_has_commands(page):
    found = steps((DOCS / page).read_text(encoding="utf-8"))
    commands = [source for kind, source, _ in found if kind == "console"]
    assert commands
    assert all(command.startswith("dynbench ") for command in commands)
