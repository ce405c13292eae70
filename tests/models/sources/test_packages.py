"""Libraries as they are found: with parts that are missing, and without a network."""

import os
import sys
import warnings
from importlib import import_module
from urllib.error import URLError

import pytest
from oracles.checkpoints import library, needs

from robustbench_dyn.errors import DataUnavailableError, InputError, RegistryError
from robustbench_dyn.models.sources import hub as hub_module
from robustbench_dyn.models.sources.hub import hub
from robustbench_dyn.models.sources.packages import loading
from robustbench_dyn.models.sources.unused_parts import standing_in

ABSENT = ("nothing_there", "nothing_there.inside")


def test_what_is_missing_can_be_imported_meanwhile():
    with standing_in(*ABSENT, "json"):
        thing = import_module("nothing_there.inside").Thing
        assert import_module("json").loads("1") == 1
        with pytest.raises(RuntimeError, match="Thing is of a package that is not installed"):
            thing(1)
    assert not {*ABSENT} & {*sys.modules}
    assert "json" in sys.modules
    with pytest.raises(ModuleNotFoundError):
        import_module("nothing_there")


def wrapped(cause):
    try:
        raise cause
    except Exception as error:
        raise OSError("we could not connect") from error


FAILURES = {
    "of the network": (
        lambda: wrapped(URLError("unreachable")),
        DataUnavailableError,
        "unreachable",
    ),
    "of the library": (lambda: {}["key"], RegistryError, "KeyError: 'key'"),
    "the end of the program": (lambda: sys.exit(3), RegistryError, "SystemExit: 3"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_told_in_one_line(failure):
    fail, error, message = FAILURES[failure]
    with pytest.raises(error, match=message) as told, loading("timm:x"):
        fail()
    assert str(told.value).startswith("timm:x ")
    assert "\n" not in str(told.value)


def test_an_error_of_ours_stays_what_it_is():
    with pytest.raises(InputError, match=r"^as it was$"), loading("timm:x"):
        raise InputError("as it was")


@pytest.mark.parametrize("before", [None, "0"])
def test_the_environment_is_put_back(before, monkeypatch):
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with loading("timm:x"):
        assert os.environ[name] == "1"
        warnings.warn("of a library", FutureWarning, stacklevel=1)
    assert os.environ.get(name) == before


@needs("huggingface_hub")
@pytest.mark.parametrize("found", [True, False])
def test_only_a_hub_that_cannot_be_found_is_not_asked(found, monkeypatch):
    monkeypatch.setattr(hub_module, "_can_be_found", lambda _: found)
    constants = library("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub("timm:x"):
        assert constants.HF_HUB_OFFLINE is not found
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("proxy", [True, False])
def test_behind_a_proxy_addresses_are_the_proxys_work(proxy, offline, monkeypatch):
    if proxy:
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert hub_module._can_be_found("https://huggingface.co") == proxy
