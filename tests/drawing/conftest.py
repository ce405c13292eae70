"""A flow on points of the plane, with its distances and radii."""

import pytest

from robustbench_dyn import evaluate_distances, load_dataset, load_model


@pytest.fixture(scope="package")
def moons():
    return load_dataset("moons", n_examples=12)


@pytest.fixture(scope="package")
def flow():
    return load_model("lipflow", dataset="moons", norm="L2")


@pytest.fixture(scope="package")
def evaluation(flow, moons):
    return evaluate_distances(flow, moons, "L2", certifiers="lipschitz,interval")
