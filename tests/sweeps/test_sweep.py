"""Sweeps: what they run, what they refuse, and how they end."""

import sys
from dataclasses import replace
from itertools import product

import pytest
import torch
import yaml
from oracles.command import dynbench_here
from oracles.digits_plugin import HONEST, UNSOUND, write_plugin
from oracles.sweeps import SMALL, SMOOTHED, content, dump, in_this_process

from robustbench_dyn import (
    InputError,
    Smoothing,
    Status,
    ThreatModel,
    evaluate,
    evaluate_smoothed,
    load_dataset,
    load_model,
)
from robustbench_dyn.attacks import APGD, APGDT, FABT, HopSkipJump, Square, SquareLong
from robustbench_dyn.attacks.native.apgd import apgd
from robustbench_dyn.errors import RegistryError
from robustbench_dyn.models.loading import check_model
from robustbench_dyn.plugins import Registry
from robustbench_dyn.reporting.leaderboard import leaderboard
from robustbench_dyn.reporting.published import tables_in
from robustbench_dyn.reporting.rows import read_rows
from robustbench_dyn.resources import shipped
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import Outcome
from robustbench_dyn.sweeps.engines import ENGINES
from robustbench_dyn.sweeps.shards import Shard, run_shard
from robustbench_dyn.sweeps.sweep import sweep
from robustbench_dyn.sweeps.sweep_file import read_sweep

pytestmark = pytest.mark.usefixtures("without_workers")
RAISING = HONEST.replace("    return", "    raise ValueError('no such luck')\n    return")


def test_a_sweep_gives_the_rows_of_single_evaluations(undisturbed, plugins):
    _, outcome = undisturbed
    assert not outcome.failed
    assert not outcome.unsound
    seen = [(row["norm"], row["eps"], row["n_examples"]) for row in outcome.rows]
    assert seen == [("L2", 0.3, 24), ("L2", 0.6, 24), ("Linf", 8 / 255, 24)]
    model = load_model("linear", dataset="digits", plugins=(plugins,))
    data = load_dataset("digits", n_examples=24)
    for row in outcome.rows:
        threat_model = ThreatModel(row["norm"], row["eps"])
        single = evaluate(model, data, threat_model, attacks="pgd,apgd-ce", batch_size=6)
        for column in ("clean_accuracy", "certified_accuracy", "empirical_accuracy"):
            assert row[column] == single.summary[column]


def test_a_second_sweep_computes_nothing(undisturbed, plugins):
    path, outcome = undisturbed
    before, store = dump(path), Store(path)
    costs = [store.costs(key, eps) for key in store.records() for eps in (0.3, 0.6, 8 / 255)]
    again = sweep(content(), path, workers=2, plugins=(plugins,), trust=True)
    assert again.rows == outcome.rows
    assert dump(path) == before
    assert costs == [
        store.costs(key, eps) for key in store.records() for eps in (0.3, 0.6, 8 / 255)
    ]


def test_rows_have_the_order_of_the_sweep_whatever_ends_first(undisturbed, plugins, monkeypatch):
    def backwards(shards, store, workers):
        return in_this_process(list(reversed(shards)), store, workers)

    path, outcome = undisturbed
    monkeypatch.setattr(ENGINES, "get", lambda _name: backwards)
    assert sweep(content(), path, workers=2, plugins=(plugins,), trust=True).rows == outcome.rows


def test_a_model_may_have_its_own_number_of_examples(plugins, tmp_path):
    write_plugin(tmp_path / "more" / "other")
    models = ["linear", {"name": "other", "n_examples": 7}]
    outcome = sweep(
        content(models=models, attacks="none"),
        tmp_path / "s.sqlite",
        workers=1,
        plugins=(plugins, tmp_path / "more"),
        trust=True,
    )
    sizes = {(row["model"], row["n_examples"]) for row in outcome.rows}
    assert sizes == {("linear", 24), ("other", 7)}


def test_a_model_may_have_its_own_number_of_examples_in_one_norm(plugins, tmp_path):
    models = [{"name": "linear", "n_examples": {"Linf": 7}}, SMOOTHED | {"n_examples": {"L2": 2}}]
    outcome = sweep(
        content(models=models, attacks="none", examples_per_shard=5),
        tmp_path / "s.sqlite",
        workers=1,
        plugins=(plugins,),
        trust=True,
    )
    sizes = {(row["model"], row["norm"], row["n_examples"]) for row in outcome.rows}
    assert sizes == {("linear", "L2", 24), ("linear", "Linf", 7), ("linear~0.25", "L2", 2)}


def test_a_model_may_have_its_own_certifiers(plugins, tmp_path):
    models = ["linear", {"name": "linear", "certifiers": "interval", "n_examples": 7}]
    outcome = sweep(
        content(models=models, attacks="none"),
        tmp_path / "s.sqlite",
        workers=1,
        plugins=(plugins,),
        trust=True,
    )
    found = {(row["certifiers"], row["norm"], row["n_examples"]) for row in outcome.rows}
    assert ("interval", "L2", 7) in found
    assert ("interval", "Linf", 7) in found
    others = {certifiers for certifiers, _, n_examples in found if n_examples == 24}
    assert others
    assert "interval" not in others


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"models": [SMOOTHED], "threat_models": [{"norm": "Linf", "eps": [0.1]}]},
            "linear~0.25 is a smoothed classifier.* has Linf only; add L2",
        ),
        ({"models": [SMOOTHED | {"smoothing": {"sigma": 0}}]}, "sigma=0 must be positive"),
        ({"models": [SMOOTHED | {"smoothing": {"sigma": 1, "n": 5}}]}, "n=5 draws prove nothing"),
        (
            {"models": [SMOOTHED | {"smoothing": {"sigma": 1, "m": 5}}]},
            r"'models.0.smoothing.m' \(the keys are: sigma, n0, n,",
        ),
        (
            {"models": [SMOOTHED | {"smoothing": {"n": 50}}]},
            "'models.0.smoothing.sigma' is missing",
        ),
        ({"model": ["linear"]}, "unknown key 'model'"),
        ({"models": []}, "models"),
        (
            {"models": [{"name": "linear", "examples": 5}]},
            # And no more: the list is long enough.
            r"unknown key 'models.0.examples' \(the keys are: name, n_examples, [a-z, ]*\)$",
        ),
        ({"models": [{"name": "linear", "n_examples": 5000}]}, "5000, but digits has"),
        ({"models": [{"name": "linear", "n_examples": {"L2": 5000}}]}, "5000, but digits has"),
        ({"models": [{"name": "linear", "n_examples": {"L1": 5}}]}, "linear names L1, and"),
        ({"models": [{"name": "linear", "n_examples": {"L3": 5}}]}, "models.0.n_examples"),
        ({"models": [{"name": "linear", "n_examples": {"L2": 0}}]}, "models.0.n_examples"),
        ({"models": [{"name": "linear", "n_examples": 0}]}, "models.0.n_examples"),
        ({"n_examples": 0}, "n_examples"),
        ({"n_examples": 10_000}, r"has \d+ test examples"),
        ({"threat_models": [{"norm": "L3", "eps": [1]}]}, "norm"),
        ({"threat_models": [{"norm": "Linf", "eps": ["eight"]}]}, "eps"),
        ({"threat_models": [{"norm": "Linf", "eps": [8]}]}, "8/255, not 8"),
        ({"threat_models": [{"norm": "L2", "eps": [1]}] * 2}, "lists a norm twice"),
        ({"models": ["linaer"]}, "did you mean 'linear'"),
        ({"datasets": ["fashion_mnist"]}, "no weights for dataset 'fashion_mnist'"),
        ({"attacks": "pdg"}, "did you mean 'pgd'"),
        ({"certifiers": "crwon"}, "no certifier is called 'crwon'"),
        (
            {"models": [{"name": "linear", "certifiers": "crwon"}]},
            "no certifier is called 'crwon'",
        ),
        (
            {"models": [{"name": "linear", "certifiers": "interval"}], "certifiers": "crwon"},
            "no certifier is called 'crwon'",
        ),
        ({"models": [SMOOTHED | {"certifiers": "interval"}]}, "its own certificate; drop"),
    ],
)
def test_bad_sweeps_are_refused_before_they_start(changes, message, plugins, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    with pytest.raises((InputError, RegistryError), match=message):
        sweep(read_sweep(path), tmp_path / "s.sqlite", plugins=(plugins,), trust=True)
    assert not (tmp_path / "s.sqlite").exists()


def test_engines_and_workers_are_checked(plugins, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no engine is called 'slurm'"):
        Registry.get(ENGINES, "slurm")
    with pytest.raises(InputError, match="workers=0"):
        sweep(content(), tmp_path / "s.sqlite", workers=0, plugins=(plugins,), trust=True)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'robustbench-dyn\[ray\]'"):
        list(Registry.get(ENGINES, "ray")([], tmp_path / "s.sqlite", 1))


# Smoothed classifiers


def test_a_smoothed_classifier_has_rows_beside_its_network(smoothed, plugins):
    path, outcome = smoothed
    assert not outcome.failed
    board = leaderboard(Store(path))
    assert set(board["model"]) == {"linear", "linear~0.25"}
    rows = board[board["model"] == "linear~0.25"]
    assert set(rows["certifiers"]) == {"smoothing(n=100 alpha=0.001)"}
    assert set(rows["attacks"]) == {"eot-pgd"}
    assert set(rows["n_examples"]) == {16}
    assert len(outcome.rows) == len(board) == 4
    model = load_model("linear", dataset="digits", plugins=(plugins,))
    alone = evaluate_smoothed(
        model,
        load_dataset("digits", n_examples=16),
        [ThreatModel("L2", 0.1), ThreatModel("L2", 0.3)],
        Smoothing(0.25, n0=20, n=100),
        batch_size=50,
    )
    for evaluation in alone.evaluations:
        (row,) = (
            r
            for r in outcome.rows
            if r["model"] == "linear~0.25" and r["eps"] == evaluation.threat_model.eps
        )
        for column in ("clean_accuracy", "certified_accuracy", "empirical_accuracy"):
            assert row[column] == evaluation.summary[column]
    assert 0 < rows["certified_accuracy"].min() < rows["certified_accuracy"].max()


def test_a_smoothed_classifier_takes_part_in_l2_alone(plugins, tmp_path):
    mixed = content(models=[SMOOTHED], n_examples=4, attacks="none")
    outcome = sweep(mixed, tmp_path / "s.sqlite", workers=1, plugins=(plugins,), trust=True)
    assert {radii.norm for radii in mixed.threat_models} == {"L2", "Linf"}
    assert outcome.rows
    assert {row["norm"] for row in outcome.rows} == {"L2"}


def test_without_attacks_a_smoothed_classifier_is_certified_only(plugins, tmp_path):
    shard = Shard(
        "linear",
        "digits",
        "L2",
        (0.1,),
        0,
        0,
        8,
        attacks="none",
        batch_size=50,
        plugins=(plugins,),
        trust=True,
        smoothing=Smoothing(0.25, n0=20, n=100),
    )
    path = tmp_path / "s.sqlite"
    key = run_shard(shard, path)
    store = Store(path)
    assert store.record(key).spec.attacks == ()
    assert shard.matches(store.record(key).spec)
    assert not replace(shard, smoothing=None).matches(store.record(key).spec)
    assert "certified" in {verdict.status for verdict in store.verdicts(key, 0.1)}


# Shards that fail, and the command


@pytest.mark.parametrize(
    ("models", "code", "words"),
    [
        (["linear"], 0, ()),
        (["linear", "raising"], 2, ("no such luck",)),
        (["linear", "louder", "raising"], 1, ("inside a certified ball", "no such luck")),
    ],
)
def test_the_command_ends_with_the_code_of_the_worst_shard(
    models, code, words, plugins, tmp_path, monkeypatch, capsys
):
    write_plugin(tmp_path / "plugins" / "raising", RAISING)
    write_plugin(tmp_path / "plugins" / "louder", UNSOUND, factor=3)
    small = SMALL | {
        "models": models,
        "attacks": "pgd",
        "examples_per_shard": 24,
        "batch_size": 24,
        "threat_models": [{"norm": "L2", "eps": [1.5]}],
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(small))
    result = dynbench_here(
        ["sweep", "sweep.yaml", "--trust", "--plugins", plugins, "--plugins", tmp_path / "plugins"],
        tmp_path,
        monkeypatch,
        capsys,
    )
    assert result.returncode == code, result.stderr
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    # The others are not harmed.
    assert "linear" in result.stdout
    assert leaderboard(Store(tmp_path / "dynbench.sqlite"))["model"].tolist() == ["linear"]


@pytest.mark.slow
def test_a_hit_in_one_shard_calls_back_the_spared_of_the_others(plugins, tmp_path, monkeypatch):
    digits, weak = load_dataset("digits", n_examples=24).x, list[int]()

    def blind(_attack, problem):
        return problem.x

    def sharp(_attack, problem):
        """Break the weak examples alone."""
        found = problem.x.clone()
        for k, x in enumerate(problem.x):
            if any(torch.equal(x, digits[i]) for i in weak):
                found[k] = apgd(problem.rows(torch.tensor([k])), loss="ce", n_iterations=20)
        return found

    for attack in (APGD, APGDT, FABT, HopSkipJump, SquareLong):
        monkeypatch.setattr(attack, "perturb", blind)
    monkeypatch.setattr(Square, "perturb", sharp)
    grid = [{"norm": "L2", "eps": [1.5]}]
    config = content(attacks="standard", certifiers="none", threat_models=grid)

    def rows_and_trails(store):
        rows = sweep(config, store, plugins=(plugins,), trust=True).rows
        verdicts = [v for key in Store(store).records() for v in Store(store).verdicts(key)]
        return rows, verdicts

    rows, verdicts = rows_and_trails(tmp_path / "a.sqlite")
    assert rows[0]["attacks"].endswith("square(sample)")
    ran = {v.example_id for v in verdicts if v.trail and v.trail[-1].outcome is Outcome.SURVIVED}
    assert len(ran) == 10
    # Of the second shard's sample: the first one is done when it is broken.
    weak.append(max(ran))
    rows, verdicts = rows_and_trails(tmp_path / "b.sqlite")
    assert [v.example_id for v in verdicts if v.status is Status.BROKEN] == weak
    assert "square+" in rows[0]["attacks"]
    assert not any(step.outcome is Outcome.SPARED for v in verdicts for step in v.trail)


@pytest.mark.parametrize(
    "path", sorted(shipped("leaderboards").glob("sweep*.yaml")), ids=lambda path: path.stem
)
def test_the_shipped_sweeps_name_models_with_weights(path):
    config = read_sweep(path)
    for dataset in config.datasets:
        for entry in config.models:
            check_model(entry.name, dataset=dataset)
        with pytest.raises(InputError, match="has no weights"):
            check_model("lipflow/untrained", dataset=dataset)


def test_the_published_rows_are_those_of_the_shipped_sweeps():
    asked = dict[tuple[str, str, str, float], int]()
    for path in shipped("leaderboards").glob("sweep*.yaml"):
        config = read_sweep(path)
        for subject, sizes in config.sizes.items():
            name = subject.smoothing.name_of(subject.model) if subject.smoothing else subject.model
            for dataset, grid in product(config.datasets, config.threat_models):
                for eps in grid.eps if grid.norm in sizes else ():
                    row = (name, dataset, grid.norm, eps)
                    # Where two sweeps ask for a row, the one of more images is published.
                    asked[row] = max(asked.get(row, 0), sizes[grid.norm])
    published = {
        (row["model"], row["dataset"], row["norm"], row["eps"]): row["n_examples"]
        for path in tables_in(shipped("leaderboards"))
        for row in read_rows(path)
    }
    assert published == asked
