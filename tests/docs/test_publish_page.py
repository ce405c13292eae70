"""docs/publish.md: its commands run in their order, and end as it says."""

import pytest
from oracles.pages import DOCS, run, steps

PAGE = DOCS / "publish.md"


@pytest.mark.slow
def test_the_walk_of_the_page(tmp_path):
    said = {}
    for kind, source, code in steps(PAGE.read_text(encoding="utf-8")):
        ended = run(kind, source, tmp_path)
        assert ended.returncode == code, (source, ended.stdout, ended.stderr)
        said[source] = ended.stdout + ended.stderr
    assert "24 examples" in next(v for k, v in said.items() if "third.sqlite --to" in k)
    assert "FAILS  forged/fashion_mnist-L2-0.5.csv, line 2" in said["dynbench verify forged"]
    assert (tmp_path / "site" / "index.html").is_file()
    assert "A. Reader, by mail" in (tmp_path / "tables/fashion_mnist-L2-0.5.csv").read_text()
    assert "trained on test images" in (tmp_path / "tables/withdrawn.csv").read_text()


def test_the_page_is_read_as_commands_and_programs():
    found = list(steps(PAGE.read_text(encoding="utf-8")))
    assert {kind for kind, _, _ in found} == {"console", "python"}
    assert {code for _, _, code in found} == {0, 1, 2}
    assert all(
        source.startswith(("dynbench ", "cp ", "sed ")) for k, source, _ in found if k == "console"
    )
