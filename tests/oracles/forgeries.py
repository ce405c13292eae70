"""Forged tables: each forgery changes an honest folder, and says at which depth it must be found.

A forger may edit every file of the folder, but no code. Where the evidence is edited, all hashes,
columns and ranks are computed again, as the package itself does it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from oracles.digits_plugin import write_plugin
from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model, load_plugins
from robustbench_dyn.evaluation.candidates import Hit
from robustbench_dyn.reporting.published import Entry, entries_of, read_folder
from robustbench_dyn.reporting.publishing import correct, publish, withdraw
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.evidence_files import write_evidence
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import Outcome, Status, Step
from robustbench_dyn.smoothing import Smoothing, evaluate_smoothed
from robustbench_dyn.verification.corrections import Assessment, corrected

N_EXAMPLES = 50
DATASET, NEAR, FAR, FARTHEST = "moons", 0.05, 0.15, 0.3
MODEL, OTHER, WEAK, SMOOTHED = "lipflow", "sll", "volume_preserving", "lipflow~0.1"
SOFT = "softly"

SOFTMAX = """
from torch import nn

def build(input_shape, n_classes):
    model = nn.Sequential()
    model.add_module("flat", nn.Flatten())
    model.add_module("head", nn.Linear(64, n_classes))
    model.add_module("soft", nn.Softmax(dim=1))
    return model
"""


class Forgery(NamedTuple):
    """name, and what is done to a folder; depth: at which it must be found; check: that finds it.

    model: of the row that is forged.
    """

    name: str
    forge: Callable[[Path], None]
    depth: str
    check: str
    what: str
    model: str


FORGERIES: list[Forgery] = []


def forgery(depth: str, check: str, *, model: str = MODEL):
    def register(forge):
        what = " ".join((forge.__doc__ or "").split())
        FORGERIES.append(Forgery(forge.__name__, forge, depth, check, what, model))
        return forge

    return register


def honest_folder(folder: Path, plugins: Path, *, seed: int = 0, n_examples: int = N_EXAMPLES):
    """Evaluate small models and publish them into a folder; return it."""
    if not (plugins / SOFT).exists():
        write_plugin(plugins / SOFT, SOFTMAX)
    load_plugins(plugins)
    store = Store(None)
    for name in (MODEL, OTHER):
        for eps in (FAR, NEAR):
            model = load_model(name, dataset=DATASET, norm="L2")
            data = load_dataset(DATASET, n_examples=n_examples)
            evaluate(
                model,
                data,
                ThreatModel("L2", eps),
                certifiers="lipschitz",
                seed=seed,
                store=store,
            )
    model = load_model(WEAK, dataset=DATASET, norm="L2")
    evaluate(
        model,
        load_dataset(DATASET, n_examples=n_examples),
        ThreatModel("L2", FARTHEST),
        attacks="pgd:n_steps=1",
        certifiers="none",
        seed=seed,
        store=store,
    )
    model = load_model(MODEL, dataset=DATASET, norm="L2")
    evaluate_smoothed(
        model,
        load_dataset(DATASET, n_examples=min(20, n_examples)),
        [ThreatModel("L2", NEAR)],
        Smoothing(0.1, n0=50, n=200, alpha=0.01),
        seed=seed,
        store=store,
    )
    model = load_model(SOFT, dataset="digits", norm="L2")
    data = load_dataset("digits", n_examples=min(20, n_examples))
    attacks = "fab-t"
    evaluate(
        model,
        data,
        ThreatModel("L2", 0.5),
        attacks=attacks,
        seed=seed,
        store=store,
    )
    # All images, as a forger who ran the model has them.
    publish(entries_of(store, n_adversarial=1000), folder)
    store.close()
    return folder


def entry_of(folder: Path, model: str = MODEL, eps: float = FAR) -> Entry:
    eps = {SMOOTHED: NEAR, SOFT: 0.5, WEAK: FARTHEST}.get(model, eps)
    (entry,) = [e for e in read_folder(folder) if e.row["model"] == model and e.row["eps"] == eps]
    return entry


def republish(folder: Path, change, model: str = MODEL, eps: float = FAR) -> None:
    """Change evidence, and compute all hashes, rows and ranks again."""
    entry = entry_of(folder, model, eps)
    correct(folder, entry, change(entry.evidence))


def change_verdicts(
    folder: Path, change, model: str = MODEL, eps: float = FAR, *, sampled: bool = True
) -> None:
    def changed(evidence: Evidence) -> Evidence:
        new = replace(evidence, verdicts=tuple(map(change, evidence.verdicts)))
        return new.with_sample() if sampled else new

    republish(folder, changed, model, eps)


def change_spec(folder: Path, model: str = MODEL, **facts) -> None:
    def changed(evidence: Evidence) -> Evidence:
        record = evidence.record
        record = replace(record, spec=replace(record.spec, **facts))
        return replace(evidence, record=record).with_sample()

    republish(folder, changed, model)


def change_cells(folder: Path, change, model: str = MODEL, eps: float = FAR) -> None:
    """Edit the cells of one row as text, and nothing else."""
    eps = {SMOOTHED: NEAR, SOFT: 0.5, WEAK: FARTHEST}.get(model, eps)
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
        for line in lines:
            cells = dict(zip(header, line, strict=True))
            if cells["model"] == model and float(cells["eps"]) == eps:
                change(cells)
                line[:] = cells.values()
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *lines])


def cell(column: str, change):
    def changed(cells):
        cells[column] = change(cells[column])

    return changed


def of_status(evidence: Evidence, status: Status):
    return [v for v in evidence.verdicts if v.status is status]


def survived(evidence: Evidence, eps: float):
    attacks = evidence.record.spec.attacks_run(evidence.flags, on_signs=False)
    return tuple(Step(attack.name, Outcome.SURVIVED, eps) for attack in attacks)


def as_undecided(verdict, trail):
    return replace(
        verdict,
        status=Status.UNDECIDED,
        attack="",
        adversarial_distance=math.nan,
        x_adv=None,
        reason="survived " + "+".join(step.stage for step in trail),
        trail=trail,
    )


def as_certified(verdict, label, radius, *, trail=True):
    return replace(
        verdict,
        status=Status.CERTIFIED,
        attack="",
        adversarial_distance=math.nan,
        x_adv=None,
        certifier=label,
        certified_radius=radius,
        reason="",
        trail=(Step(label, Outcome.CERTIFIED, verdict.eps),) if trail else verdict.trail,
    )


def kept(evidence: Evidence):
    return [v for v in evidence.verdicts if v.x_adv is not None]


def clean_image(evidence: Evidence, example_id: int) -> np.ndarray:
    data = load_dataset(evidence.record.spec.dataset)
    return data.x[example_id].numpy()


def with_image(verdict, image: np.ndarray, x: np.ndarray):
    distance = float(np.sqrt(np.square(image.astype(float) - x.astype(float)).sum()))
    return replace(
        verdict,
        x_adv=image.astype("<f4").tobytes(),
        adversarial_distance=min(distance, verdict.eps),
    )


# Cells of the CSV alone


@forgery("recount", "schema")
def changed_digit(folder):
    """One digit of the certified accuracy."""
    change_cells(folder, cell("certified_accuracy", lambda text: text[:2] + "9" + text[3:]))


@forgery("recount", "columns")
def changed_accuracy(folder):
    """Clean accuracy of one more example, a whole number of them."""
    lower = lambda text: repr((round(float(text) * N_EXAMPLES) - 1) / N_EXAMPLES)  # noqa: E731
    change_cells(folder, cell("clean_accuracy", lower), OTHER)


@forgery("recount", "columns")
def hundred_times_too_large(folder):
    """A number of parameters that is 100 times too large."""
    change_cells(folder, cell("parameters", lambda text: str(100 * int(text))))


@forgery("recount", "columns")
def hundred_times_fewer_passes(folder):
    """A hundredth of the forward passes."""
    change_cells(folder, cell("forward_passes", lambda text: str(int(text) // 100)))


@forgery("recount", "columns")
def swapped_rows(folder):
    """The names of two models, swapped."""
    change_cells(folder, cell("model", lambda _: "for_a_moment"))
    change_cells(folder, cell("model", lambda _: MODEL), OTHER)
    change_cells(folder, cell("model", lambda _: OTHER), "for_a_moment")


@forgery("recount", "columns")
def other_weights(folder):
    """The hash of other weights."""
    change_cells(folder, cell("weights_sha256", lambda _: "a" * 64))


@forgery("recount", "columns")
def seed_renamed(folder):
    """Another seed."""
    change_cells(folder, cell("seed", lambda _: "17"))


@forgery("recount", "schema")
def narrower_interval(folder):
    """A lower end of the interval that is closer to the accuracy."""
    change_cells(folder, cell("ci_low", lambda text: repr(float(text) + 0.01)))


@forgery("recount", "ranks")
def better_rank(folder):
    """The first rank for all."""
    for model in (MODEL, OTHER):
        change_cells(folder, cell("certified_rank", lambda _: "7"), model)


@forgery("recount", "open flags")
def open_flags_cleared(folder):
    """A row that is to be ranked, for its open flags are gone."""
    change_cells(folder, cell("open_flags", lambda _: ""), SOFT)


@forgery("recount", "columns")
def flag_removed_from_row(folder):
    """A flag that the row had, and its evidence has."""
    change_cells(folder, cell("flags", lambda _: ""), SOFT)


@forgery("recount", "columns")
def suite_renamed_in_row(folder):
    """A suite that was not run."""
    change_cells(folder, cell("suite", lambda _: "standard"), WEAK)


@forgery("recount", "evidence")
def evidence_of_another_row(folder):
    """The hash of another row's evidence."""
    sha256 = entry_of(folder, OTHER).row["evidence_sha256"]
    change_cells(folder, cell("evidence_sha256", lambda _: sha256))


@forgery("recount", "evidence")
def no_evidence_named(folder):
    """No evidence, as in tables of earlier versions."""
    change_cells(folder, cell("evidence_sha256", lambda _: ""))


@forgery("recount", "evidence")
def row_twice(folder):
    """One row twice."""
    path = folder / f"{DATASET}-L2-{FAR}.csv"
    text = path.read_text(encoding="utf-8")
    path.write_text(text + text.splitlines()[1] + "\n", encoding="utf-8")


@forgery("recount", "schema")
def garbage_line(folder):
    """A line of garbage."""
    path = folder / f"{DATASET}-L2-{FAR}.csv"
    path.write_text(path.read_text(encoding="utf-8") + "garbage\n", encoding="utf-8")


@forgery("recount", "evidence")
def row_dropped(folder):
    """A row that is gone, though its evidence is there."""
    path = folder / f"{DATASET}-L2-{FAR}.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    kept_lines = [line for line in lines if not line.startswith(OTHER)]
    path.write_text("\n".join(kept_lines) + "\n", encoding="utf-8")


# The file of the evidence alone


@forgery("recount", "evidence")
def evidence_missing(folder):
    """No evidence beside the table."""
    (folder / f"{DATASET}-L2-{FAR}.parquet").unlink()


@forgery("recount", "evidence")
def evidence_cut(folder):
    """A file that ends in the middle."""
    path = folder / f"{DATASET}-L2-{FAR}.parquet"
    path.write_bytes(path.read_bytes()[:-100])


@forgery("recount", "evidence")
def evidence_edited(folder):
    """A verdict of the evidence, with the hash in the row as it was."""
    entries = [e for e in read_folder(folder) if e.row["eps"] == FAR]
    edited = []
    for entry in entries:
        first, *others = entry.evidence.verdicts
        changed = replace(first, seconds=first.seconds + 1)
        edited.append(replace(entry.evidence, verdicts=(changed, *others)))
    write_evidence(folder / f"{DATASET}-L2-{FAR}.parquet", edited)


# Evidence with all hashes and columns computed again


@forgery("recount", "examples")
def dropped_example(folder):
    """A broken example that is left out."""

    def without(evidence):
        ends = (evidence.verdicts[0], evidence.verdicts[-1])
        gone = next(v for v in of_status(evidence, Status.BROKEN) if v not in ends)
        left = tuple(v for v in evidence.verdicts if v is not gone)
        return replace(evidence, verdicts=left).with_sample()

    republish(folder, without)


@forgery("recount", "status")
def broken_called_undecided(folder):
    """Broken examples called undecided, with the attack in the trail."""
    change_verdicts(
        folder,
        lambda v: as_undecided(v, v.trail) if v.status is Status.BROKEN else v,
    )


@forgery("replay", "attacks")
def attack_never_run(folder):
    """Broken examples called undecided, each with a trail of attacks that were never run."""
    trail = survived(entry_of(folder).evidence, FAR)
    change_verdicts(folder, lambda v: as_undecided(v, trail) if v.status is Status.BROKEN else v)


@forgery("replay", "attacks", model=WEAK)
def weak_attack_called_standard(folder):
    """Verdicts of a weak attack, and a record of the standard suite."""
    spec, suite = entry_of(folder).evidence.record.spec, "standard"

    def changed(evidence):
        record = replace(
            evidence.record,
            suite=suite,
            spec=replace(
                evidence.record.spec, attacks=spec.attacks, attacks_if_random=spec.attacks_if_random
            ),
        )
        new = replace(evidence, record=record)
        trail = survived(new, FARTHEST)

        def moved(v):
            if v.status is Status.UNDECIDED:
                return as_undecided(v, trail)
            if v.status is Status.BROKEN:
                steps = (Step("apgd-ce", Outcome.BROKEN, FARTHEST),)
                return replace(v, attack="apgd-ce", trail=steps)
            steps = tuple(s for s in v.trail if s.outcome is not Outcome.SURVIVED)
            return replace(v, trail=steps)

        return replace(new, verdicts=tuple(map(moved, new.verdicts))).with_sample()

    republish(folder, changed, WEAK)


@forgery("recount", "suite", model=WEAK)
def suite_renamed(folder):
    """A record that calls one attack a suite."""
    republish(folder, lambda e: replace(e, record=replace(e.record, suite="standard")), WEAK)


@forgery("recount", "attacks", model=WEAK)
def suite_put_into_the_record(folder):
    """A record with the attacks of the standard suite, which no trail has."""
    spec = entry_of(folder).evidence.record.spec

    def changed(evidence):
        new = replace(evidence.record.spec, attacks=(*evidence.record.spec.attacks, *spec.attacks))
        return replace(evidence, record=replace(evidence.record, spec=new)).with_sample()

    republish(folder, changed, WEAK)


@forgery("recount", "status")
def undecided_called_certified(folder):
    """Undecided examples called certified, with no proof in the trail."""
    label = entry_of(folder).evidence.record.spec.certifiers[0].label
    change_verdicts(
        folder,
        lambda v: as_certified(v, label, FAR, trail=False) if v.status is Status.UNDECIDED else v,
    )


@forgery("replay", "certificate")
def proof_invented(folder):
    """Undecided and broken examples called certified, with a proof in the trail."""
    label = entry_of(folder).evidence.record.spec.certifiers[0].label
    open_ones = (Status.UNDECIDED, Status.BROKEN)
    change_verdicts(folder, lambda v: as_certified(v, label, FAR) if v.status in open_ones else v)


@forgery("replay", "certificate")
def loose_norm(folder):
    """Radii from a norm of the last layer that one step of power iteration estimates."""
    card = load_model(MODEL, dataset=DATASET, norm="L2")
    weight = [p for p in card.parameters() if p.dim() == 2][-1].detach().double()
    v = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0)).double()
    u = weight @ (v / v.norm())
    factor = float(torch.linalg.matrix_norm(weight, 2) / u.norm())
    label = entry_of(folder).evidence.record.spec.certifiers[0].label

    def longer(v):
        radius = max(2.0, factor) * v.certified_radius
        if v.prediction == v.label and radius >= FAR:
            return as_certified(v, label, radius)
        return v

    change_verdicts(folder, longer)


@forgery("replay", "radius")
def longer_radii(folder):
    """Certified radii that are half as long again, at unchanged accuracy."""
    change_verdicts(
        folder,
        lambda v: (
            replace(v, certified_radius=1.5 * v.certified_radius)
            if v.status is Status.CERTIFIED
            else v
        ),
    )


@forgery("recount", "stages")
def certifier_renamed(folder):
    """A certifier that did not run."""
    change_verdicts(
        folder,
        lambda v: (
            as_certified(v, "complete", v.certified_radius) if v.status is Status.CERTIFIED else v
        ),
    )


@forgery("recount", "stages")
def attack_renamed(folder):
    """An attack in the trail that did not run."""
    change_verdicts(
        folder,
        lambda v: (
            replace(v, trail=(*v.trail, Step("aa-square", Outcome.SURVIVED, FAR)))
            if v.status is Status.UNDECIDED
            else v
        ),
    )


@forgery("recount", "contradiction")
def radius_beyond_an_attack(folder):
    """A radius at a small eps that reaches beyond an adversarial example in the other table."""
    far = entry_of(folder).evidence
    near = {v.example_id: v.adversarial_distance for v in of_status(far, Status.BROKEN)}
    change_verdicts(
        folder,
        lambda v: (
            replace(v, certified_radius=1.01 * near[v.example_id])
            if v.status is Status.CERTIFIED and v.example_id in near
            else v
        ),
        eps=NEAR,
    )


@forgery("recount", "radius")
def radius_beyond_its_own_attack(folder):
    """A radius of a broken example that reaches beyond its adversarial example."""
    label = entry_of(folder).evidence.record.spec.certifiers[0].label
    change_verdicts(
        folder,
        lambda v: (
            replace(v, certifier=label, certified_radius=1.01 * v.adversarial_distance)
            if v.status is Status.BROKEN
            else v
        ),
    )


@forgery("recount", "labels", model=SOFT)
def labels_changed(folder):
    """Labels of misclassified examples changed to what the model predicts."""
    trail = survived(entry_of(folder, SOFT).evidence, 0.5)
    change_verdicts(
        folder,
        lambda v: (
            as_undecided(replace(v, label=v.prediction, status=Status.ERROR, reason="-"), trail)
            if v.status is Status.MISCLASSIFIED
            else v
        ),
        SOFT,
    )


@forgery("replay", "predictions", model=SOFT)
def predictions_changed(folder):
    """Misclassified examples called undecided, with the right class predicted."""
    trail = survived(entry_of(folder, SOFT).evidence, 0.5)
    change_verdicts(
        folder,
        lambda v: (
            as_undecided(replace(v, prediction=v.label, status=Status.ERROR, reason="-"), trail)
            if v.status is Status.MISCLASSIFIED
            else v
        ),
        SOFT,
    )


@forgery("recount", "labels")
def duplicated_example(folder):
    """A broken example replaced by the verdict of a certified one of the other class."""

    def changed(evidence):
        gone = of_status(evidence, Status.BROKEN)[0]
        good = next(v for v in of_status(evidence, Status.CERTIFIED) if v.label != gone.label)
        copy = replace(good, example_id=gone.example_id)
        verdicts = tuple(copy if v is gone else v for v in evidence.verdicts)
        return replace(evidence, verdicts=verdicts).with_sample()

    republish(folder, changed)


@forgery("recount", "adversarial example")
def image_far_away(folder):
    """An adversarial example outside of the threat model."""
    change_image(folder, lambda image, x: np.clip(x + 5 * (image - x), 0, 1))


@forgery("recount", "adversarial example")
def image_of_another_example(folder):
    """The adversarial example of another example."""

    def changed(evidence):
        a, b = kept(evidence)[:2]
        swapped = {a.example_id: b.x_adv, b.example_id: a.x_adv}
        return replace(
            evidence,
            verdicts=tuple(
                replace(v, x_adv=swapped.get(v.example_id, v.x_adv)) for v in evidence.verdicts
            ),
        )

    republish(folder, changed)


@forgery("recount", "adversarial example")
def image_of_other_bytes(folder):
    """Bytes that are no image of the data set."""

    def changed(evidence):
        first = kept(evidence)[0]
        verdicts = (
            replace(v, x_adv=(v.x_adv or b"") + b"1234") if v is first else v
            for v in evidence.verdicts
        )
        return replace(evidence, verdicts=tuple(verdicts))

    republish(folder, changed)


@forgery("replay", "adversarial example")
def image_that_fools_nothing(folder):
    """Images that are too near in place of adversarial examples, though beyond the radii."""
    radii = {v.x_adv: v.certified_radius for v in entry_of(folder).evidence.verdicts}

    def nearer(image, x):
        radius = radii[image.tobytes()]
        share = 1.01 * radius / np.linalg.norm(image - x) if radius > 0 else 1e-3
        return x + min(share, 1) * (image - x)

    change_image(folder, nearer)


@forgery("recount", "sample")
def images_of_choice(folder):
    """Adversarial examples kept of other examples than the rule chooses."""

    def changed(evidence):
        few = replace(evidence, n_adversarial=1)
        chosen = few.sampled()
        return replace(
            few,
            verdicts=tuple(
                replace(v, x_adv=None) if v.example_id in chosen else v for v in few.verdicts
            ),
        )

    republish(folder, changed)


def change_image(folder, change):
    def changed(evidence):
        def moved(v):
            if v.x_adv is None:
                return v
            x = clean_image(evidence, v.example_id)
            image = np.frombuffer(v.x_adv, dtype="<f4").reshape(x.shape)
            return with_image(v, change(image, x), x)

        return replace(evidence, verdicts=tuple(map(moved, evidence.verdicts)))

    republish(folder, changed)


@forgery("replay", "flags", model=SOFT)
def flag_removed(folder):
    """A flag of the model that is gone from evidence and row."""
    republish(folder, lambda e: replace(e, flags=()), SOFT)


@forgery("recount", "data")
def data_hash_changed(folder):
    """The hash of other images."""
    change_spec(folder, data_sha256="b" * 64)


@forgery("replay", "replay")
def weights_hash_changed(folder):
    """The hash of other weights, in evidence and row."""
    change_spec(folder, weights_sha256="c" * 64)


@forgery("replay", "replay")
def code_hash_changed(folder):
    """The hash of other code of the plugin."""
    change_spec(folder, code_sha256="d" * 64)


@forgery("replay", "adversarial example", model=WEAK)
def evidence_of_another_model(folder):
    """The verdicts of a better model, with the name and the hashes of a worse one."""
    worse = entry_of(folder, WEAK).evidence.record

    def changed(_):
        better = entry_of(folder).evidence
        trail = survived(better, FARTHEST)

        def moved(v):
            if v.status in (Status.CERTIFIED, Status.UNDECIDED):
                v = as_undecided(v, trail)
            return replace(v, eps=FARTHEST)

        better = replace(better, eps=FARTHEST, verdicts=tuple(map(moved, better.verdicts)))
        names = (
            "model",
            "family",
            "plugin_version",
            "weights_sha256",
            "state_sha256",
            "code_sha256",
        )
        facts = {name: getattr(worse.spec, name) for name in names}
        record = replace(
            better.record,
            spec=replace(better.record.spec, **facts),
            parameters=worse.parameters,
            lipschitz_bound=worse.lipschitz_bound,
        )
        return replace(better, record=record).with_sample()

    republish(folder, changed, WEAK)


@forgery("recount", "attacks")
def evidence_of_another_eps(folder):
    """Verdicts of a smaller eps, at which attacks search in less."""
    near = entry_of(folder, eps=NEAR).evidence

    def moved(v):
        v = replace(v, eps=FAR) if v.status is not Status.CERTIFIED else v
        if v.status is Status.CERTIFIED and v.certified_radius >= FAR:
            return replace(v, eps=FAR)
        if v.status is Status.CERTIFIED:
            trail = survived(near, NEAR)
            return replace(as_undecided(v, trail), eps=FAR)
        return v

    republish(
        folder,
        lambda _: replace(near, eps=FAR, verdicts=tuple(map(moved, near.verdicts))).with_sample(),
    )


@forgery("recount", "costs")
def negative_costs(folder):
    """Seconds below 0 of an example, hidden in the sum."""

    def changed(evidence):
        first, second, *others = evidence.verdicts
        pair = (
            replace(first, seconds=first.seconds - 1),
            replace(second, seconds=second.seconds + 0.5),
        )
        most = replace(others[-1], seconds=others[-1].seconds + 1)
        return replace(evidence, verdicts=(*pair, *others[:-1], most))

    republish(folder, changed)


@forgery("replay", "facts")
def smaller_bound(folder):
    """A Lipschitz bound that is a hundredth of the model's."""
    republish(
        folder,
        lambda e: replace(
            e, record=replace(e.record, lipschitz_bound=e.record.lipschitz_bound / 100)
        ),
    )


@forgery("replay", "facts")
def recipe_invented(folder):
    """The hash of a recipe that the weights were not trained by."""
    republish(folder, lambda e: replace(e, record=replace(e.record, training_record="e" * 64)))


@forgery("recount", "corrections")
def correction_removed(folder):
    """A corrected row without its correction."""

    def changed(evidence):
        verdict = of_status(evidence, Status.UNDECIDED)[0]
        x = clean_image(evidence, verdict.example_id)
        hit = Hit("submitted", 0.0, x.astype("<f4").tobytes())
        assessed = [Assessment(verdict.example_id, "breaks", "", hit)]
        after = corrected(evidence, assessed, source="a reader")
        return replace(after, corrections=())

    republish(folder, changed)


@forgery("recount", "withdrawn", model=OTHER)
def withdrawn_row_put_back(folder):
    """A row that was withdrawn, in its table again."""
    entry = entry_of(folder, OTHER)
    withdraw(folder, OTHER, "a certificate was wrong")
    gone = {path: path.read_bytes() for path in folder.glob("withdrawn.*")}
    # By --replace the row comes back, and leaves the withdrawn ones; a forger leaves it in both.
    publish([entry], folder, add=True, replace=True)
    for path, content in gone.items():
        path.write_bytes(content)


@forgery("replay", "certificate", model=SMOOTHED)
def smoothed_radii_invented(folder):
    """All examples of a smoothed classifier certified, with a radius that all votes give."""
    label = entry_of(folder, SMOOTHED).evidence.record.spec.certifiers[0].label
    change_verdicts(
        folder,
        lambda v: as_certified(v, label, 0.18) if v.prediction == v.label else v,
        SMOOTHED,
    )


@forgery("recount", "evidence")
def record_of_wrong_types(folder):
    """A record whose settings are no mapping, in all rows of a table and their evidence."""
    spec = entry_of(folder).evidence.record.spec
    stages = tuple(replace(stage, settings=None) for stage in spec.attacks)
    path = folder / f"{DATASET}-L2-{FAR}.parquet"
    forged = []
    for entry in (e for e in read_folder(folder) if e.row["eps"] == FAR):
        one = entry.evidence
        if entry.row["model"] == MODEL:
            one = replace(one, record=replace(one.record, spec=replace(spec, attacks=stages)))
            change_cells(folder, cell("evidence_sha256", lambda _, one=one: one.sha256))
        forged.append(one)
    write_evidence(path, forged)


@forgery("recount", "columns")
def norm_that_there_is_not(folder):
    """A record of a norm that no threat model has."""
    path = folder / f"{DATASET}-L2-{FAR}.parquet"
    forged = []
    for entry in (e for e in read_folder(folder) if e.row["eps"] == FAR):
        one = entry.evidence
        if entry.row["model"] == MODEL:
            spec = replace(one.record.spec, norm="L7")
            one = replace(one, record=replace(one.record, spec=spec)).with_sample()
            change_cells(folder, cell("evidence_sha256", lambda _, one=one: one.sha256))
        forged.append(one)
    write_evidence(path, forged)
