"""Arithmetic and bytes: against torch's own count, hooks on the eager network, and the figures of papers."""

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
from srptq_plugin.models import SRGANGenerator, SRResNet
from srptq_plugin.models.model_record import ModelRecord
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.planner import make_plan
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe

SIZE = (1, 3, 12, 14)
KINDS = [*networks.NETWORKS, *networks.OTHERS]


class Odd(nn.Module):
    """Groups, strides, dilation, transposed convolutions, and a linear layer over the colors."""

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
    """Multiplications by the plain formula, layer by layer, as the eager network runs."""
    found: list[int] = []

    def count(conv: nn.Conv2d, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _, outputs, height, width = output.shape
        rows, columns = conv.kernel_size
        found.append(rows * columns * conv.in_channels // conv.groups * outputs * height * width)

    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            each.register_forward_hook(count)
    with torch.no_grad():
        module(torch.zeros(SIZE))
    return sum(found)


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_eager_network(kind: str) -> None:
    assert costs(kind).macs == hooked(networks.folded(kind))


def test_products_of_odd_layers_are_those_that_torch_counts() -> None:
    module = Odd().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(SIZE))
    found = Costs.of(Network(graph_of(export_network(module))), SIZE)
    assert 2 * found.macs == counter.get_total_flops()
    assert found.layers[0].name == "colors/linear"
    assert found.bops() == found.macs * 32 * 32


def uniform(kind: str, weights: int, activations: int) -> Plan:
    everywhere = {"weights": weights, "activations": activations}
    return plan(kind, stages=dict.fromkeys(("head", "body", "upsample", "tail"), everywhere))


@settings(max_examples=25)
@given(st.sampled_from(["edsr", "imdn", "shared", "rdn"]), st.integers(1, 16), st.integers(1, 16))
def test_of_uniform_bits_bitops_are_products_times_both(kind: str, weights: int, activations: int) -> None:
    found = costs(kind)
    shifts = sum(layer.macs for layer in found.layers if "mean" in layer.name)
    quantized = (found.macs - shifts) * weights * activations
    assert found.bops(uniform(kind, weights, activations)) == quantized + shifts * 32 * 32
    assert found.bops() == found.macs * 32 * 32


def test_equation_9_is_of_one_number_of_bits() -> None:
    found, bits = costs("rdn"), 4
    layers = list(found.layers)
    wanted = 2 * bits**2 * sum(layer.macs for layer in layers)
    assert daq_operations(found, uniform("rdn", bits, bits)) == wanted


@settings(max_examples=25)
@given(st.lists(st.integers(3, 5), min_size=6, max_size=6))
def test_equation_10_sums_over_input_channels(channels: list[int]) -> None:
    found, name, bits = costs("shared"), "block.first/conv", 4
    uniformly = uniform("shared", bits, bits)
    pixels, kernel, outputs = SIZE[2] * SIZE[3], 3, 6
    mixed = 2 * sum(n * bits * kernel**2 * outputs * pixels for n in channels)
    usual = 2 * bits**2 * kernel**2 * len(channels) * outputs * pixels
    found_mixed = daq_operations(found, uniformly, {name: channels})
    assert found_mixed == pytest.approx(daq_operations(found, uniformly) + mixed - usual)


@pytest.mark.parametrize("kind", KINDS)
def test_the_float_model_is_all_that_its_state_holds(kind: str) -> None:
    state = networks.folded(kind).state_dict()
    assert set(costs(kind).parameters) == set(state)
    assert costs(kind).size() == 4 * sum(each.numel() for each in state.values())


@pytest.mark.parametrize("target", ["openvino", "tensorrt", "onnxruntime", "paper"])
def test_the_size_is_that_of_the_table(target: str) -> None:
    table = QuantTable.of(networks.calibrated("edsr", 8, target))
    found = costs("edsr")
    integers = sum(each.numel() for each in table.weights.values())
    floats = sum(found.elements(name) for name in found.parameters if name not in table.weights)
    encodings = 0
    for sites in table.plan.groups.values():
        qparams = table.qparams[sites[0].name]
        asymmetric = not qparams.grid.symmetric
        encodings += qparams.scale.numel() * (4 + asymmetric * (4 if qparams.grid.float_zero_point else 1))
    assert found.size(table.plan) == integers + 4 * floats + encodings


def test_what_sites_have_a_part_in_adds_up() -> None:
    made = plan("imdn", bits=4, stages={"body": {"weights": 3, "activations": 6}})
    found = costs("imdn")
    shares = found.of_sites(made)
    for role in ("weight", "activation"):
        assert sum(shares[site.name].bops for site in made.sites if site.role == role) == found.bops(made)
    stored = {each.name: each.bytes for each in found.of_parameters(made)}
    assert all(shares[site.name].bytes == stored[site.name] for site in made.weights)


@settings(max_examples=25)
@given(st.sampled_from(["edsr", "imdn", "shared"]), st.integers(1, 15), st.sampled_from(["weights", "activations"]))
def test_more_bits_never_cost_less(kind: str, bits: int, role: str) -> None:
    found = costs(kind)
    one, other = (plan(kind, **{role: {"bits": each}}) for each in (bits, bits + 1))
    assert found.bops(one) < found.bops(other)
    assert found.size(one) <= found.size(other)
    assert found.memory.peak(one).bytes <= found.memory.peak(other).bytes


@settings(max_examples=8)
@given(st.integers(4, 40), st.integers(4, 40))
def test_all_but_the_model_grows_with_the_image(height: int, width: int) -> None:
    network, made = Network(networks.graph("edsr")), plan("edsr")
    one, other = (Costs.of(network, (1, 3, height + more, width)) for more in (0, 1))
    assert other.bops(made) * height == one.bops(made) * (height + 1)
    assert other.memory.peak(made).bytes * height == pytest.approx(one.memory.peak(made).bytes * (height + 1))
    assert other.size(made) == one.size(made)


def test_a_large_image_takes_no_arithmetic() -> None:
    large = Costs.of(Network(networks.graph("edsr")), (1, 3, 50_000, 90_000))
    assert large.macs == costs("edsr").macs * 50_000 * 90_000 // (SIZE[2] * SIZE[3])


def test_a_size_at_which_it_does_not_run_is_refused() -> None:
    network = Network(graph_of(export_network(nn.Sequential(nn.ReflectionPad2d(4), nn.Conv2d(3, 3, 9)))))
    with pytest.raises(SrptqError, match=r"input size 1x3x3x9: the network does not run at it \(.*; give another"):
        Costs.of(network, (1, 3, 3, 9))


RECORD = ModelRecord("toy", 2, networks.UNIT, None, 0)


@pytest.mark.parametrize(
    ("asked", "own", "wanted"),
    [(None, None, (1, 3, 360, 640)), (None, SIZE, SIZE), ((1, 3, 9, 9), SIZE, (1, 3, 9, 9))],
)
def test_a_run_is_counted_at_the_size_asked_for_or_its_own(asked: Any, own: Any, wanted: Any) -> None:
    chosen = networks.recipe(8, "openvino")
    table = SimpleNamespace(plan=networks.plan("edsr", chosen))
    run: Any = SimpleNamespace(record=RECORD, recipe=chosen, registry=Registry(), input_size=own)
    run.network, run.table = networks.graph("edsr"), table
    found = Estimate.of_run(run, asked)
    assert found.costs.input_size == wanted
    assert found.quantized.bops == found.costs.bops(table.plan)


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
    """The network of the paper, with kernels of 9 at both ends: SRGAN's generator."""
    return Network(graph_of(export_network(SRGANGenerator(scale, 64, blocks))))


def fqsr(scale: int, recipe: str, blocks: int = 16) -> tuple[float, float]:
    network = srresnet(scale, blocks)
    chosen = Recipe.load("paper-w8a8-fqsr-s8" if recipe == "float" else recipe)
    rules = BoundRecipe.of(chosen, Registry()).rules
    made = None if recipe == "float" else make_plan(network, rules, chosen, (0.0, 1.0))
    found = Costs.of(network, SIZES[scale], rules)
    memory = fqsr_memory(found, made)
    assert memory is not None
    return fqsr_operations(found, made) / 1e9, memory / 1e6


@pytest.mark.parametrize(("scale", "recipe"), TABLE_2)
def test_fqsrs_table_2(scale: int, recipe: str) -> None:
    operations, memory = fqsr(scale, recipe)
    assert operations == pytest.approx(TABLE_2[scale, recipe][0], rel=0.02)
    assert memory == pytest.approx(TABLE_2[scale, recipe][1], rel=1e-4)


@pytest.mark.parametrize(("scale", "wanted"), [(2, (63.894, 132.779)), (4, (28.558, 33.194))])
def test_fqsr_lite(scale: int, wanted: tuple[float, float]) -> None:
    assert fqsr(scale, "paper-w6a6-fqsr-s8", blocks=10) == pytest.approx(wanted, rel=0.02)


def test_six_bits_of_skips() -> None:
    skips = 3 * 64 * 678 * 1020 * 6 / 8
    assert fqsr(2, "paper-w6a6-fqsr-s6")[1] == pytest.approx(skips / 1e6)


def test_operations_of_fqsr_have_the_bits_of_the_wider_factor() -> None:
    found = costs("rdn")
    for weights, activations in ((4, 8), (8, 4)):
        assert fqsr_operations(found, uniform("rdn", weights, activations)) == found.macs * 8 / 64


@pytest.mark.parametrize(
    ("kind", "target", "keys", "bits"),
    [
        ("bicubic", "onnxruntime", {}, 8),
        ("edsr", "openvino", {}, 8),
        ("edsr", "openvino", {"bits": 4}, 4),
        ("edsr", "openvino", {"bits": 4, "overrides": [{"sites": "body.0/add", "bits": 6}]}, 6),
        ("edsr", "paper", {"placement": "convs"}, 32),
    ],
)
def test_memory_of_fqsr_is_of_the_widest_skip_of_the_body(
    kind: str, target: str, keys: Mapping[str, Any], bits: int
) -> None:
    others = {key: value for key, value in keys.items() if key != "bits"}
    chosen = networks.recipe(keys.get("bits", 8), target, **others)
    found = Costs.of(Network(networks.graph(kind)), SIZE, BoundRecipe.of(chosen, Registry()).rules)
    maps = 3 * networks.FEATURES * SIZE[2] * SIZE[3]
    assert fqsr_memory(found, networks.plan(kind, chosen)) == maps * bits // 8
    assert fqsr_memory(found) == maps * 4


def test_a_layer_tells_its_weights_from_what_it_reads() -> None:
    body = next(found for found in costs("edsr").of_layers(uniform("edsr", 3, 6)) if found.layer.stage == "body")
    record = body.record()
    assert (record["name"], record["weight_bits"], record["activation_bits"]) == ("body.0.first/conv", 3, 6)
    assert record["weight"] == "body.0.first.weight"


def test_without_adds_there_is_no_memory_by_fqsr() -> None:
    network = Network(graph_of(export_network(nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)))))
    assert fqsr_memory(Costs.of(network, SIZE)) is None


def test_srgans_size_is_that_of_the_multi_precision_paper() -> None:
    """Table 2 has 5.941 MB, of 2^20 bytes, in a file that keeps batch norms."""
    found = Costs.of(srresnet(4, 16), SIZE).size() / 2**20
    assert found == pytest.approx(5.941, rel=0.02)


def test_the_srresnet_that_comes_with_the_package_has_smaller_ends() -> None:
    found = Costs.of(Network(graph_of(export_network(SRResNet(2)))), SIZES[2])
    per_pixel = 9 * 64 * (3 + 32 * 64 + 256 + 4 * 64 + 4 * 3)
    assert found.macs == per_pixel * 678 * 1020
