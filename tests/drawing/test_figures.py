"""Figures: written as PNG, SVG or PDF, reproducible byte for byte."""

import pytest

from robustbench_dyn.drawing.figures import save
from robustbench_dyn.drawing.flow import plot_flow
from robustbench_dyn.errors import InputError


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_same_picture_gives_the_same_bytes(moons, flow, evaluation, suffix, tmp_path):
    contents = []
    for name in ("a", "b"):
        path = tmp_path / "new" / (name + suffix)
        save(plot_flow(flow, moons, evaluation), path)
        contents.append(path.read_bytes())
    assert contents[0][:4] in (b"\x89PNG", b"<?xm", b"%PDF")
    assert contents[0] == contents[1]


def test_another_suffix_is_refused(moons, flow, evaluation, tmp_path):
    with pytest.raises(InputError, match=r"must end in \.png, \.svg or \.pdf"):
        save(plot_flow(flow, moons, evaluation), tmp_path / "flow.gif")
