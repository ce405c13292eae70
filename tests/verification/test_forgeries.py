"""Forged tables are found at the depth that each needs, and their honest twin passes."""

import pytest
from oracles.forgeries import FORGERIES, MODEL, OTHER, SMOOTHED, SOFT, WEAK

from robustbench_dyn.verification.options import ReplayOptions
from robustbench_dyn.verification.tables import verify

SAMPLE = 24
RECOUNT = [forgery for forgery in FORGERIES if forgery.depth == "recount"]
REPLAY = [forgery for forgery in FORGERIES if forgery.depth == "replay"]


def checks(reports):
    return {finding.check for report in reports for finding in report.findings}


def test_honest_rows_pass_a_recount(folder):
    reports = verify(folder)
    assert not checks(reports), [r for r in reports if not r.holds]
    assert {r.row.partition(" ")[0] for r in reports} >= {MODEL, WEAK, SMOOTHED, SOFT}


@pytest.mark.parametrize("forgery", RECOUNT, ids=lambda forgery: forgery.name)
def test_a_recount_finds(forgery, folder):
    forgery.forge(folder)
    assert forgery.check in checks(verify(folder))


@pytest.mark.slow
@pytest.mark.parametrize("model", [MODEL, OTHER, WEAK, SMOOTHED, SOFT])
def test_honest_rows_pass_a_replay(model, folder, tmp_path):
    reports = verify(folder, model=model, replay=ReplayOptions(SAMPLE, seed=11, keep=tmp_path))
    assert reports and not checks(reports), reports


@pytest.mark.slow
@pytest.mark.parametrize("forgery", REPLAY, ids=lambda forgery: forgery.name)
def test_a_replay_finds_what_a_recount_cannot(forgery, folder, tmp_path):
    forgery.forge(folder)
    assert not checks(verify(folder)), "a recount finds it: ask for that depth"
    options = ReplayOptions(SAMPLE, seed=11, keep=tmp_path)
    reports = verify(folder, model=forgery.model, replay=options)
    assert forgery.check in checks(reports), reports
