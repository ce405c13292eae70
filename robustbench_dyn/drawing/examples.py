"""Examples beside their adversarial examples: many images, or one input of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import nn

from robustbench_dyn.drawing.arrays import Array, adversarial_array, on_device_of
from robustbench_dyn.drawing.classes import class_name
from robustbench_dyn.drawing.figures import about, new_figure
from robustbench_dyn.drawing.panels import (
    draw_features,
    draw_images,
    draw_original,
    draw_point,
    format_radius,
    is_image,
)
from robustbench_dyn.drawing.plane import SHAPE
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.precision import full_precision
from robustbench_dyn.results.cells import to_plot_text
from robustbench_dyn.results.headings import format_eps
from robustbench_dyn.results.verdicts import Status, Verdict
from robustbench_dyn.threat_models import Norm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from robustbench_dyn.datasets import Dataset
    from robustbench_dyn.drawing.evaluated import Evaluated

# Images in a row of a picture of many examples, and the width of one in inches.
_CELLS: Final = 6
_CELL: Final = 1.6


def plot_examples(
    evaluation: Evaluated,
    *,
    statuses: Sequence[Status] = (Status.BROKEN,),
    count: int = 8,
    title: str = "",
) -> Figure:
    """Draw the first `count` examples of some statuses: original, perturbation, adversarial.

    The order is that of statuses, then of the ids. evaluation: of images, with its data. Raises
    InputError for inputs that are no images, and where no example has one of the statuses.
    """
    data, chosen = _data(evaluation), list[Verdict]()
    check_images(data)
    for status in statuses:
        chosen += [verdict for verdict in evaluation.verdicts if verdict.status is status]
    if not chosen:
        raise InputError(
            f"none of the {len(evaluation.verdicts)} examples is {' or '.join(statuses)} at eps "
            f"{format_eps(evaluation.threat_model.eps)}; choose another status or eps"
        )
    chosen = chosen[:count]
    others = _adversarial_classes(evaluation, chosen)
    places, rows = _places(chosen)
    figure = new_figure(_CELL * _CELLS, 1.28 * _CELL * rows + 0.4)
    grid = figure.subplots(rows, _CELLS, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    inputs, norm = _inputs(data, chosen), evaluation.threat_model.norm
    for verdict, x, (row, column) in zip(chosen, inputs, places, strict=True):
        panels = grid[row, column : column + _width(verdict)].tolist()
        for axes in panels:
            axes.set_visible(True)
        _draw(panels, verdict, x, data, norm, others[verdict.example_id])
    figure.suptitle(to_plot_text(title or about(evaluation)), fontsize=10)
    return figure


def check_images(data: Dataset) -> None:
    """Raise InputError where plot_examples cannot draw the inputs, which are no images."""
    if not is_image(data.x.shape[1:]):
        raise InputError(
            f"{data.name} has inputs {tuple(data.x.shape[1:])}, which are no images; choose a data "
            "set of images, or draw one example by Evaluation.show(i)"
        )


def show_example(evaluation: Evaluated, example_id: int) -> Figure:
    """Draw one example, and the adversarial example that was found, with the predictions.

    Images: original, perturbation, adversarial. Points of the plane: the point in the decision
    regions, with the ball of eps and the certified ball. Other inputs: their values in order.
    Raises InputError where no such example was evaluated, or its data are not at hand.
    """
    verdict, data = _verdict(evaluation, example_id), _data(evaluation)
    (x,) = _inputs(data, [verdict])
    model, threat_model = evaluation.model, evaluation.threat_model
    other = _adversarial_classes(evaluation, [verdict])[verdict.example_id]
    if is_image(x.shape):
        width = _width(verdict)
        figure = new_figure(3.6 if width == 1 else 2.4 * width, 3.7)
        panels = figure.subplots(1, width, squeeze=False)[0].tolist()
        _draw(panels, verdict, x, data, threat_model.norm, other)
    elif x.shape == SHAPE:
        figure = new_figure(5.6, 7.4)
        row = data.ids.tolist().index(verdict.example_id)
        with full_precision(), frozen_eval(model or nn.Identity()):
            draw_point(figure.subplots(), verdict, data.rows(row, row + 1), threat_model, model)
    else:
        figure = new_figure(7.2, 3.8)
        draw_features(figure.subplots(), x, adversarial_array(verdict, data))
    told = "\n".join(map(to_plot_text, (about(evaluation), *_facts(verdict, evaluation, other))))
    figure.suptitle(told, fontsize=9)
    return figure


def _width(verdict: Verdict) -> int:
    """Return the number of images of an example: original, change, adversarial example."""
    return 1 if verdict.x_adv is None else 3


def _places(verdicts: Sequence[Verdict]) -> tuple[list[tuple[int, int]], int]:
    """Return the row and the column of each example, and the number of rows.

    Examples of one image and of three do not share a row.
    """
    places, row, column, before = list[tuple[int, int]](), 0, 0, _width(verdicts[0])
    for verdict in verdicts:
        width = _width(verdict)
        if column + width > _CELLS or width != before:
            row, column = row + 1, 0
        places.append((row, column))
        column, before = column + width, width
    return places, row + 1


def _draw(
    panels: Sequence[Axes], verdict: Verdict, x: Array, data: Dataset, norm: Norm, other: str
) -> None:
    if verdict.x_adv is None:
        draw_original(panels[0], verdict, x, data, norm)
    else:
        draw_images(panels, verdict, x, data, norm, other=other)


def _facts(verdict: Verdict, evaluation: Evaluated, other: str) -> list[str]:
    """Say what is known of an example; other: the class of its adversarial example."""
    data, norm = evaluation.data, evaluation.threat_model.norm
    label, prediction = class_name(data, verdict.label), class_name(data, verdict.prediction)
    facts = [f"example {verdict.example_id}: {label}, predicted {prediction}; {verdict.status}"]
    if verdict.x_adv is not None:
        distance = f"{norm} {format_radius(verdict.adversarial_distance)}"
        facts.append(f"{verdict.attack} makes it {other} at {distance}")
    if verdict.certified_radius > 0:
        radius = f"{norm} {format_radius(verdict.certified_radius)}"
        facts.append(f"{verdict.certifier} certifies it within {radius}")
    return facts


def _verdict(evaluation: Evaluated, example_id: int) -> Verdict:
    for verdict in evaluation.verdicts:
        if verdict.example_id == example_id:
            return verdict
    ids = [verdict.example_id for verdict in evaluation.verdicts]
    raise InputError(
        f"example {example_id!r} was not evaluated; there are {len(ids)}, with ids from "
        f"{min(ids)} to {max(ids)}"
    )


def _data(evaluation: Evaluated) -> Dataset:
    if evaluation.data is None:
        raise InputError(
            "the inputs of this evaluation are not at hand; evaluate again, which computes nothing "
            "anew with the same store"
        )
    return evaluation.data


def _inputs(data: Dataset, verdicts: Sequence[Verdict]) -> list[Array]:
    rows = {example_id: row for row, example_id in enumerate(data.ids.tolist())}
    return [data.x[rows[verdict.example_id]].cpu().numpy() for verdict in verdicts]


def _adversarial_classes(evaluation: Evaluated, verdicts: Sequence[Verdict]) -> dict[int, str]:
    """Return the classes that the model predicts at the adversarial examples, by example_id.

    "another class" where the model is not at hand, as with a smoothed classifier, whose votes take
    long; empty where no adversarial example was found.
    """
    model, data = evaluation.model, _data(evaluation)
    classes = {v.example_id: "another class" if v.x_adv is not None else "" for v in verdicts}
    found = {v.example_id: x for v in verdicts if (x := adversarial_array(v, data)) is not None}
    if model is None or not found:
        return classes
    x_adv = on_device_of(model, torch.from_numpy(np.stack([*found.values()])))
    with full_precision(), frozen_eval(model), torch.no_grad():
        predicted = model(x_adv).argmax(dim=1).tolist()
    names = {i: class_name(data, k) for i, k in zip(found, predicted, strict=True)}
    return classes | names
