"""The default eps of a data set: allowed in every norm, its own where it has one."""

from dataclasses import replace

import pytest

from robustbench_dyn.cli.arguments import resolve_defaults
from robustbench_dyn.datasets import DATASETS
from robustbench_dyn.datasets.toys import MOONS
from robustbench_dyn.errors import InputError
from robustbench_dyn.threat_models import DEFAULT_EPS, NORMS, ThreatModel, parse_eps, parse_norm


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [*DATASETS])
def test_every_data_set_has_a_default_eps_it_allows(name, norm):
    info = DATASETS.get(name)
    chosen = resolve_defaults("any", name, norm.lower(), [])
    assert chosen == (name, norm, [info.eps_for(norm)])
    ThreatModel(norm, info.eps_for(norm)).check_input_shape(info.input_shape)


@pytest.mark.parametrize(("norm", "eps"), [("L2", "0.5"), ("Linf", "8/255"), ("L1", "2")])
def test_small_images_keep_their_eps(norm, eps):
    assert DEFAULT_EPS[norm] == parse_eps(eps)
    assert resolve_defaults("any", None, norm, []).eps == [parse_eps(eps)]
    assert resolve_defaults("any", "cifar10", norm, []).eps == [parse_eps(eps)]


def test_a_data_set_may_have_its_own_eps():
    large = replace(MOONS, input_shape=(3, 224, 224), default_eps={"Linf": 4 / 255})
    assert large.eps_for("Linf") == 4 / 255
    assert large.eps_for("L2") == 0.5


def test_what_is_given_goes_before_every_default():
    chosen = resolve_defaults("any", "moons", "LINF", ["1/255", "0.5", "1/255"])
    assert chosen == ("moons", "Linf", [1 / 255, 0.5])
    assert resolve_defaults("any", None, None, []) == ("fashion_mnist", "L2", [0.5])


@pytest.mark.parametrize(
    ("default_eps", "words"),
    [
        ({"L3": 0.5}, "norm='L3'"),
        ({"L2": 0.5}, "a quarter"),
        ({"Linf": 8}, "8/255"),
        ({"Linf": float("nan")}, "not a positive number"),
    ],
)
def test_an_impossible_default_is_refused(default_eps, words):
    with pytest.raises(InputError, match=words):
        replace(MOONS, default_eps=default_eps)


@pytest.mark.parametrize("text", ["L3", "", "l", "linf ", "inf"])
def test_other_norms_are_refused(text):
    with pytest.raises(InputError, match="Linf, L2, L1"):
        parse_norm(text)
