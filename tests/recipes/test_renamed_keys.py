import logging

import pytest

from srptq_plugin.errors import SrptqError
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.recipe_files import RecipeLayer
from srptq_plugin.recipes.renamed_keys import RENAMED

BASE = RecipeLayer("base.yaml", {"target": "openvino", "reconstruction": {"name": "pac"}})


def test_old_keys_are_read(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        recipe = Recipe.load("openvino-w8a8", ["equalise=false", "reconstruction.recolour=false"])
    assert recipe == Recipe.load("openvino-w8a8", ["equalize=false", "reconstruction.recolor=false"])
    assert [record.getMessage() for record in caplog.records] == [
        "--set: equalise is now equalize; rename it",
        "--set: reconstruction.recolour is now reconstruction.recolor; rename it",
    ]


@pytest.mark.parametrize(
    ("section", "old", "new"), [(s, old, new) for s, keys in RENAMED.items() for old, new in keys.items()]
)
def test_both_names_are_refused(section: str, old: str, new: str) -> None:
    both = {old: True, new: True}
    layer = RecipeLayer("my.yaml", {section: both} if section else both)
    with pytest.raises(SrptqError, match=f"{old}: unknown key"):
        BoundRecipe.of(Recipe.from_layers([BASE, layer]), Registry())


def test_an_old_key_overrides_a_base_recipe() -> None:
    base = RecipeLayer("base.yaml", {"target": "openvino", "equalize": True})
    assert not Recipe.from_layers([base, RecipeLayer("my.yaml", {"equalise": False})]).equalize
