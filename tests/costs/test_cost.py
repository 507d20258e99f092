"""Arithmetic and bytes, against torch's own count, hooks on the eager network, and the figures of papers."""

from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import networks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from srptq_plugin.costs.conventions import daq_operations, fqsr_memory, fqsr_operations
from srptq_plugin.costs.cost import Costs
from srptq_plugin.costs.estimate import Estimate
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.models.model_record import ModelRecord
from srptq_plugin.models.srgan import SRGANGenerator
from srptq_plugin.models.srresnet import SRResNet
from srptq_plugin.planning.plan import Plan
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry

SIZE = (1, 3, 12, 14)
KINDS = [*networks.NETWORKS, *networks.OTHERS]
RECORD = ModelRecord("toy", 2, networks.UNIT, None, 0)


class Odd(nn.Module):
    """A network with groups, strides, dilation, transposed convolutions, and a linear layer over the colors."""

    def __init__(self) -> None:
        super().__init__()
        self.colors = nn.Linear(3, 4)
        self.grouped = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.wide = nn.Conv2d(8, 8, (3, 1), padding=(2, 0), dilation=2, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1, groups=2)
        self.last = nn.ConvTranspose2d(6, 3, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        colored = self.colors(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.last(self.up(functional.relu(self.wide(self.grouped(colored)))))


@cache
def costs(kind: str) -> Costs:
    return Costs.of(Network(networks.graph(kind)), SIZE)


def plan(kind: str, **keys: Any) -> Plan:
    bits: int = keys.pop("bits", 8)
    return networks.plan(kind, networks.recipe(bits, "paper", **keys))


def hooked(module: nn.Module) -> int:
    """Count multiplications by the plain formula, layer by layer, as the eager network runs."""
    macs: list[int] = []

    def count(layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A transposed convolution spreads each input value, the others gather each output value.
        counted = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        macs.append(counted.numel() * layer.weight[0].numel())

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        module(torch.zeros(SIZE))
    return sum(macs)


@pytest.mark.parametrize("kind", KINDS)
def test_macs_equal_the_eager_network(kind: str) -> None:
    assert costs(kind).macs == hooked(networks.folded(kind))


def test_macs_of_odd_layers_equal_torchs_count() -> None:
    module = Odd().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(SIZE))
    odd = Costs.of(Network(graph_of(export_network(module))), SIZE)
    assert 2 * odd.macs == counter.get_total_flops()
    assert odd.layers[0].name == "colors/conv"
    assert odd.bops() == odd.macs * 32 * 32


def uniform(kind: str, weights: int, activations: int) -> Plan:
    everywhere = {"weights": weights, "activations": activations}
    return plan(kind, stages=dict.fromkeys(("head", "body", "upsample", "tail"), everywhere))


@settings(max_examples=25)
@given(st.sampled_from(["edsr", "imdn", "shared", "rdn"]), st.integers(1, 16), st.integers(1, 16))
def test_bitops_are_macs_times_both_bits(kind: str, weights: int, activations: int) -> None:
    network = costs(kind)
    shifts = sum(layer.macs for layer in network.layers if "mean" in layer.name)
    quantized = (network.macs - shifts) * weights * activations
    assert network.bops(uniform(kind, weights, activations)) == quantized + shifts * 32 * 32
    assert network.bops() == network.macs * 32 * 32


def test_daq_equation_9_with_uniform_bits() -> None:
    expected = 2 * 4**2 * sum(layer.macs for layer in costs("rdn").layers)
    assert daq_operations(costs("rdn"), uniform("rdn", 4, 4)) == expected


@settings(max_examples=25)
@given(st.lists(st.integers(3, 5), min_size=6, max_size=6))
def test_daq_equation_10_sums_over_input_channels(channels: list[int]) -> None:
    network, name, bits = costs("shared"), "block.first/conv", 4
    fours = uniform("shared", bits, bits)
    pixels, kernel, outputs = SIZE[2] * SIZE[3], 3, 6
    mixed = 2 * sum(n * bits * kernel**2 * outputs * pixels for n in channels)
    usual = 2 * bits**2 * kernel**2 * len(channels) * outputs * pixels
    expected = daq_operations(network, fours) + mixed - usual
    assert daq_operations(network, fours, {name: channels}) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("channelslast", "tokens")])
def test_float_size_equals_the_state_dict(kind: str) -> None:
    state = networks.folded(kind).state_dict()
    assert set(costs(kind).parameters) == set(state)
    assert costs(kind).size() == 4 * sum(tensor.numel() for tensor in state.values())


@pytest.mark.parametrize("target", ["openvino", "tensorrt", "onnxruntime", "litert", "ncnn", "executorch", "paper"])
def test_size_equals_the_quantization_table(target: str) -> None:
    table = QuantTable.of(networks.calibrated("edsr", 8, target))
    network = costs("edsr")
    integers = sum(weight.numel() for weight in table.weights.values())
    floats = sum(network.elements(name) for name in network.parameters if name not in table.weights)
    encodings = 0
    for sites in table.plan.groups.values():
        qparams = table.qparams[sites[0].name]
        asymmetric = not qparams.grid.symmetric
        encodings += qparams.scale.numel() * (4 + asymmetric * (4 if qparams.grid.float_zero_point else 1))
    assert network.size(table.plan) == integers + 4 * floats + encodings


def test_site_costs_add_up() -> None:
    mixed = plan("imdn", bits=4, stages={"body": {"weights": 3, "activations": 6}})
    network = costs("imdn")
    shares = network.site_costs(mixed)
    for role in ("weight", "activation"):
        assert sum(shares[site.name].bops for site in mixed.sites if site.role == role) == network.bops(mixed)
    stored = {parameter.name: parameter.bytes for parameter in network.parameter_costs(mixed)}
    assert all(shares[site.name].bytes == stored[site.name] for site in mixed.weights)


@settings(max_examples=25)
@given(st.sampled_from(["edsr", "imdn", "shared"]), st.integers(1, 15), st.sampled_from(["weights", "activations"]))
def test_more_bits_never_cost_less(kind: str, bits: int, role: str) -> None:
    network = costs(kind)
    fewer, more = plan(kind, **{role: {"bits": bits}}), plan(kind, **{role: {"bits": bits + 1}})
    assert network.bops(fewer) < network.bops(more)
    assert network.size(fewer) <= network.size(more)
    assert network.memory.peak(fewer).bytes <= network.memory.peak(more).bytes


@settings(max_examples=8)
@given(st.integers(4, 40), st.integers(4, 40))
def test_bitops_and_memory_grow_with_the_image(height: int, width: int) -> None:
    network, eight = Network(networks.graph("edsr")), plan("edsr")
    low, high = (Costs.of(network, (1, 3, sides, width)) for sides in (height, height + 1))
    assert high.bops(eight) * height == low.bops(eight) * (height + 1)
    assert high.memory.peak(eight).bytes * height == pytest.approx(low.memory.peak(eight).bytes * (height + 1))
    assert high.size(eight) == low.size(eight)


def test_huge_images_are_counted_without_computing() -> None:
    large = Costs.of(Network(networks.graph("edsr")), (1, 3, 50_000, 90_000))
    assert large.macs == costs("edsr").macs * 50_000 * 90_000 // (SIZE[2] * SIZE[3])


def test_an_impossible_input_size_is_refused() -> None:
    network = Network(graph_of(export_network(nn.Sequential(nn.ReflectionPad2d(4), nn.Conv2d(3, 3, 9)))))
    with pytest.raises(SrptqError, match=r"input size 1x3x3x9: the network does not run at it \(.*; give another"):
        Costs.of(network, (1, 3, 3, 9))


@pytest.mark.parametrize(
    ("size", "own", "expected"),
    [(None, None, (1, 3, 360, 640)), (None, SIZE, SIZE), ((1, 3, 9, 9), SIZE, (1, 3, 9, 9))],
)
def test_estimate_of_run_chooses_the_input_size(size: Any, own: Any, expected: Any) -> None:
    recipe = networks.recipe(8, "openvino")
    run: Any = SimpleNamespace(
        record=RECORD, recipe=recipe, rules=BoundRecipe.of(recipe, Registry()).rules, input_size=own
    )
    run.network, run.table = networks.graph("edsr"), SimpleNamespace(plan=networks.plan("edsr", recipe), states={})
    estimate = Estimate.of_run(run, size)
    assert estimate.costs.input_size == expected
    assert estimate.quantized.bops == estimate.costs.bops(run.table.plan)


SIZES = {2: (1, 3, 678, 1020), 4: (1, 3, 339, 510)}
TABLE_2: Mapping[tuple[int, str], tuple[float, float]] = {
    (2, "float"): (997.018, 531.117),
    (2, "paper-w4a4-fqsr-s8"): (62.314, 132.779),
    (2, "paper-w4a4-fqsr-s32"): (62.314, 531.117),
    (2, "paper-w6a6-fqsr-s8"): (93.470, 132.779),
    (2, "paper-w8a8-fqsr-s8"): (124.627, 132.779),
    (2, "paper-w8a8-fqsr-s32"): (124.627, 531.117),
    (4, "float"): (383.487, 132.777),
    (4, "paper-w4a4-fqsr-s8"): (23.968, 33.194),
    (4, "paper-w4a4-fqsr-s32"): (23.968, 132.777),
    (4, "paper-w6a6-fqsr-s8"): (35.952, 33.194),
    (4, "paper-w8a8-fqsr-s8"): (47.936, 33.194),
    (4, "paper-w8a8-fqsr-s32"): (47.936, 132.777),
}
"""FQSR's Table 2: OPs in G and memory in MB of SRResNet, by scale and setting."""


@cache
def srresnet(scale: int, blocks: int) -> Network:
    """Return the paper's network, SRGAN's generator, which has kernels of 9 at both ends."""
    return Network(graph_of(export_network(SRGANGenerator(scale, 64, blocks))))


def fqsr(scale: int, recipe: str, blocks: int = 16) -> tuple[float, float]:
    """Return the OPs in G and the memory in MB of SRResNet."""
    network = srresnet(scale, blocks)
    bound = BoundRecipe.resolve("paper-w8a8-fqsr-s8" if recipe == "float" else recipe, Registry())
    bits = None if recipe == "float" else bound.plan(network, (0.0, 1.0))
    network_costs = Costs.of(network, SIZES[scale], bound.rules)
    memory = fqsr_memory(network_costs, bits)
    assert memory is not None
    return fqsr_operations(network_costs, bits) / 1e9, memory / 1e6


@pytest.mark.parametrize(("scale", "recipe"), TABLE_2)
def test_fqsr_table_2(scale: int, recipe: str) -> None:
    operations, memory = fqsr(scale, recipe)
    assert operations == pytest.approx(TABLE_2[scale, recipe][0], rel=0.02)
    assert memory == pytest.approx(TABLE_2[scale, recipe][1], rel=1e-4)


@pytest.mark.parametrize(("scale", "expected"), [(2, (63.894, 132.779)), (4, (28.558, 33.194))])
def test_fqsr_lite(scale: int, expected: tuple[float, float]) -> None:
    assert fqsr(scale, "paper-w6a6-fqsr-s8", blocks=10) == pytest.approx(expected, rel=0.02)


def test_fqsr_memory_of_six_bit_skips() -> None:
    skips = 3 * 64 * 678 * 1020 * 6 / 8
    assert fqsr(2, "paper-w6a6-fqsr-s6")[1] == pytest.approx(skips / 1e6)


def test_fqsr_operations_use_the_wider_factor() -> None:
    network = costs("rdn")
    for bits in ((4, 8), (8, 4)):
        assert fqsr_operations(network, uniform("rdn", *bits)) == network.macs * 8 / 64


@pytest.mark.parametrize(
    ("kind", "target", "keys", "bits"),
    [
        ("bicubic", "onnxruntime", {}, 8),
        ("edsr", "onnxruntime", {}, 8),
        ("edsr", "onnxruntime", {"bits": 4}, 4),
        ("edsr", "onnxruntime", {"bits": 4, "overrides": [{"sites": "body.0/add", "bits": 6}]}, 6),
        ("edsr", "openvino", {}, 32),  # the long skip is float
        ("edsr", "paper", {"placement": "convs"}, 32),
    ],
)
def test_fqsr_memory_uses_the_widest_skip(kind: str, target: str, keys: Mapping[str, Any], bits: int) -> None:
    others = {key: value for key, value in keys.items() if key != "bits"}
    recipe = networks.recipe(keys.get("bits", 8), target, **others)
    network = Costs.of(Network(networks.graph(kind)), SIZE, BoundRecipe.of(recipe, Registry()).rules)
    maps = 3 * networks.FEATURES * SIZE[2] * SIZE[3]
    assert fqsr_memory(network, networks.plan(kind, recipe)) == maps * bits // 8
    assert fqsr_memory(network) == maps * 4


def test_layer_records_separate_weight_and_activation_bits() -> None:
    layers = costs("edsr").layer_costs(uniform("edsr", 3, 6))
    record = next(cost.record() for cost in layers if cost.layer.stage == "body")
    assert (record["name"], record["weight_bits"], record["activation_bits"]) == ("body.0.first/conv", 3, 6)
    assert record["weight"] == "body.0.first.weight"


def test_fqsr_memory_is_none_without_adds() -> None:
    network = Network(graph_of(export_network(nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)))))
    assert fqsr_memory(Costs.of(network, SIZE)) is None


def test_srgan_size_equals_the_multi_precision_paper() -> None:
    # Table 2 has 5.941 MB of 2^20 bytes, for a file with batch norms.
    assert Costs.of(srresnet(4, 16), SIZE).size() / 2**20 == pytest.approx(5.941, rel=0.02)


def test_built_in_srresnet_has_smaller_end_kernels() -> None:
    network = Costs.of(Network(graph_of(export_network(SRResNet(2)))), SIZES[2])
    per_pixel = 9 * 64 * (3 + 32 * 64 + 256 + 4 * 64 + 4 * 3)
    assert network.macs == per_pixel * 678 * 1020


def test_linear_weights_take_the_room_of_kernels() -> None:
    whole = sum(parameter.numel() for parameter in networks.network("tokens").parameters())
    assert costs("tokens").size() == 4 * whole


def test_factors_in_weights_take_no_room() -> None:
    factors = networks.network("channelslast").get_parameter("scale").numel()
    whole = sum(parameter.numel() for parameter in networks.network("channelslast").parameters())
    assert costs("channelslast").size() == 4 * (whole - factors)
