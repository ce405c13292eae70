"""What a step of training costs: the certified architectures in turn, each as its recipe says.

    python benchmarks/training_cost.py [--rounds 5] [--steps 10]

One thread, since that is what their recorded training times were measured with. In each round every
architecture takes its steps once, so that whatever else the machine does falls on all alike; the
ratio to lipflow is the median over rounds. Random images of Fashion-MNIST's shape: a step's cost
does not depend on what it sees. Results: benchmarks/results/training_cost.csv.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import measuring
import torch

from robustbench_dyn.losses import margin_loss
from robustbench_dyn.optimizers import make_optimizer
from robustbench_dyn.recipes import find_recipe, read_recipe
from robustbench_dyn.registry import build_model, discover
from robustbench_dyn.training import retract

MODELS = ("lipflow", "expansive_contractive", "naive_lipschitz", "orthogonal_cnn", "sll")
DATASET, TRAINING_EXAMPLES, SHAPE, CLASSES = "fashion_mnist", 60_000, (1, 28, 28), 10


def step_of(name: str) -> tuple[Callable[[], None], dict[str, Any]]:
    """Return one step of a recipe's training, and what the table says of it."""
    architecture = discover().load(name)
    recipe = read_recipe(find_recipe(architecture, DATASET))
    model = build_model(
        architecture, input_shape=SHAPE, n_classes=CLASSES, options=recipe.options
    ).train()
    optimizer = make_optimizer(
        recipe.optimizer, model.parameters(), learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay, momentum=recipe.momentum,
    )  # fmt: skip
    x = torch.rand(recipe.batch_size, *SHAPE).contiguous(memory_format=torch.channels_last)
    y = torch.randint(CLASSES, (recipe.batch_size,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            logits = model(x)
        loss = margin_loss(logits.float(), y, recipe.loss)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        retract(model)

    steps = recipe.epochs * (TRAINING_EXAMPLES // recipe.batch_size)
    return step, {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": recipe.epochs,
        "steps": steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    takers = [step_of(name) for name in MODELS]
    seconds = dict[str, list[float]]()
    for number in range(options.rounds + 1):
        for step, row in takers:
            started = time.process_time()
            for _ in range(options.steps):
                step()
            # The first round warms up.
            if number:
                taken = (time.process_time() - started) / options.steps
                seconds.setdefault(row["model"], []).append(taken)
    rows = []
    for _, row in takers:
        own, base = seconds[row["model"]], seconds[MODELS[0]]
        ratio = statistics.median(a / b for a, b in zip(own, base, strict=True))
        step_seconds = statistics.median(own)
        rows.append(
            {**row, "seconds_a_step": step_seconds, "times_lipflow": ratio,
             "training_seconds": step_seconds * row["steps"]}
        )  # fmt: skip
    measuring.write("training_cost", rows)


if __name__ == "__main__":
    main()
