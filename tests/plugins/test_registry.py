"""The registry behind every kind of name: lazy targets, plugins, unknown names, settings."""

import sys
from dataclasses import dataclass

import pytest

from robustbench_dyn.errors import InputError, RegistryError
from robustbench_dyn.plugins import Entry, Lazy, Registry, parse_names


@dataclass(frozen=True)
class Search:
    n_steps: int = 20

    def __post_init__(self):
        if self.n_steps < 1:
            raise ValueError(f"n_steps={self.n_steps} is below 1")


def registry(**options):
    return Registry("attack", [Entry("pgd", Search), Entry("square", Search)], **options)


def test_a_lazy_target_is_imported_at_first_use():
    sys.modules.pop("this", None)
    names = Registry("poem", [Entry("zen", "colorsys:rgb_to_hsv")])
    sys.modules.pop("colorsys", None)
    assert "zen" in names
    assert "colorsys" not in sys.modules
    assert names.get("zen")(0, 0, 0) == (0.0, 0.0, 0)
    assert "colorsys" in sys.modules


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(InputError, match=r"no attack is called 'pdg'; did you mean 'pgd'\?"):
        registry().get("pdg")
    with pytest.raises(InputError, match=r"choose a suite or pgd, square"):
        registry(hint="a suite or ").get("zzzzzz")


def test_plugins_cannot_take_the_names_of_built_ins():
    found = [Entry("mine", Search, origin="the folder x")]
    names = registry(from_plugins=lambda: found)
    assert list(names) == ["pgd", "square", "mine"]
    found.append(Entry("pgd", int, origin="the folder x"))
    assert names.get("pgd") is Search
    entry = names.entries()["pgd (the folder x)"]
    assert entry.problem.startswith("the name 'pgd' is taken, by the attack from built-in")
    with pytest.raises(InputError, match="built-in: the name 'pgd' is taken"):
        names.add(Entry("pgd", int))


def test_a_broken_entry_is_listed_and_refused_with_its_reason():
    names = Registry("attack", [Entry("mine", None, origin="the folder x", problem="no torch")])
    assert list(names) == ["mine"]
    with pytest.raises(InputError, match="'mine' from the folder x is broken: no torch"):
        names.get("mine")


def test_a_broken_entry_takes_no_name_from_one_that_works():
    found = [
        Entry("mine", None, origin="the folder x", problem="no torch"),
        Entry("mine", Search, origin="the folder y"),
        Entry("pgd", None, origin="the folder z", problem="no torch"),
    ]
    names = registry(from_plugins=lambda: found)
    assert names.get("mine") is names.get("pgd") is Search
    broken = [name for name, entry in names.entries().items() if entry.problem]
    assert broken == ["mine (the folder x)", "pgd (the folder z)"]


def test_a_broken_entry_is_no_suggestion():
    names = Registry("attack", [Entry("mine", None, problem="no torch"), Entry("minus", Search)])
    with pytest.raises(InputError, match=r"did you mean 'minus'\? choose minus$"):
        names.get("mina")


def test_a_lazy_target_may_fail_with_a_reason():
    def fail():
        raise RegistryError("it has no build function")

    made = []
    names = Registry("model", [Entry("a", Lazy(lambda: made.append(1))), Entry("b", Lazy(fail))])
    assert list(names) == ["a", "b"]
    assert made == []
    names.get("a")
    assert made == [1]
    with pytest.raises(InputError, match="model 'b' from built-in is broken: it has no build"):
        names.get("b")


def test_settings_are_checked_against_the_fields():
    assert registry().create("pgd", {"n_steps": 3}) == Search(3)
    with pytest.raises(InputError, match=r"no setting of attack 'pgd' is called 'steps'; did you"):
        registry().create("pgd", {"steps": 3})
    with pytest.raises(InputError, match="attack 'pgd': n_steps=0 is below 1"):
        registry().create("pgd", {"n_steps": 0})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("pgd", [("pgd", {})]),
        ("pgd, square", [("pgd", {}), ("square", {})]),
        ("pgd:n_steps=100,square", [("pgd", {"n_steps": 100}), ("square", {})]),
        (
            "square,pgd:n_steps=7,alpha=0.1,random=false",
            [("square", {}), ("pgd", {"n_steps": 7, "alpha": 0.1, "random": False})],
        ),
        ("pgd:alpha=1e-3,loss=e", [("pgd", {"alpha": 1e-3, "loss": "e"})]),
    ],
)
def test_names_with_settings_are_parsed(text, names):
    assert parse_names(text) == names


@pytest.mark.parametrize("text", ["n_steps=3", "pgd:n_steps", "pgd:3=4"])
def test_settings_without_a_name_or_a_value_are_refused(text):
    with pytest.raises(InputError, match="is not a name with settings"):
        parse_names(text)


def test_a_value_that_yaml_cannot_read_is_refused():
    with pytest.raises(InputError, match=r"'\[3' is no value of a setting"):
        parse_names("pgd:n_steps=[3")
