"""Adversarial examples that are handed in: read, assessed, and written into tables."""

import io
import zipfile

import numpy as np
import pytest
import torch

from robustbench_dyn import load_dataset, load_model
from robustbench_dyn.errors import InputError
from robustbench_dyn.reporting.published import read_table
from robustbench_dyn.reporting.withdrawn import read_withdrawn
from robustbench_dyn.results.verdicts import Status
from robustbench_dyn.verification.corrections import apply, assess
from robustbench_dyn.verification.options import ReplayOptions
from robustbench_dyn.verification.submissions import Submission, read_submission
from robustbench_dyn.verification.tables import verify

GOOD = {
    "x_adv": np.zeros((2, 2, 1, 1), np.float32),
    "example_id": np.array([1, 2]),
    "model": np.array("lipflow"),
}


def saved(path, arrays):
    np.savez(path, **arrays)
    return path


def test_a_submission_is_read(tmp_path):
    more = {"seed": np.array(3), "weights_sha256": np.array("a" * 64)}
    read = read_submission(saved(tmp_path / "s.npz", GOOD | more))
    assert (read.model, read.seed, read.example_ids) == ("lipflow", 3, (1, 2))
    assert read.x_adv.shape == (2, 2, 1, 1)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": None}, "model 0 times"),
        ({"x_adv": None}, "x_adv 0 times"),
        ({"more": np.zeros(1)}, "'more'"),
        ({"x_adv": np.zeros((2, 1, 1, 2), int)}, "floats"),
        ({"x_adv": np.zeros((0, 1, 1, 2))}, "shape"),
        ({"x_adv": np.float32(1)}, "shape"),
        ({"example_id": np.array([1.0, 2.0])}, "whole number"),
        ({"example_id": np.array([1])}, "example_id"),
        ({"model": np.array(["a", "b"])}, "one text"),
        ({"model": np.array(["lipflow"], dtype=object)}, "is no array"),
        ({"seed": np.array("x")}, "seed"),
        ({"weights_sha256": np.array(1)}, "weights_sha256"),
    ],
)
def test_a_bad_submission_is_refused_in_a_sentence(change, word, tmp_path):
    arrays = {name: value for name, value in (GOOD | change).items() if value is not None}
    with pytest.raises(InputError, match=word) as refused:
        read_submission(saved(tmp_path / "s.npz", arrays))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "no .npz"),
        (b"PK\x03\x04 and no more", "no .npz"),
        (b"text", "no .npz"),
    ],
)
def test_a_file_that_is_no_archive_is_refused(content, word, tmp_path):
    path = tmp_path / "s.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=word):
        read_submission(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_submission(tmp_path / "none.npz")


def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 1, 1, 2)}
    )
    path = saved(tmp_path / "s.npz", {k: v for k, v in GOOD.items() if k != "x_adv"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_adv.npy", header.getvalue())
    with pytest.raises(InputError, match="does not fit"):
        read_submission(path)


def found(entry, status, *, eps):
    """Return an example of a status, and its nearest adversarial example on a fine grid."""
    model, data = load_model("lipflow", dataset="moons"), load_dataset("moons", n_examples=30)
    angles = torch.linspace(0, 2 * torch.pi, 361)[:-1]
    circle = torch.stack([angles.cos(), angles.sin()], dim=1).reshape(-1, 2, 1, 1)
    for verdict in entry.evidence.verdicts:
        x = data.x[verdict.example_id]
        for radius in torch.linspace(0.01, 0.999 * eps, 100) if verdict.status is status else ():
            points = (x + radius * circle).clamp(0, 1)
            with torch.no_grad():
                wrong = (model(points).argmax(dim=1) != verdict.label).nonzero().flatten()
            if len(wrong):
                x_adv = points[wrong[:1]]
                distance = float((x_adv - x).double().norm())
                return verdict.example_id, x_adv.numpy(), distance
    raise AssertionError(f"no {status} example falls")


def assessed(table, *images):
    ids, x_adv = zip(*images, strict=True)
    submission = Submission(np.concatenate(x_adv), tuple(ids), "lipflow")
    return assess(submission, read_table(table), ReplayOptions(seed=1))


def test_an_undecided_example_that_falls_corrects_the_row(table):
    (before,) = read_table(table)
    example, x_adv, distance = found(before, Status.UNDECIDED, eps=0.3)
    (row,) = assessed(table, (example, x_adv))
    assert [one.effect for one in row.assessments] == ["breaks"]
    apply([row], table.parent, source="Ada, a letter")
    (after,) = read_table(table)
    verdict = after.evidence.verdicts[example]
    assert verdict.status is Status.BROKEN
    assert verdict.adversarial_distance == pytest.approx(distance)
    assert "Ada, a letter" in after.row["corrections"]
    fewer = before.row["empirical_accuracy"] - after.row["empirical_accuracy"]
    assert fewer == pytest.approx(1 / 30)
    # The corrected row holds, image and all.
    (report,) = verify(table, replay=ReplayOptions(5, seed=2))
    assert report.holds, report


def test_a_broken_example_keeps_the_nearer_image(table):
    (before,) = read_table(table)
    example, x_adv, distance = found(before, Status.BROKEN, eps=0.3)
    known = before.evidence.verdicts[example].adversarial_distance
    assert distance < known
    (row,) = assessed(table, (example, x_adv))
    assert [one.effect for one in row.assessments] == ["nearer"]
    assert "already broken" in row.assessments[0].message
    apply([row], table.parent, source="Ada")
    (after,) = read_table(table)
    nearer = after.evidence.verdicts[example].adversarial_distance
    assert nearer == pytest.approx(distance)
    assert after.row["empirical_accuracy"] == before.row["empirical_accuracy"]
    # Handed in again, it changes nothing.
    (row,) = assessed(table, (example, x_adv))
    assert [one.effect for one in row.assessments] == ["nothing"]


def test_a_certified_example_that_falls_withdraws_the_row(table):
    # The certificates of this row are stretched until an adversarial example lies inside one.
    from oracles.forgeries import as_certified, change_verdicts  # noqa: PLC0415

    (entry,) = read_table(table)
    example, x_adv, _ = found(entry, Status.BROKEN, eps=0.3)
    change_verdicts(
        table.parent,
        lambda v: as_certified(v, "lipschitz", 0.3) if v.example_id == example else v,
        "lipflow",
        0.3,
    )
    (row,) = assessed(table, (example, x_adv))
    assert [one.effect for one in row.assessments] == ["refutes"]
    apply([row], table.parent, source="Ada")
    assert not table.exists() or not read_table(table)
    (gone,) = read_withdrawn(table.parent)
    assert "Ada" in gone.why and f"example {example}" in gone.why


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (lambda x: x, "still names the right class"),
        (lambda x: x * np.nan, "not finite"),
        (lambda x: x + 2, "leaves the input range"),
    ],
)
def test_an_image_that_is_no_adversarial_example_changes_nothing(image, word, table):
    (entry,) = read_table(table)
    verdict = next(v for v in entry.evidence.verdicts if v.status is Status.UNDECIDED)
    x = load_dataset("moons", n_examples=30).x[verdict.example_id : verdict.example_id + 1]
    (row,) = assessed(table, (verdict.example_id, image(x.numpy())))
    assert [one.effect for one in row.assessments] == ["nothing"]
    assert word in row.assessments[0].message


def test_examples_that_the_row_does_not_have_change_nothing(table):
    (row,) = assessed(table, (999, GOOD["x_adv"][:1]), (-1, GOOD["x_adv"][:1]))
    assert {one.effect for one in row.assessments} == {"nothing"}


@pytest.mark.parametrize(
    "about", [{"model": "sll"}, {"seed": 7}, {"weights_sha256": "a" * 64}, {"model": "lipflow@ff"}]
)
def test_a_submission_about_no_row_is_refused(about, table):
    facts = {"model": "lipflow", "x_adv": GOOD["x_adv"], "example_ids": (1, 2)} | about
    with pytest.raises(InputError, match="no row"):
        assess(Submission(**facts), read_table(table), ReplayOptions())


def test_images_of_another_shape_are_refused(table):
    submission = Submission(np.zeros((1, 1, 28, 28), np.float32), (1,), "lipflow")
    with pytest.raises(InputError, match="shape"):
        assess(submission, read_table(table), ReplayOptions())
