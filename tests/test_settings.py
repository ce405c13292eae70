"""Settings of the user: environment before file before default, and clear errors."""

from pathlib import Path

import pytest

from robustbench_dyn.errors import InputError
from robustbench_dyn.settings import DEFAULT, read_settings, settings_file, usual_file


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes the file of the settings, and returns it."""

    def write(text):
        path = tmp_path / "config.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        monkeypatch.setenv("DYNBENCH_CONFIG", str(path))
        return path

    return write


def test_without_a_file_all_are_defaults():
    found = read_settings()
    assert {value.origin for value in found.values()} == {DEFAULT}
    assert found["store"].value == Path("dynbench.sqlite")
    assert found["device"].value == "cpu"


def test_the_environment_goes_before_the_file(write, monkeypatch):
    path = write('store = "~/a.sqlite"\nplugins = ["one", "two"]\nstrict = true\ndevice = "cuda"')
    monkeypatch.setenv("DYNBENCH_DEVICE", "mps")
    monkeypatch.setenv("DYNBENCH_DATA", "")
    found = read_settings()
    assert found["device"] == ("mps", "DYNBENCH_DEVICE")
    assert found["store"] == (Path("~/a.sqlite").expanduser(), str(path))
    assert found["plugins"] == ([Path("one"), Path("two")], str(path))
    assert found["strict"] == (True, str(path))
    assert found["data_dir"] == (None, DEFAULT)


def test_a_variable_holds_several_folders(monkeypatch):
    monkeypatch.setenv("DYNBENCH_PLUGINS", "one:two:")
    monkeypatch.setattr("os.pathsep", ":")
    assert read_settings()["plugins"].value == [Path("one"), Path("two")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stroe = 'a'", "unknown key 'stroe'; the keys are store, plugins"),
        ("store = a", "are no TOML"),
        ("store = 1", "store=1 of"),
        ("store = ''", "give a text"),
        ("plugins = [1]", "give a text"),
        ("plugins = 3", "a list of folders"),
        ("strict = 'yes'", "give true or false"),
        ("[store]\na = 1", "give a text"),
        (b"\xff\xfe", "is not text in UTF-8"),
        ("store = 'a'\nstore = 'b'", "are no TOML"),
        ("# " + "x" * 300_000, "is larger than"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_wrong_file_is_named_with_the_rule(text, words, write):
    path = write(text)
    with pytest.raises(InputError) as caught:
        read_settings()
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_named_must_exist(monkeypatch):
    monkeypatch.setenv("DYNBENCH_CONFIG", "/no/such/file")
    with pytest.raises(InputError, match="names no file"):
        settings_file()


def test_the_usual_file_lies_in_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("DYNBENCH_CONFIG")
    monkeypatch.setattr("robustbench_dyn.settings.user_config_dir", lambda *_, **__: tmp_path)
    assert settings_file() is None
    usual_file().write_text("device = 'mps'")
    assert settings_file() == tmp_path / "config.toml"
    assert read_settings()["device"].value == "mps"
