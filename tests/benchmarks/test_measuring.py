"""CSV files of results: a row takes the place of the one with the same keys."""

import measuring
import pandas as pd

KEY = ("model", "changes")


def row(model, changes, clean):
    return pd.DataFrame([{"model": model, "changes": changes, "clean": clean}])


def test_rows_take_the_place_of_those_with_the_same_keys(tmp_path):
    path = tmp_path / "rows.csv"
    for model, changes, clean in [("b", "", 0.1), ("a", "None", 0.2), ("b", "", 0.3)]:
        table = measuring.add(path, row(model, changes, clean), KEY)
    assert path.read_text() == "model,changes,clean\na,None,0.2\nb,,0.3\n"
    assert table.to_numpy().tolist() == [["a", "None", 0.2], ["b", "", 0.3]]


def test_rows_are_sorted_where_an_order_is_given(tmp_path):
    path = tmp_path / "rows.csv"
    for model in "cab":
        measuring.add(path, row(model, "", 0.5), KEY, order=("model",))
    assert list(pd.read_csv(path)["model"]) == ["a", "b", "c"]


def test_rows_that_were_kept_name_the_machine_that_measured_them(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "RESULTS", tmp_path / "results")
    for name, model in [("an older one", "a"), ("an older one", "b"), ("this one", "b")]:
        monkeypatch.setattr(measuring, "machine", lambda name=name: name)
        measuring.write("speed", [{"model": model, "seconds": 1.5}], key=("model",))
    table = pd.read_csv(tmp_path / "results/speed.csv")
    assert dict(zip(table["model"], table["machine"], strict=True)) == {
        "a": "an older one",
        "b": "this one",
    }
    measuring.write("speed", [{"model": "c", "seconds": 2.5}])
    assert list(pd.read_csv(tmp_path / "results/speed.csv")["model"]) == ["c"]
