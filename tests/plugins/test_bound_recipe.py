"""A recipe checked against its target and plugins, before anything is read or run."""

from pathlib import Path
from typing import Any, cast

import pytest
from helpers import networks

from srptq_plugin import hookimpl
from srptq_plugin.errors import SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.plugins.bound_recipe import BoundRecipe, bind_target
from srptq_plugin.plugins.entries import ReconstructionEntry
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.utils.options import Options

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"weights": {"bits": 16}}, r"weights\.bits: openvino has no 16 bits here; choices: 2, .*, 8; the nearest is 8"),
    ({"activations": {"bits": 9}}, r"activations\.bits: openvino has no 9 bits here; .*; the nearest is 8"),
    ({"stages": {"body": {"weights": 12}}}, r"stages\.body\.weights: openvino has no 12 bits here; .*nearest is 8"),
    ({"stages": {"tail": {"activations": 10}}}, r"stages\.tail\.activations: openvino has no 10 bits here"),
    (
        {"overrides": [{"sites": "a", "bits": 4}, {"sites": "b", "bits": 16}]},
        r"overrides\.1\.bits: openvino has no 16 bits here; .*the nearest is 8",
    ),
    ({"preset": "performence"}, r"preset: unknown preset of openvino 'performence'; did you mean 'performance'\?"),
    ({"target": "onnxruntime", "placement": "convs"}, "placement: onnxruntime does not run 'convs'; choices: full"),
    ({"weights": {"quantize": False}}, r"weights\.quantize: false, but openvino needs integers; a paper-\.\.\. recipe"),
    ({"activations": {"quantize": False}}, r"activations\.quantize: false, but openvino needs integers"),
    ({"target": "paper", "preset": "mixed"}, "preset: unknown preset of paper 'mixed'; choices: fqsr, paper"),
    ({"skips": {"bits": 16}}, r"skips\.bits: openvino has no 16 bits here; choices: 2, .*, 8; the nearest is 8"),
    ({"skips": {"quantize": False}}, r"skips\.quantize: false, but openvino needs integers; a paper-\.\.\. recipe"),
    ({"placement": "convs", "skips": {"bits": 8}}, r"skips\.bits: placement convs leaves skips float; set placement"),
]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"observer": "dbdc", "options": {"ratoi": 0.1}}, r"ratoi: unknown key; did you mean 'ratio'"),
    (
        {"observer": "dbdc", "options": {"ratio": "atuo"}},
        r"ratio: 'atuo' is not allowed; give a number of 0 or more and less than 1, 'paper' or 'auto'",
    ),
    (
        {"observer": "dbdc", "options": {"ratio": 1.5}},
        r"ratio: 1\.5 is not allowed; give a number of 0 or more and less than 1",
    ),
    (
        {"observer": "percentile", "options": {"percentile": 99.9}},
        r"percentile: 99\.9 is not allowed; give a percentage from 0 to less than 50",
    ),
    ({"observer": "mse", "options": {"steps": 0}}, "steps: 0 is not allowed; give a whole number from 1"),
    ({"observer": "minmax", "options": {"grid": 4}}, "grid: unknown key; there are none here"),
]


def with_keys(keys: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"name": "mine", "target": "openvino", **keys})


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_impossible_keys_are_refused_with_the_nearest(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SrptqError, match=f"^recipe mine: {message}"):
        BoundRecipe.of(with_keys(keys), Registry())


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_impossible_keys_are_refused_first(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match=message):
        quantize(with_keys(keys), images=tmp_path / "nowhere", weights=tmp_path / "none.pt", out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_all_problems_are_listed() -> None:
    keys = {"target": "onnxruntime", "placement": "convs", "weights": {"bits": 9}, "activations": {"bits": 16}}
    with pytest.raises(SrptqError) as caught:
        BoundRecipe.of(with_keys(keys), Registry())
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["placement", "weights.bits", "activations.bits"]


@pytest.mark.parametrize("target", ["openvino", "onnxruntime", "tensorrt"])
@pytest.mark.parametrize("kind", ["weights", "activations"])
def test_both_cures_of_sixteen_bits_work(target: str, kind: str) -> None:
    """Check that a recipe with either change that the error names is accepted."""
    keys: dict[str, Any] = {"target": target, "stages": {"head": {kind: 16}}, "overrides": [{"sites": "x", "bits": 16}]}
    with pytest.raises(SrptqError) as caught:
        BoundRecipe.of(with_keys(keys), Registry())
    stage, override = str(caught.value).splitlines()
    assert stage.startswith(f"recipe mine: stages.head.{kind}: {target} has no 16 bits here; ")
    assert stage.endswith("; the nearest is 8, or stages.head.quantize: false leaves it float")
    assert override.endswith("; the nearest is 8, or overrides.0.quantize: false leaves it float")
    for head, other in (({kind: 8}, {"bits": 8}), ({"quantize": False}, {"quantize": False})):
        cured = {"stages": {"head": head}, "overrides": [{"sites": "x", **other}]}
        assert BoundRecipe.of(with_keys(keys | cured), Registry()).rules.weight_bits


@pytest.mark.parametrize(
    "keys", [{"weights": {"bits": 16}}, {"skips": {"bits": 16}}, {"stages": {"body": {"weights": 1}}}]
)
def test_float_is_suggested_for_parts_only(keys: dict[str, Any]) -> None:
    with pytest.raises(SrptqError) as caught:
        BoundRecipe.of(with_keys(keys), Registry())
    assert "leaves it float" not in str(caught.value)


def test_of_two_nearest_choices_the_greater_is_named() -> None:
    from srptq_plugin.graph.rules import Rules  # noqa: PLC0415
    from srptq_plugin.plugins.entries import TargetEntry  # noqa: PLC0415
    from srptq_plugin.plugins.hookspecs import hookimpl  # noqa: PLC0415

    class Coarse:
        presets = {"default": Rules(IntGrid(8), IntGrid(8), frozenset({4, 8}), frozenset({4, 8}))}  # noqa: RUF012

    class Plugin:
        @hookimpl
        def srptq_targets(self) -> list[TargetEntry]:
            return [TargetEntry("coarse", "4 or 8 bits", Coarse)]  # pyright: ignore[reportArgumentType]

    keys = {"target": "coarse", "weights": {"bits": 6}}
    with pytest.raises(SrptqError, match=r"weights\.bits: coarse has no 6 bits here; choices: 4, 8; the nearest is 8"):
        BoundRecipe.of(with_keys(keys), Registry([Plugin()]))


def test_the_first_preset_is_the_default() -> None:
    registry = Registry()
    assert (
        BoundRecipe.of(with_keys({}), registry).rules == BoundRecipe.of(with_keys({"preset": "mixed"}), registry).rules
    )
    assert BoundRecipe.of(with_keys({"preset": "performance"}), registry).rules.activations.symmetric


@pytest.mark.parametrize("name", Recipe.names())
def test_shipped_recipes_run_on_their_targets(name: str) -> None:
    recipe, registry = Recipe.load(name), Registry()
    assert recipe.weights.bits in BoundRecipe.of(recipe, registry).rules.weight_bits
    qconfigs = BoundRecipe.of(recipe, registry).qconfigs
    assert qconfigs["activation"].observer(IntGrid(4), 2) is not qconfigs["activation"].observer(IntGrid(4), 2)


@pytest.mark.parametrize("role", ["weights", "activations"])
@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options_of_an_observer_name_their_key(role: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SrptqError, match=rf"^recipe mine: {role}\.options\.{message}"):
        BoundRecipe.of(with_keys({role: options}), Registry())


def test_wrong_observer_options_are_refused_first(tmp_path: Path) -> None:
    recipe = networks.recipe(8, "paper", activations={"observer": "dbdc", "options": {"ratio": -1}})
    with pytest.raises(SrptqError, match=r"activations\.options\.ratio: -1 is not allowed"):
        quantize(recipe, images=tmp_path / "nowhere", out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


class NudgeOptions(Options):
    strength: float = 1.0


def _nudge(_prepared: object, _images: object, *, progress: object, seed: int, strength: float) -> dict[str, float]:
    raise AssertionError(progress, seed, strength)


class Nudging:
    """A plugin with a reconstruction that has an alias."""

    @hookimpl
    def srptq_reconstructions(self) -> list[ReconstructionEntry]:
        load = lambda: cast("Any", _nudge)  # noqa: E731 - as entries have it
        return [ReconstructionEntry("nudge", "moves a little", load, aliases=("push",), options=NudgeOptions)]


@pytest.mark.parametrize("name", ["nudge", "push"])
def test_wrong_options_of_a_plugin_s_reconstruction(name: str, tmp_path: Path) -> None:
    registry = Registry([Nudging()])
    recipe = networks.recipe(reconstruction={"name": name, "strenght": 2.0})
    with pytest.raises(SrptqError, match=r"reconstruction\.strenght: unknown key; did you mean 'strength'"):
        quantize(recipe, images=tmp_path / "none", out=tmp_path / "run", registry=registry)
    BoundRecipe.of(networks.recipe(reconstruction={"name": name, "strength": 2.0}), registry)


def test_rules_need_no_plugin_of_an_observer() -> None:
    recipe = with_keys({"activations": {"observer": "elsewhere"}, "reconstruction": {"name": "elsewhere"}})
    with pytest.raises(SrptqError, match="unknown observer 'elsewhere'"):
        BoundRecipe.of(recipe, Registry())
    assert bind_target(recipe, Registry())[1] == BoundRecipe.of(with_keys({}), Registry()).rules


def test_compensated_rounding_needs_levels_of_a_grid() -> None:
    daq = Recipe.load("paper-w4a4-daq", ["weights.rounding=compensated"])
    with pytest.raises(SrptqError, match=r"weights\.rounding: compensated, but daq has levels of its own"):
        BoundRecipe.of(daq, Registry())
    unknown = Recipe.load("openvino-w8a8", ["weights.quantizer=daqq"])
    with pytest.raises(SrptqError, match=r"recipe openvino-w8a8: weights\.quantizer: unknown quantizer 'daqq'"):
        BoundRecipe.of(unknown, Registry())
