"""Our targets and MQBench's backends, both ways; a recipe as the config of a plain MQBench script."""

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
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.fqsr import FqsrFakeQuantize
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.recipes.binding import rules_of

RECIPES = ("tensorrt-w8a8", "snpe-w8a8", "openvino-w8a8", "onnxruntime-w8a8", "paper-w4a4")
ENDS = {stage: {"weights": 8, "activations": 8} for stage in ("head", "tail")}
IMAGES = networks.images(4, seed=3)


def told(differences: Sequence[str], start: str) -> str:
    """The one difference that starts so."""
    (found,) = (each for each in differences if each.startswith(start))
    return found


@pytest.fixture
def plainest() -> MQBenchConfig:
    """A recipe that asks for nothing that MQBench does not do."""
    return config_from(networks.recipe(8, "tensorrt", stages=ENDS))


@pytest.mark.parametrize("backend", TARGETS)
def test_backend_and_target_name_each_other(backend: str) -> None:
    target = find_target(platform.BackendType[backend])
    assert find_backend(target) is platform.BackendType[backend]
    assert Registry().target(target).name == target


def test_a_target_that_mqbench_does_not_deploy_to_is_refused_with_those_that_it_does() -> None:
    with pytest.raises(SrptqError, match=r"target of MQBench 'ncnn'.*openvino.*toolkit mqbench"):
        find_backend("ncnn")


@pytest.mark.parametrize("backend", ["PPLCUDA", "Vitis"])
def test_a_backend_without_a_target_is_refused_with_those_that_have_one(backend: str) -> None:
    with pytest.raises(SrptqError, match=rf"backend '{backend}'.*Tensorrt.*no target of ours"):
        find_target(platform.BackendType[backend])


@pytest.mark.parametrize("name", RECIPES)
def test_the_config_is_the_recipes(name: str) -> None:
    recipe = Recipe.load(name)
    settings = config_from(recipe)
    qconfig = settings.prepare_custom_config_dict["extra_qconfig_dict"]
    assert find_target(settings.backend) == recipe.target
    assert (qconfig["w_observer"], qconfig["a_observer"]) == ("srptq.minmax", "dbdc")
    assert qconfig["a_observer_extra_args"] == recipe.activations.options
    assert (qconfig["w_qscheme"]["bit"], qconfig["a_qscheme"]["bit"]) == (recipe.weights.bits, recipe.activations.bits)
    assert settings.reconstruction is not None
    assert recipe.reconstruction is not None
    assert settings.reconstruction["pattern"] == recipe.reconstruction.name
    assert settings.reconstruction["epochs"] == recipe.reconstruction.options()["epochs"]
    assert settings.reconstruction["seed"] == recipe.calibration.seed


@pytest.mark.parametrize("name", ["snpe-w8a8-fast", "openvino-w8a8-fast"])
def test_a_recipe_without_reconstruction_has_none(name: str) -> None:
    assert config_from(Recipe.load(name)).reconstruction is None


@pytest.mark.usefixtures("real", "active")
@pytest.mark.parametrize("name", RECIPES)
def test_plain_calls_of_mqbench_follow_the_recipe(name: str) -> None:
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
def test_the_quantizers_count_as_the_target_does(name: str) -> None:
    recipe = Recipe.load(name)
    rules, settings = rules_of(recipe, Registry()), config_from(recipe)
    network = networks.network("edsr")
    model = platform.prepare_by_platform(network, settings.backend, settings.prepare_custom_config_dict)
    body = model.get_submodule("body.0.first.weight_fake_quant")
    assert isinstance(body, SRFakeQuantize)
    found, wanted = read_grid(body), rules.weights.at(recipe.weights.bits)
    assert (found.steps, found.symmetric, found.channel_axis) == (wanted.steps, wanted.symmetric, 0)


def test_snpes_weights_are_symmetric_by_channel_where_mqbenchs_are_not() -> None:
    found = told(config_from(Recipe.load("snpe-w8a8")).differences, "w_qscheme")
    assert found == (
        "w_qscheme: MQBench's SNPE has symmetry False (here True), per_channel False (here True); "
        "the config gives the target's"
    )


def test_onnx_runtimes_activations_are_asymmetric_where_mqbenchs_are_not() -> None:
    found = told(config_from(Recipe.load("onnxruntime-w8a8")).differences, "a_qscheme")
    assert found.startswith("a_qscheme: MQBench's QDQ has symmetry True (here False)")


def test_openvinos_weights_are_named_with_the_range_that_mqbench_forces() -> None:
    differences = config_from(Recipe.load("openvino-w8a8")).differences
    assert any(re.match(r"w_qscheme: .*-64\.\.63", each) for each in differences)


def test_the_papers_levels_lie_anywhere_and_its_ends_have_bits_of_their_own() -> None:
    differences = config_from(Recipe.load("paper-w4a4")).differences
    assert "paper has levels anywhere" in told(differences, "a_qscheme")
    assert not any(each.startswith("placement") for each in differences)


@pytest.mark.parametrize("name", ["tensorrt-w8a8", "snpe-w8a8", "openvino-w8a8", "onnxruntime-w8a8"])
def test_a_placement_that_mqbench_does_not_have_is_named(name: str) -> None:
    assert "by its own rules" in told(config_from(Recipe.load(name)).differences, "placement")


def test_overrides_which_mqbench_has_none_of_are_named() -> None:
    recipe = networks.recipe(8, "onnxruntime", overrides=[{"sites": "head*", "bits": 4}])
    assert told(config_from(recipe).differences, "overrides") == "overrides: MQBench has none"


def test_skips_which_mqbench_has_no_bits_for_are_named() -> None:
    recipe = networks.recipe(8, "onnxruntime", skips={"bits": 4})
    assert told(config_from(recipe).differences, "skips") == "skips: MQBench has no bits of their own for them"


@pytest.mark.usefixtures("active")
def test_a_recipes_quantizer_and_its_levels_are_in_the_config() -> None:
    settings = config_from(Recipe.load("paper-w8a8-fqsr-s8"))
    model = platform.prepare_by_platform(
        networks.network("edsr"), settings.backend, settings.prepare_custom_config_dict
    )
    quantizers = [each for each in model.modules() if isinstance(each, SRFakeQuantize)]
    assert quantizers
    assert {type(each.core) for each in quantizers} == {FqsrFakeQuantize}
    assert IntGrid(9, signed=True, symmetric=True, narrow_range=True) in {each.core.grid for each in quantizers}


@pytest.mark.usefixtures("active")
def test_a_recipes_options_of_a_quantizer_are_in_the_config_too() -> None:
    own = ["weights.bits=4", "activations.bits=4", "activations.quantizer_options.gated=0.5"]
    settings = config_from(Recipe.load("paper-w2a2-ddtb", own))
    model = platform.prepare_by_platform(
        networks.network("edsr"), settings.backend, settings.prepare_custom_config_dict
    )
    cores = [each.core for each in model.modules() if isinstance(each, SRFakeQuantize)]
    assert {"gated": 0.5, "bypassed": 0.1} in [each.options for each in cores]


def test_where_nothing_differs_but_the_placement_that_alone_is_named(plainest: MQBenchConfig) -> None:
    assert [each.partition(" ")[0] for each in plainest.differences] == ["placement"]


def test_fewer_bits_in_between_than_at_the_ends_are_named() -> None:
    differences = config_from(networks.recipe(4, "onnxruntime", stages=ENDS)).differences
    assert told(differences, "stages") == "stages head, tail: bits of their own; MQBench's QDQ has none"
