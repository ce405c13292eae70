"""The audit of certificates by attacks: silent on true ones, and loud on wrong ones."""

import math

import numpy as np
import pandas as pd
import pytest
import soundness
import torch
from oracles import halfspaces, points
from oracles.attacks import attack_of
from oracles.certifiers import amended
from oracles.digits_plugin import HONEST, UNSOUND, write_plugin
from torch import nn

from robustbench_dyn import ThreatModel
from robustbench_dyn.certification.base import Proof
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.flows import Classifier
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.plugins import load_plugins

DISTANCES = (0.05, 0.11, 0.2, 0.31)
# The plane x_i = x_j is at L2 distance d, and at these in the other norms.
FACTORS = {"L2": 1.0, "Linf": 2**-0.5, "L1": 2**0.5}


def audit(model, prepared, x, y, norm, attacks="apgd-ce", **options):
    with frozen_eval(model):
        certified = soundness.certified_radii(model, prepared, x, y, norm)
        finds = soundness.nearest_finds(model, x, y, certified, norm, attacks=attacks, **options)
    return certified, soundness.sound_alarm(certified, finds)


def certifier(name, model, norm):
    (prepared,) = resolve_certifiers(name, model, (1, 4, 4), norm)
    return prepared


def grown(prepared, factor):
    """Return the same certifier, whose radii are `factor` times as long."""

    def prove(honest, x, logits, y, threat_model):
        asked = ThreatModel(threat_model.norm, threat_model.eps / factor)
        proof = honest.prove(x, logits, y, asked)
        # Not shorter than what was asked for, by rounding.
        return Proof(proof.class_radii * factor * (1 + 1e-12))

    return amended(prepared, prove)


@pytest.mark.parametrize("norm", ["L2", "Linf", "L1"])
def test_true_certificates_survive_attacks_that_come_close(norm):
    model = halfspaces(n_classes=4)
    x, y = points(DISTANCES[1:3], n_classes=4)
    attacks = "fab-t" if norm == "L1" else "apgd-ce,fab-t"
    certified, found = audit(model, certifier("interval", model, norm), x, y, norm, attacks)
    # Interval bounds of a linear map are exact: the grid alone stands between.
    exact = torch.tensor(DISTANCES[1:3], dtype=torch.float64) * FACTORS[norm]
    assert bool((certified <= exact).all())
    assert bool((certified * 2 ** (1 / soundness.AN_OCTAVE) > exact * (1 - 1e-4)).all())
    assert found.hits == []
    assert 1 < found.nearest < 2 ** (1 / soundness.AN_OCTAVE) * 1.02


@pytest.mark.parametrize("name", ["lipschitz", "interval", "linear_relaxation"])
@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_radii_half_as_long_again_are_caught(name, norm):
    model = halfspaces()
    x, y = points(DISTANCES)
    honest = certifier(name, model, norm)
    _, silent = audit(model, honest, x, y, norm)
    assert silent.hits == []
    # From L2, an Linf radius is 16^(1/2) times too short: it takes more to make it wrong.
    factor = 1.5 if (name, norm) != ("lipschitz", "Linf") else 6.0
    certified, loud = audit(model, grown(honest, factor), x, y, norm)
    assert [hit.row for hit in loud.hits] == [0, 1, 2, 3]
    for hit in loud.hits:
        assert hit.find.distance <= hit.radius == certified[hit.row]
        with torch.no_grad():
            assert model(hit.find.x_adv[None]).argmax() != y[hit.row]


def test_auto_pgd_finds_what_the_minimum_norm_attack_misses(monkeypatch):
    model = halfspaces()
    x, y = points(DISTANCES)
    blind = attack_of(lambda problem: problem.x.clone(), name="blind")
    resolve = soundness.resolve_attacks
    monkeypatch.setattr(
        soundness,
        "resolve_attacks",
        lambda names, *a, **k: [blind] if names == "fab-min" else resolve(names, *a, **k),
    )
    _, loud = audit(model, grown(certifier("lipschitz", model, "L2"), 1.5), x, y, "L2")
    assert [hit.find.attack for hit in loud.hits] == ["apgd-ce"] * 4


def test_a_norm_by_a_few_power_iterations_is_caught():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(16, 16, bias=False)
        layer.weight.data = torch.randn(16, 16)
        vector = torch.randn(16)
    left, sizes, _ = torch.linalg.svd(layer.weight.detach())
    for _ in range(2):
        vector = layer.weight.detach().T @ (layer.weight.detach() @ vector)
        vector /= vector.norm()
    estimate = float((layer.weight.detach() @ vector).norm())
    assert 0.6 * sizes[0] < estimate < 0.98 * sizes[0]

    def network(bound):
        """Return two classes whose difference is as steep as the norm of the layer."""
        head = nn.Linear(16, 2)
        head.weight.data = torch.stack([left[:, 0], torch.zeros(16)])
        head.bias.data = torch.zeros(2)
        return Classifier(Bounded(nn.Sequential(nn.Flatten(), layer), bound), head)

    x = 0.5 + 0.02 * torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for bound, caught in ((float(sizes[0]) * (1 + 1e-6), False), (estimate, True)):
        model = network(bound).eval()
        with torch.no_grad():
            middle = float((model(x)[:, 0]).mean())
            model.head.bias[0] -= middle
            y = model(x).argmax(dim=1)
        certified, found = audit(model, certifier("lipschitz", model, "L2"), x, y, "L2")
        assert not certified.isnan().any()
        assert bool(found.hits) == caught


class Bounded(nn.Module):
    def __init__(self, inner, bound):
        super().__init__()
        self.inner, self.bound = inner, bound

    def forward(self, x):
        return self.inner(x)

    def lipschitz_bound(self):
        return self.bound


def test_shells_attack_each_example_just_inside_its_radius():
    certified = torch.tensor([0.1, 0.101, 0.5, math.nan, 1e-9, 0.0, 0.5], dtype=torch.float64)
    seen = {}
    for eps, rows in soundness.shells(certified, 0.01):
        for row in rows.tolist():
            seen[row] = eps / float(certified[row])
    assert sorted(seen) == [0, 1, 2, 6]
    assert all(0.98 / soundness.STEP < share <= 0.98 + 1e-12 for share in seen.values())


def test_nothing_is_attacked_where_nothing_is_certified():
    model = halfspaces(factor=1e9)
    x, y = points(DISTANCES)
    certified, found = audit(model, certifier("lipschitz", model, "L2"), x, 1 - y, "L2")
    assert certified.isnan().all()
    assert found == ([], math.inf)


# ---- the job


@pytest.fixture
def job(tmp_path, monkeypatch):
    for name, code in (("honest", HONEST), ("louder", UNSOUND)):
        factor = 3 if code == UNSOUND else 1
        write_plugin(tmp_path / "plugins" / name, code, factor=factor)
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(soundness, "PATH", tmp_path / "results" / "soundness.csv")
    load_plugins(tmp_path / "plugins")
    monkeypatch.setattr(soundness, "ATTACKS", {"L2": "apgd-ce"})
    monkeypatch.setattr(soundness, "SECONDS_A_BALL", 1.0)

    def run(*models, n_examples=8):
        named = [part for model in models for part in ("--model", model)]
        soundness.main(
            [*named, "--dataset", "digits", "--norm", "L2", "--n-examples", str(n_examples)]
        )
        return pd.read_csv(soundness.PATH)

    return run


def test_the_job_writes_a_row_per_certifier_and_goes_on(job, monkeypatch):
    resolve = soundness.resolve_certifiers

    def refusing(name, *arguments):
        if name == "interval":
            raise CertificateError("too round")
        return resolve(name, *arguments)

    monkeypatch.setattr(soundness, "resolve_certifiers", refusing)
    first = job("honest")
    assert first["certifier"].tolist() == sorted(soundness.certifier_names())
    done = first[first["problem"].isna()]
    assert (done["hits"] == 0).all()
    assert done["with_suite"].sum() > 0
    assert first.set_index("certifier").loc["interval", "problem"] == "too round"
    before = soundness.PATH.read_bytes()
    calls = []
    examine = soundness.examine
    monkeypatch.setattr(soundness, "examine", lambda *a: (calls.append(a), examine(*a))[1])
    job("honest")
    assert not calls
    assert soundness.PATH.read_bytes() == before
    job("honest", n_examples=9)
    assert len(calls) == 1


def test_a_find_counts_against_each_radius_it_lies_within():
    finds = {
        0: soundness.Find("apgd-ce", 0.5, torch.zeros(1)),
        2: soundness.Find("apgd-ce", 0.5, torch.zeros(1)),
    }
    shorter, longer = (torch.tensor([radius, 0.2, math.nan]) for radius in (0.4, 0.6))
    assert soundness.sound_alarm(shorter, finds) == ([], pytest.approx(0.5 / 0.4))
    (hit,), nearest = soundness.sound_alarm(longer, finds)
    assert (hit.row, hit.radius, hit.find) == (0, pytest.approx(0.6), finds[0])
    assert nearest == pytest.approx(0.5 / 0.6)


def test_a_wrong_certificate_ends_the_job_with_code_1(job, tmp_path):
    with pytest.raises(SystemExit, match="louder digits L2 lipschitz") as ended:
        job("honest", "louder")
    assert ended.value.code not in (0, None)
    saved = sorted((tmp_path / "results").glob("*.npz"))
    assert saved
    kept = np.load(saved[0])
    moved = float(np.linalg.norm((kept["x_adv"] - kept["x"]).astype(float)))
    assert moved == pytest.approx(float(kept["distance"]))
    assert moved <= kept["certified_radius"]
    # It stays refuted, though nothing is computed again.
    with pytest.raises(SystemExit, match="louder digits L2 lipschitz"):
        job("honest")


def test_unknown_weights_are_named(job):
    with pytest.raises(InputError, match="no weights are called unknown"):
        job("unknown")
