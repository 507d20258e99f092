"""torchao's prepare, calibrate and convert, with our quantizer and with our observers in stock quantizers."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import networks, saturating
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram

from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.dbdc import DBDCObserver
from srptq_plugin.observers.minmax import MinMaxObserver
from srptq_plugin.planning.readback import plan_from_graph
from srptq_plugin.quantization.grid import Bounds, project

pytest.importorskip("torchao")

from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import ComposableQuantizer
from torchao.quantization.pt2e.quantizer import arm_inductor_quantizer as arm
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

from srptq_adapters.torchao import SRQuantizer, reconstruct, with_observer
from srptq_adapters.torchao.fake_quantize_class import TorchaoFakeQuantize

Run = Callable[[Any, Tensor], Tensor]
Calibrate = Callable[[fx.GraphModule], None]
SIZES = [(1, 9, 17), (3, 12, 14)]
STOCK = ["x86", "arm", "composed", "xnnpack"]


def exported(kind: str) -> ExportedProgram:
    """Export as users of torchao do: with batch norms, for any batch, height and width."""
    sizes = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    return torch.export.export(networks.network(kind), (networks.images(2),), dynamic_shapes=(sizes,))


def stock(name: str) -> Any:
    """Make a quantizer of torchao as its tutorials do."""
    if name == "x86":
        config = x86.get_default_x86_inductor_quantization_config()
        return x86.X86InductorQuantizer().set_global(config)
    if name == "arm":
        config = arm.get_default_arm_inductor_quantization_config()
        return arm.ArmInductorQuantizer().set_global(config)
    if name == "composed":
        return ComposableQuantizer([x86.X86InductorQuantizer().set_module_name_qconfig("head", None), stock("x86")])
    xnnpack = pytest.importorskip("torchao.testing.pt2e._xnnpack_quantizer")
    config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    return xnnpack.XNNPACKQuantizer().set_global(config)


def quantizers(prepared: fx.GraphModule) -> list[TorchaoFakeQuantize]:
    return [module for module in prepared.modules() if isinstance(module, TorchaoFakeQuantize)]


def scales(converted: fx.GraphModule, call: str = ".quantize_per_tensor") -> set[float]:
    """Return the scales of the activations."""
    return {float(node.args[1]) for node in converted.graph.nodes if call in str(node.target)}


@pytest.mark.parametrize("kind", ["edsr", "mixed", "imdn", "shared", "normed"])
def test_recipe_through_prepare_calibrate_reconstruct_convert(kind: str, calibrate: Calibrate, output: Run) -> None:
    recipe = networks.recipe(4, "onnxruntime", activations={"observer": "dbdc"})
    prepared = prepare_pt2e(exported(kind).module(), SRQuantizer.from_recipe(recipe))
    calibrate(prepared)
    for quantizer in quantizers(prepared):
        if not quantizer.fixed:
            quantizer.set_bounds(Bounds(0.6 * quantizer.lower, 0.6 * quantizer.upper))
    figures = reconstruct(prepared, networks.images(4, seed=3), epochs=4, schedule="joint", activation_rate=1e-2)
    assert figures["loss_after"] < figures["loss_before"]
    outputs = [output(prepared, networks.images(*size)) for size in SIZES]
    converted = convert_pt2e(prepared)
    for size, expected in zip(SIZES, outputs, strict=True):
        assert torch.equal(output(converted, networks.images(*size)), expected)


def test_shipped_recipe_by_name(calibrate: Calibrate, output: Run) -> None:
    quantizer = SRQuantizer.from_recipe("openvino-w8a8", input_range=(0.0, 255.0))
    prepared = prepare_pt2e(exported("imdn").module(), quantizer)
    calibrate(prepared)
    image = next(module for module in quantizers(prepared) if module.name == "/input")
    assert (image.lower.item(), image.upper.item()) == pytest.approx((0.0, 255.0))
    learning = [module for module in quantizers(prepared) if not module.constant and not module.fixed]
    assert learning
    assert all(isinstance(module.observer, DBDCObserver) for module in learning)
    picture = 255 * networks.images()
    before, exact = output(prepared, picture), networks.network("imdn")(picture)
    assert torch.equal(output(convert_pt2e(prepared), picture), before)
    assert before.shape == exact.shape


def test_convert_refuses_a_recipe_of_the_paper(calibrate: Calibrate) -> None:
    prepared = prepare_pt2e(exported("edsr").module(), SRQuantizer.from_recipe("paper-w4a4"))
    calibrate(prepared)
    with pytest.raises(SrptqError, match="use a recipe of a real target"):
        convert_pt2e(prepared)


def test_conversion_before_calibration_names_the_site() -> None:
    prepared = prepare_pt2e(exported("edsr").module(), SRQuantizer.from_recipe("openvino-w8a8"))
    with pytest.raises(SrptqError, match=r"site \S+: no bounds yet; run calibration images"):
        convert_pt2e(prepared)


def test_reconstructing_a_foreign_graph_is_refused() -> None:
    with pytest.raises(SrptqError, match="prepare it with SRQuantizer or with_observer"):
        reconstruct(exported("edsr").module(), networks.images())


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("kind", ["edsr", "mixed", "normed"])
def test_our_observers_in_a_stock_quantizer(name: str, kind: str, calibrate: Calibrate, output: Run) -> None:
    prepared = prepare_pt2e(exported(kind).module(), with_observer(stock(name), "dbdc"))
    assert len(quantizers(prepared)) > 5
    calibrate(prepared)
    figures = reconstruct(prepared, networks.images(4, seed=3), epochs=2, schedule="joint")
    assert figures["loss_after"] <= figures["loss_before"]
    expected = [output(prepared, networks.images(*size)) for size in SIZES]
    converted = convert_pt2e(prepared)
    assert not quantizers(converted)
    for size, before in zip(SIZES, expected, strict=True):
        assert torch.equal(output(converted, networks.images(*size)), before)
    image = networks.images()
    exact = networks.network(kind)(image)
    assert 0 < (output(converted, image) - exact).abs().mean() < 0.1 * exact.std()


@pytest.mark.parametrize("name", STOCK)
def test_stock_quantizer_uses_the_bounds_of_dbdc(name: str, calibrate: Calibrate) -> None:
    prepared = prepare_pt2e(exported("edsr").module(), with_observer(stock(name), "dbdc", options={"ratio": 0.05}))
    calibrate(prepared)
    expected: set[float] = set()
    for module in quantizers(prepared):
        if module.constant:
            assert isinstance(module.observer, MinMaxObserver)
            continue
        assert isinstance(module.observer, DBDCObserver)
        assert module.observer.ratios == (0.05,)
        expected.add(project(module.observer.bounds(), module.grid).scale.item())
    assert scales(convert_pt2e(prepared)) == expected

    plain = prepare_pt2e(exported("edsr").module(), with_observer(stock(name), "minmax"))
    calibrate(plain)
    assert max(scales(convert_pt2e(plain))) > max(expected)


@pytest.mark.parametrize("name", STOCK)
def test_stock_quantizer_keeps_its_placement(name: str) -> None:
    ours = prepare_pt2e(exported("imdn").module(), with_observer(stock(name)))
    theirs = prepare_pt2e(exported("imdn").module(), stock(name))
    one, other = (
        [node.target for node in graph.graph.nodes if str(node.target).startswith("activation_post_process")]
        for graph in (ours, theirs)
    )
    assert one == other
    assert len({id(ours.get_submodule(str(t))) for t in one}) == len({id(theirs.get_submodule(str(t))) for t in other})


def test_first_of_composed_quantizers_decides() -> None:
    prepared = prepare_pt2e(exported("edsr").module(), with_observer(stock("composed")))
    names = {module.name for module in quantizers(prepared)}
    assert "body.0.first.weight" in names
    assert "head.weight" not in names


def test_quantizers_in_stock_graphs_bear_tensor_names() -> None:
    prepared = prepare_pt2e(exported("edsr").module(), with_observer(stock("x86")))
    names = {module.name for module in quantizers(prepared)}
    assert {"head.weight", "shuffle/pixel_shuffle"} <= names
    plan = plan_from_graph(prepared)
    assert {site.group for site in plan.sites} == names
    assert plan.blocks == ("body.0/add", "body.1/add")
    roles = {site.source: site.role for site in plan.sites}
    assert roles["head.weight"] == "weight"
    assert roles["shuffle/pixel_shuffle"] == "activation"


def test_nan_names_the_tensor_of_a_stock_graph() -> None:
    prepared = prepare_pt2e(exported("edsr").module(), with_observer(stock("x86")))
    bad = networks.images()
    bad[0, 0, 3, 3] = torch.nan
    with pytest.raises(SrptqError, match=r"site \S+: batch 1: NaN"):
        prepared(bad)


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="no C++ compiler")
def test_converted_model_compiles(output: Run) -> None:
    """Compare with a tolerance, as Inductor sums in another order and a few values round the other way."""
    module = torch.nn.Sequential(networks.conv(3, 4), torch.nn.ReLU(), networks.conv(4, 3)).eval()
    program = torch.export.export(module, (networks.images(1),))
    prepared = prepare_pt2e(program.module(), SRQuantizer.from_recipe("openvino-w8a8"))
    with torch.no_grad():
        prepared(networks.images(1))
    converted = convert_pt2e(prepared)
    image = networks.images(1, seed=5)
    expected = output(converted, image)
    compiled = output(torch.compile(converted), image)
    torch.testing.assert_close(compiled, expected, rtol=0, atol=0.05 * float(expected.std()))


def integer_weights(converted: fx.GraphModule) -> list[Any]:
    """Return the weights of convolutions as `convert_pt2e` stores them."""
    stored = (*converted.parameters(), *converted.buffers())
    return [tensor.detach().numpy() for tensor in stored if tensor.dtype == torch.int8 and tensor.ndim == 4]


@pytest.mark.parametrize("safe", [True, False])
def test_x86_weights_never_overflow_unless_asked(calibrate: Calibrate, *, safe: bool) -> None:
    prepared = prepare_pt2e(exported("edsr").module(), with_observer(stock("x86"), overflow_safe=safe))
    calibrate(prepared)
    weights = integer_weights(convert_pt2e(prepared))
    assert weights
    assert any(map(saturating.overflows, weights)) is not safe


def test_weights_of_a_recipe_never_overflow(calibrate: Calibrate) -> None:
    recipe = networks.recipe(8, "onnxruntime", activations={"observer": "dbdc"})
    prepared = prepare_pt2e(exported("edsr").module(), SRQuantizer.from_recipe(recipe))
    calibrate(prepared)
    reconstruct(prepared, networks.images(4), epochs=1, weights="free", value_rate=0.5, feature_weight=0)
    assert not any(map(saturating.overflows, integer_weights(convert_pt2e(prepared))))


@pytest.mark.parametrize("name", ["arm", "xnnpack"])
def test_other_processors_keep_their_scales(name: str, calibrate: Calibrate) -> None:
    prepared = prepare_pt2e(exported("edsr").module(), with_observer(stock(name)))
    calibrate(prepared)
    assert all(module.grid.pair_limit is None for module in quantizers(prepared))
