"""Tries of recipes: the settings that are changed, and the images that judge them."""

import pytest
import recipe_tries


def test_changes_reach_keys_within_keys_and_leave_the_rest():
    published = recipe_tries.changed_recipe("prototype_flow", [])
    changes = ["epochs=3", "loss.radius=1.4", "augmentation.affine.rotation=5"]
    tried = recipe_tries.changed_recipe("prototype_flow", changes)
    assert (tried.epochs, tried.loss.radius) == (3, 1.4)
    assert tried.augmentation.affine.rotation == 5
    assert tried.loss.temperature == published.loss.temperature
    assert tried.augmentation.crop == published.augmentation.crop == 1


def test_images_are_held_out_whatever_the_recipe_says():
    assert recipe_tries.changed_recipe("prototype_flow", ["held_out=0"]).held_out == 5000
    # The published recipe itself holds none out.
    assert recipe_tries.changed_recipe("lipflow", []).held_out == 5000


@pytest.mark.parametrize("change", ["loss.radios=1", "epoch=3", "epochs=many"])
def test_a_change_of_no_setting_is_refused(change):
    with pytest.raises(ValueError, match="1 validation error"):
        recipe_tries.changed_recipe("prototype_flow", [change])


def test_a_row_without_changes_replaces_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setitem(recipe_tries.PATHS, "L2", tmp_path / "tries.csv")
    for clean in (0.5, 0.6):
        recipe_tries.add({"model": "prototype_flow", "changes": "", "clean_accuracy": clean})
    recipe_tries.add({"model": "prototype_flow", "changes": "epochs=3", "clean_accuracy": 0.7})
    found = recipe_tries.pd.read_csv(tmp_path / "tries.csv")
    assert found["clean_accuracy"].tolist() == [0.6, 0.7]
