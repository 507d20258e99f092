"""Our targets and MQBench's backends, and recipes as configs of plain MQBench scripts."""

import re
from collections.abc import Sequence

import pytest
import torch
from helpers import networks
from mqbench import advanced_ptq  # pyright: ignore[reportAttributeAccessIssue]
from mqbench import prepare_by_platform as platform  # pyright: ignore[reportAttributeAccessIssue]
from mqbench.utils.state import enable_calibration, enable_quantization  # pyright: ignore[reportMissingImports]

from srptq_adapters.mqbench.backends import TARGETS, MQBenchConfig, config_from, find_backend, find_target
from srptq_adapters.mqbench.grids import read_grid
from srptq_adapters.mqbench.quantizer_class import SRFakeQuantize
from srptq_plugin import Recipe
from srptq_plugin.errors import SrptqError
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.fqsr import FqsrFakeQuantize
from srptq_plugin.qat.quantizer_options import DdtbOptions
from srptq_plugin.quantization.grid import IntGrid

RECIPES = ("tensorrt-w8a8", "snpe-w8a8", "openvino-w8a8", "onnxruntime-w8a8", "paper-w4a4")
ENDS = {stage: {"weights": 8, "activations": 8} for stage in ("head", "tail")}
IMAGES = networks.images(4, seed=3)


def single(differences: Sequence[str], start: str) -> str:
    """Return the only difference that starts with a key."""
    (sentence,) = (difference for difference in differences if difference.startswith(start))
    return sentence


@pytest.fixture
def plainest() -> MQBenchConfig:
    """Return the config of a recipe that MQBench can follow but for its placement."""
    return config_from(networks.recipe(8, "tensorrt", stages=ENDS))


@pytest.mark.parametrize("backend", TARGETS)
def test_backend_and_target_name_each_other(backend: str) -> None:
    target = find_target(platform.BackendType[backend])
    assert find_backend(target) is platform.BackendType[backend]
    assert Registry().target(target).name == target


def test_unknown_target_is_refused_with_the_choices() -> None:
    with pytest.raises(SrptqError, match=r"target of MQBench 'ncnn'.*openvino.*toolkit: mqbench"):
        find_backend("ncnn")


@pytest.mark.parametrize("backend", ["PPLCUDA", "Vitis"])
def test_backend_without_target_is_refused_with_the_choices(backend: str) -> None:
    with pytest.raises(SrptqError, match=rf"backend '{backend}'.*Tensorrt.*no target of ours"):
        find_target(platform.BackendType[backend])


@pytest.mark.parametrize("name", RECIPES)
def test_config_follows_the_recipe(name: str) -> None:
    recipe = Recipe.load(name)
    settings = config_from(recipe)
    qconfig = settings.prepare_custom_config_dict["extra_qconfig_dict"]
    assert find_target(settings.backend) == recipe.target
    assert (qconfig["w_observer"], qconfig["a_observer"]) == ("srptq.minmax", "dbdc")
    assert recipe.activations.options.items() <= qconfig["a_observer_extra_args"].items()
    assert (qconfig["w_qscheme"]["bit"], qconfig["a_qscheme"]["bit"]) == (recipe.weights.bits, recipe.activations.bits)
    assert settings.reconstruction is not None
    assert recipe.reconstruction is not None
    assert settings.reconstruction["pattern"] == recipe.reconstruction.name
    assert settings.reconstruction["epochs"] == recipe.reconstruction.options["epochs"]
    assert settings.reconstruction["seed"] == recipe.calibration.seed


@pytest.mark.parametrize("name", ["snpe-w8a8-fast", "openvino-w8a8-fast"])
def test_config_without_reconstruction(name: str) -> None:
    assert config_from(Recipe.load(name)).reconstruction is None


@pytest.mark.usefixtures("real", "active")
@pytest.mark.parametrize("name", RECIPES)
def test_plain_mqbench_calls_follow_the_recipe(name: str) -> None:
    recipe = Recipe.load(name, ["reconstruction.epochs=1"])
    settings = config_from(recipe)
    network = networks.network("edsr")
    model = platform.prepare_by_platform(network, settings.backend, settings.prepare_custom_config_dict).eval()
    enable_calibration(model)
    model(IMAGES)
    enable_quantization(model)
    tuned = advanced_ptq.ptq_reconstruction(model, list(IMAGES.split(2)), settings.reconstruction)
    assert tuned is not model
    with torch.no_grad():
        assert (tuned(IMAGES) - network(IMAGES)).abs().mean() < 0.5 * network(IMAGES).std()


@pytest.mark.usefixtures("real", "active")
@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("openvino")])
def test_quantizers_have_the_grids_of_the_target(name: str) -> None:
    recipe = Recipe.load(name)
    rules, settings = BoundRecipe.of(recipe, Registry()).rules, config_from(recipe)
    network = networks.network("edsr")
    model = platform.prepare_by_platform(network, settings.backend, settings.prepare_custom_config_dict)
    body = model.get_submodule("body.0.first.weight_fake_quant")
    assert isinstance(body, SRFakeQuantize)
    grid, expected = read_grid(body), rules.weights.at(recipe.weights.bits)
    assert (grid.steps, grid.symmetric, grid.channel_axis) == (expected.steps, expected.symmetric, 0)


def test_snpe_weights_differ_in_symmetry_and_channels() -> None:
    difference = single(config_from(Recipe.load("snpe-w8a8")).differences, "w_qscheme")
    assert difference == (
        "w_qscheme: MQBench's SNPE has symmetry False (here True), per_channel False (here True); "
        "the config gives the target's"
    )


def test_onnx_runtime_activations_differ_in_symmetry() -> None:
    difference = single(config_from(Recipe.load("onnxruntime-w8a8")).differences, "a_qscheme")
    assert difference.startswith("a_qscheme: MQBench's QDQ has symmetry True (here False)")


def test_openvino_weights_are_named_with_their_forced_range() -> None:
    differences = config_from(Recipe.load("openvino-w8a8")).differences
    assert any(re.match(r"w_qscheme: .*-64\.\.63", difference) for difference in differences)


def test_float_zero_points_of_the_paper_are_named() -> None:
    differences = config_from(Recipe.load("paper-w4a4")).differences
    assert "paper has levels anywhere" in single(differences, "a_qscheme")
    assert not any(difference.startswith("placement") for difference in differences)


@pytest.mark.parametrize("name", ["tensorrt-w8a8", "snpe-w8a8", "openvino-w8a8", "onnxruntime-w8a8"])
def test_missing_placement_is_named(name: str) -> None:
    assert "by its own rules" in single(config_from(Recipe.load(name)).differences, "placement")


def test_overrides_are_named_as_missing() -> None:
    recipe = networks.recipe(8, "onnxruntime", overrides=[{"sites": "head*", "bits": 4}])
    assert single(config_from(recipe).differences, "overrides") == "overrides: MQBench has none"


def test_skips_are_named_as_missing() -> None:
    recipe = networks.recipe(8, "onnxruntime", skips={"bits": 4})
    assert single(config_from(recipe).differences, "skips") == "skips: MQBench has no bits of their own for them"


@pytest.mark.usefixtures("active")
def test_config_has_the_quantizer_and_its_levels() -> None:
    settings = config_from(Recipe.load("paper-w8a8-fqsr-s8"))
    model = platform.prepare_by_platform(
        networks.network("edsr"), settings.backend, settings.prepare_custom_config_dict
    )
    quantizers = [module for module in model.modules() if isinstance(module, SRFakeQuantize)]
    assert quantizers
    assert {type(quantizer.core) for quantizer in quantizers} == {FqsrFakeQuantize}
    assert IntGrid(9, signed=True, symmetric=True, narrow_range=True) in {
        quantizer.core.grid for quantizer in quantizers
    }


@pytest.mark.usefixtures("active")
def test_config_has_the_options_of_the_quantizer() -> None:
    options = ["weights.bits=4", "activations.bits=4", "activations.quantizer_options.gated=0.5"]
    settings = config_from(Recipe.load("paper-w2a2-ddtb", options))
    model = platform.prepare_by_platform(
        networks.network("edsr"), settings.backend, settings.prepare_custom_config_dict
    )
    cores = [module.core for module in model.modules() if isinstance(module, SRFakeQuantize)]
    assert DdtbOptions(gated=0.5, bypassed=0.1) in [core.options for core in cores]


def test_only_the_placement_differs_for_a_plain_recipe(plainest: MQBenchConfig) -> None:
    assert [difference.partition(" ")[0] for difference in plainest.differences] == ["placement"]


def test_own_bits_of_stages_are_named() -> None:
    differences = config_from(networks.recipe(4, "onnxruntime", stages=ENDS)).differences
    assert single(differences, "stages") == "stages head, tail: bits of their own; MQBench's QDQ has none"
