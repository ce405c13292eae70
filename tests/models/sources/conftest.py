"""A machine without a network and with empty caches."""

import socket

import pytest
import torch

from robustbench_dyn import datasets


@pytest.fixture
def offline(monkeypatch):
    """No address can be found, whatever network the machine has."""

    def refuse(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def nowhere(offline, tmp_path, monkeypatch):
    """An empty folder to work in, with the caches of all libraries inside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture
def images():
    """Twelve images of two sizes of objects, (12, 3, 16, 16) in [0, 1], and labels."""
    x = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(12) % 3


@pytest.fixture
def of_three_classes(monkeypatch):
    """A registered data set `three`: inputs (3, 16, 16), three classes."""
    info = datasets.DatasetInfo(
        name="three",
        input_shape=(3, 16, 16),
        class_names=("a", "b", "c"),
        sizes={"test": 12},
        availability={"test": "generated"},
        source="made by a test",
        licence="MIT",
        load_raw=lambda *_: None,
    )
    built_in = {**datasets.DATASETS._built_in}
    monkeypatch.setattr(datasets.DATASETS, "_built_in", built_in)
    datasets.DATASETS.add(datasets.catalogue.Entry("three", info))
    return info.name
