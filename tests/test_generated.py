"""The generated parts of documents, and the keys of recipes in them."""

from dataclasses import fields
from pathlib import Path

import badges
import generate
import plugin_parts
import pytest

from srptq_plugin.cli import catalog
from srptq_plugin.graph.rules import Rules
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.entries import Entry, ToolkitEntry
from srptq_plugin.plugins.recipe_keys import NEEDED, Key, sections
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import MODELS, Recipe
from srptq_plugin.recipes.recipe_files import RecipeLayer, parse_set

PAGES = sorted(generate.FOLDER.rglob("*.md"))
SECTIONS = sections(Registry())
KEYS = [key for section in SECTIONS if section.name in ("", *MODELS, "reconstruction (pac)") for key in section.keys]
"""The keys of recipes with PaC."""
BASE = RecipeLayer("base", {"target": "paper", "reconstruction": {"name": "pac"}})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(generate.FOLDER).as_posix())
def test_a_document_is_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generate.filled(text) == text, "run make docs"


def test_badges_are_up_to_date() -> None:
    drawn = {path.name: path.read_text(encoding="utf-8") for path in badges.FOLDER.iterdir()}
    assert drawn == badges.badges(), "run make docs"


def test_every_generated_part_is_in_a_document() -> None:
    parts = [name for page in PAGES for _, name, _ in generate.MARKED.findall(page.read_text(encoding="utf-8"))]
    assert sorted(parts) == sorted(generate.BLOCKS)


def test_every_rule_of_a_target_has_words() -> None:
    assert set(generate.WISHES) == set(catalog.WISHES)


@pytest.mark.parametrize("kind", [Rules, Entry, ToolkitEntry])
def test_every_field_of_a_record_has_a_sentence(kind: type) -> None:
    bases = [base for base in kind.__mro__ if base is not object]
    documented = {name for base in bases for name in plugin_parts.described_fields(base)}
    assert {field.name for field in fields(kind)} <= documented


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_every_key_has_a_sentence_and_its_default(key: Key) -> None:
    assert key.about.endswith(".")
    assert key.values
    if key.default != NEEDED and "[]" not in key.name:
        override = f"{key.name.replace('STAGE', 'body')}={key.default.strip('`')}"
        recipe, base = (Recipe.from_layers(layers) for layers in ([BASE, parse_set(override)], [BASE]))
        assert BoundRecipe.of(recipe, Registry()).recipe == BoundRecipe.of(base, Registry()).recipe


@pytest.mark.parametrize("key", [key for section in SECTIONS for key in section.keys], ids=lambda key: key.name)
def test_every_option_of_a_plugin_has_a_sentence(key: Key) -> None:
    assert key.about.endswith(".")
    assert key.values


def test_all_keys_of_a_recipe_are_listed() -> None:
    override = {"sites": "*"}
    recipe = Recipe.from_layers([BASE, RecipeLayer("more", {"overrides": [override]})])
    recipe = BoundRecipe.of(recipe, Registry()).recipe.model_dump()
    recipe["stages"] = {"STAGE": recipe["stages"]["body"]}
    recipe["overrides[]"] = recipe.pop("overrides")[0]
    nested = {name: value for name, value in recipe.items() if isinstance(value, dict) and name != "export"}
    flat = [name for name in recipe if name not in nested]
    expected = {*flat, *(f"{name}.{key}" for name in nested for key in nested[name] if name != "stages")}
    expected |= {f"stages.STAGE.{key}" for key in nested["stages"]["STAGE"]}
    assert {key.name for key in KEYS} == expected
