"""The job that audits all published weights: rows, resumption, exit code, counterexamples."""

import numpy as np
import pandas as pd
import pytest
import soundness
from oracles.digits_plugin import HONEST, UNSOUND, write_plugin

from robustbench_dyn.errors import InputError
from robustbench_dyn.plugins import load_plugins


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Load a plugin with true and one with false certificates; return the folder of results."""
    for name, code in (("honest", HONEST), ("louder", UNSOUND)):
        factor = 3 if code == UNSOUND else 1
        write_plugin(tmp_path / "plugins" / name, code, factor=factor)
    load_plugins(tmp_path / "plugins")
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(soundness, "PATH", tmp_path / "results" / "soundness.csv")
    return tmp_path / "results"


def run(*models, n_examples=8):
    named = [part for model in models for part in ("--model", model)]
    options = ["--dataset", "digits", "--norm", "L2", "--attacks", "apgd-ce"]
    soundness.main([*named, *options, "--n-examples", str(n_examples)])
    return pd.read_csv(soundness.PATH).set_index("certifier")


def test_each_certifier_gets_a_row(results):
    rows = run("honest")
    assert list(rows.index) == sorted(soundness.certifier_names())
    applied = rows[rows["problem"].isna()]
    assert set(applied.index) == {"complete", "interval", "linear_relaxation", "lipschitz"}
    assert (applied["certified"] > 0).all()
    assert (applied["hits"] == 0).all()
    assert (applied["nearest"] > 1).all()
    assert (applied["with_suite"] > 0).all()
    assert rows.loc["lipsdp", "problem"].startswith("semidefinite bounds are for networks")
    assert rows.loc["lipsdp", ["certified", "hits", "attack_seconds"]].isna().all()


def test_only_rows_that_changed_are_computed_again(results, monkeypatch):
    run("honest")
    before = soundness.PATH.read_bytes()
    audited = []
    examine = soundness.examine

    def recorded(model, data, norm, certifiers, name, **options):
        audited.append(certifiers)
        return examine(model, data, norm, certifiers, name, **options)

    monkeypatch.setattr(soundness, "examine", recorded)
    run("honest")
    assert audited == []
    assert soundness.PATH.read_bytes() == before
    run("honest", n_examples=9)
    assert audited == [list(soundness.certifier_names())]


def test_a_refuted_certificate_ends_the_job_with_code_1(results):
    with pytest.raises(SystemExit, match="louder digits L2 lipschitz") as ended:
        run("honest", "louder")
    assert ended.value.code not in (0, None)
    saved = sorted(results.glob("*.npz"))
    assert saved
    with np.load(saved[0]) as counterexample:
        moved = np.linalg.norm((counterexample["x_adv"] - counterexample["x"]).astype(float))
        assert moved == pytest.approx(float(counterexample["distance"]))
        assert moved <= counterexample["certified_radius"]
    # It stays refuted, though nothing is computed again.
    with pytest.raises(SystemExit, match="louder digits L2 lipschitz"):
        run("honest")


def test_unknown_weights_are_named(results):
    with pytest.raises(InputError, match="no weights are called unheard_of"):
        run("unheard_of")
