"""Recipes: the shipped ones load, extended ones merge, and unknown names are refused."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.documents import PAGES
from pydantic import ValidationError

import srptq_adapters.plugin
from srptq_plugin.errors import SrptqError, UnknownNameError
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.entries import ReconstructionEntry
from srptq_plugin.plugins.hookspecs import hookimpl
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.recipe_files import parse, shipped
from srptq_plugin.recipes.schema import ReconstructionSettings
from srptq_plugin.reconstruction.pac_options import PacOptions


@pytest.fixture
def registry() -> Registry:
    return Registry([srptq_adapters.plugin], entry_points=False)


def write(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", Recipe.names())
def test_every_shipped_recipe_loads_and_its_names_exist(name: str, registry: Registry, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    BoundRecipe.of(recipe, registry)
    assert recipe.name == name
    assert name.startswith(f"{recipe.target}-w{recipe.weights.bits}a{recipe.activations.bits}")
    assert Recipe.load(write(tmp_path, recipe.to_yaml(), "recipe")) == recipe
    assert shipped()[name].read_text(encoding="utf-8").startswith("# For ")


DOCUMENTS = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


@pytest.mark.parametrize("name", Recipe.names())
def test_every_shipped_recipe_is_documented(name: str) -> None:
    assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", DOCUMENTS)


@pytest.mark.parametrize("name", Recipe.names())
def test_names_of_recipes_tell_their_kind(name: str, registry: Registry) -> None:
    recipe, kind = Recipe.load(name), name.rsplit("-", 1)[1]
    observers = {entry.name for entry in registry.entries("observer")}
    assert kind not in {"fast", "stock", *observers} or recipe.reconstruction is None
    assert kind not in observers or recipe.activations.observer == kind
    assert ("-fqsr-" in name) == (recipe.preset == "fqsr")
    assert recipe.target != "paper" or recipe.placement == ("full" if recipe.preset == "fqsr" else "convs")


def test_head_and_tail_have_8_bits_by_default() -> None:
    recipe = Recipe.load("paper-w4a4", ["stages.tail.weights=null", "stages.body.quantize=false"])
    bits = {name: (stage.weights, stage.activations) for name, stage in recipe.stages.items()}
    assert bits == {"head": (8, 8), "body": (None, None), "upsample": (None, None), "tail": (None, 8)}
    assert not recipe.stages["body"].quantize
    assert Recipe(target="paper").stages["head"].weights == 8


def test_a_recipe_extends_another_deeply(tmp_path: Path) -> None:
    write(tmp_path, "extends: openvino-w8a8\nname: never-inherited\ncalibration: {size: 32}\n", "base")
    (tmp_path / "deep").mkdir()
    path = write(tmp_path / "deep", "extends: ../base.yaml\nactivations: {bits: 4}\n")
    recipe = Recipe.load(path, ["calibration.patches=7"])
    assert (recipe.name, recipe.target, recipe.preset) == ("mine", "openvino", "mixed")
    assert (recipe.activations.bits, recipe.activations.options) == (4, {"ratio": "auto"})
    assert (recipe.calibration.size, recipe.calibration.patches) == (32, 7)


def test_a_file_may_extend_its_shipped_namesake(tmp_path: Path) -> None:
    assert Recipe.load(write(tmp_path, "extends: openvino-w8a8", "openvino-w8a8")).target == "openvino"


def test_a_circle_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml", "a")
    path = write(tmp_path, f"extends: ../{tmp_path.name}/a.yaml", "b")
    with pytest.raises(SrptqError, match=r"extends: a circle, b.yaml -> a.yaml -> b.yaml"):
        Recipe.load(path)


def test_another_observer_or_reconstruction_does_not_inherit_options() -> None:
    recipe = Recipe.load("openvino-w8a8", ["activations.observer=mse", "reconstruction.name=mine"])
    assert recipe.activations.options == {}
    assert recipe.reconstruction == ReconstructionSettings.model_validate({"name": "mine"})
    same = Recipe.load("openvino-w8a8", ["activations.observer=dbdc", "reconstruction.name=pac"])
    assert same == Recipe.load("openvino-w8a8")


def test_another_quantizer_does_not_inherit_options_either() -> None:
    own = "activations.quantizer_options.gated=0.1"
    recipe = Recipe.load("paper-w2a2-ddtb", [own, "activations.observer=mse"])
    assert (recipe.activations.quantizer_options, recipe.activations.options) == ({"gated": 0.1}, {})
    other = Recipe.load("paper-w2a2-ddtb", [own, "activations.quantizer=bounded"])
    assert (other.activations.quantizer_options, other.activations.options) == ({}, {"percentile": 1})


def test_overrides_are_yaml_and_the_last_one_wins() -> None:
    texts = ["activations.bits=4", "activations.bits=6", "overrides=[{sites: 'body.*', bits: 8}]"]
    recipe = Recipe.load("openvino-w8a8-fast", [*texts, "reconstruction.weight_rate=1e-3"])
    assert (recipe.activations.bits, recipe.overrides[0].sites, recipe.overrides[0].bits) == (6, "body.*", 8)
    assert recipe.reconstruction
    assert recipe.reconstruction.options["weight_rate"] == 1e-3


def test_another_reconstruction_keeps_its_own_options(tmp_path: Path) -> None:
    path = write(tmp_path, "target: paper\nreconstruction: {name: widen, factor: 1.2, deep: {a: [1, x]}}\n")
    recipe = Recipe.load(path)
    assert recipe.reconstruction
    assert recipe.reconstruction.options == {"factor": 1.2, "deep": {"a": [1, "x"]}}
    assert Recipe.load(write(tmp_path, recipe.to_yaml())) == recipe


def test_an_unknown_recipe_lists_the_choices() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown recipe 'openvino-w8a'; did you mean 'openvino-w8a8'\?"):
        Recipe.load("openvino-w8a")


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", "1.0e-3", "+1e-3"])
def test_plain_exponents_are_numbers(text: str) -> None:
    assert parse(text, "") == 1e-3


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Recipe.load("paper-w4a4").target = "openvino"  # pyright: ignore[reportAttributeAccessIssue]


def test_every_unknown_name_is_listed_with_its_key(registry: Registry) -> None:
    recipe = Recipe.load(
        "paper-w4a4", ["target=papr", "weights.observer=min", "toolkit=torch", "reconstruction.name=pack"]
    )
    with pytest.raises(SrptqError) as raised:
        BoundRecipe.of(recipe, registry)
    keys = [line.split(": ")[1] for line in str(raised.value).splitlines()]
    assert keys == ["target", "toolkit", "weights.observer", "reconstruction.name"]
    assert "did you mean 'paper'?" in str(raised.value)


def test_a_plugins_reconstruction_is_accepted(registry: Registry) -> None:
    def hook() -> list[ReconstructionEntry]:
        return [ReconstructionEntry("widen", "", load=registry.reconstruction("pac").load)]

    registry.register(SimpleNamespace(srptq_reconstructions=hookimpl(hook)), "mine")
    BoundRecipe.of(Recipe.load("paper-w4a4", ["reconstruction={name: widen}"]), registry)


def test_pacs_documented_paper_settings_are_complete() -> None:
    """Load the settings that documents list, over a recipe with other settings."""
    assert PacOptions.__doc__
    (listed,) = re.findall(r"paper's own are (.*?): the recipes", PacOptions.__doc__, re.DOTALL)
    overrides = [f"reconstruction.{key}={value}" for key, value in re.findall(r"`(\w+):\s+(\S+)`", listed)]
    settings = Recipe.load("paper-w4a4", overrides).reconstruction
    assert settings
    assert PacOptions(**settings.options) == PacOptions(
        epochs=10,
        batch=2,
        schedule="alternating",
        rates="absolute",
        weight_rate=0.001,
        activation_rate=0.05,
        start="observed",
        bias_correction=False,
        weights="fixed",
        blocks="equal",
        feature_weight=5,
        output_weight=1,
        output_loss="l1",
        region_weight=0,
        recolor=False,
        gradient="pact",
        keep="last",
    )
