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
