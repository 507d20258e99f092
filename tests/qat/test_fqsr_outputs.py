"""FQSR's equation (7): the outputs of convolutions and sums are rounded before anything reads them."""

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from helpers import networks
from torch import fx, nn

from srptq_plugin.costs.conventions import fqsr_memory
from srptq_plugin.costs.cost import Costs
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.models.srgan import SRGANGenerator
from srptq_plugin.planning.plan import Edge, Plan
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.fqsr import FqsrFakeQuantize
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.recipes.recipe import Recipe

SIZE = (1, 3, 24, 30)
SHUFFLES = ("pixel_shuffle", "split", "getitem")


class Scaled(nn.Module):
    """A block with a scaled branch and a LeakyReLU, then an output that is shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body, self.tail = (nn.Conv2d(n, m, 3, padding=1) for n, m in ((3, 8), (8, 8), (8, 12)))
        self.leaky, self.shuffle = nn.LeakyReLU(0.1), nn.PixelShuffle(2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.leaky(self.head(image))
        return self.shuffle(self.tail(features + 0.1 * self.body(features)))


MODULES: dict[str, Callable[[], nn.Module]] = {"srgan": lambda: SRGANGenerator(4, 32, 2), "scaled": Scaled}


@cache
def network(kind: str) -> Network:
    return Network(graph_of(export_network(MODULES[kind]())) if kind in MODULES else networks.graph(kind))


def plan(kind: str, recipe: str = "paper-w4a4-fqsr-s8", *overrides: str) -> Plan:
    return BoundRecipe.resolve(Recipe.load(recipe, overrides), Registry()).plan(network(kind), networks.UNIT)


def readers(of: Network, node: fx.Node) -> Iterator[tuple[str, int]]:
    """Yield what computes with a tensor: behind a ReLU, a product with a number, and shuffles."""
    for user in node.users:
        if user in of.ops and user in of.varying:
            is_inside = of.ops[user] in (*SHUFFLES, "relu") or of.kind(user) == "scale"
            yield from readers(of, user) if is_inside else [(of.name(user), [*user.all_input_nodes].index(node))]


@pytest.mark.parametrize("kind", ["srgan", "scaled", "edsr", "rdn", "imdn"])
def test_no_convolution_or_sum_gives_floats(kind: str) -> None:
    made, of = plan(kind), network(kind)
    sums = {edge.consumer for edge in made.by_edge if of.ops[of.nodes[edge.consumer]] == "add"}
    for name in (*made.convs, *sums):
        for consumer, index in readers(of, of.nodes[name]):
            grid = made.by_edge[Edge(consumer, index)].grid
            is_joined = name in made.convs and of.ops[of.nodes[consumer]] == "cat"
            is_input = consumer in made.convs or is_joined
            assert grid.bits - grid.signed == (4 if is_input else 8), (name, consumer)


def test_srgan_rounds_these_tensors() -> None:
    """Compare the bits of each tensor with the setting 4/4/8, for one block of two, without the signs."""
    made = plan("srgan")
    read = {(site.source, edge.consumer): site.grid.bits - 1 for site in made.sites for edge in site.consumers}
    inputs = [
        ("block1.1/prelu", "block2.conv1/conv"),
        ("block2.prelu/prelu", "block2.conv2/conv"),
        ("block2/add", "block3.conv1/conv"),
        ("block3.prelu/prelu", "block3.conv2/conv"),
        ("block3/add", "block4.0/conv"),
        ("/add", "block5.0.conv/conv"),
        ("block5.0.prelu/prelu", "block5.1.conv/conv"),
        ("block5.1.prelu/prelu", "block5.2/conv"),
    ]
    outputs = [
        ("/input", "block1.0/conv"),
        ("block1.0/conv", "block1.1/prelu"),
        ("block1.1/prelu", "block2/add"),
        ("block1.1/prelu", "/add"),
        ("block2.conv1/conv", "block2.prelu/prelu"),
        ("block2.conv2/conv", "block2/add"),
        ("block2/add", "block3/add"),
        ("block3.conv1/conv", "block3.prelu/prelu"),
        ("block3.conv2/conv", "block3/add"),
        ("block4.0/conv", "block4.1/prelu"),
        ("block4.1/prelu", "/add"),
        ("block5.0.pixel_shuffle/pixel_shuffle", "block5.0.prelu/prelu"),
        ("block5.1.pixel_shuffle/pixel_shuffle", "block5.1.prelu/prelu"),
        ("block5.2/conv", "/tanh"),
    ]
    weights = {(site.name, site.consumers[0].consumer): 4 for site in made.weights}
    assert read == dict.fromkeys(inputs, 4) | dict.fromkeys(outputs, 8) | weights


@pytest.mark.parametrize("kind", ["srgan", "edsr"])
def test_only_inputs_are_rounded_with_float_skips(kind: str) -> None:
    made = plan(kind, "paper-w4a4-fqsr-s32")
    assert {edge.consumer for edge in made.by_edge} == set(made.convs)


def test_rounding_before_or_behind_relu_is_one() -> None:
    """Compare ReLU(Q(z)), signed, with Q(ReLU(z)), unsigned, at equal intervals."""
    values = 3 * torch.randn(4096, generator=torch.Generator().manual_seed(0))
    signed = IntGrid(5, signed=True, symmetric=True, narrow_range=True)
    before, behind = FqsrFakeQuantize("before", signed), FqsrFakeQuantize("behind", IntGrid(4, symmetric=True))
    before.set_bounds(Bounds.of(-2.5, 2.5))
    behind.set_bounds(Bounds.of(0.0, 2.5))
    for quantizer in (before, behind):
        quantizer.set_mode(Mode.QUANTIZE)
    assert torch.allclose(before(values).relu(), behind(values.relu()), atol=1e-6)
    assert not torch.allclose(before(values).relu(), values.relu(), atol=1e-2)


@pytest.mark.parametrize(
    ("recipe", "overrides", "bits"),
    [
        ("paper-w8a8-fqsr-s8", (), 9),
        ("paper-w4a4-fqsr-s8", (), 9),
        ("paper-w6a6-fqsr-s6", (), 7),
        ("paper-w4a4-fqsr-s8", ("skips.bits=4",), 5),
        ("paper-w4a4-fqsr-s32", (), 32),
    ],
)
def test_peak_memory_has_the_bits_of_outputs(recipe: str, overrides: tuple[str, ...], bits: int) -> None:
    rules = BoundRecipe.resolve(recipe, Registry()).rules
    memory = Costs.of(network("srgan"), SIZE, rules).memory
    assert memory.peak(plan("srgan", recipe, *overrides)).bytes == memory.peak().bytes * bits // 32


@pytest.mark.parametrize(("scale", "megabytes"), [(2, 5842.287), (4, 1460.580)])
def test_bam_keeps_33_maps(scale: int, megabytes: float) -> None:
    size = (1, 3, 2 * 678 // scale, 2 * 1020 // scale)
    costs = Costs.of(Network(graph_of(export_network(SRGANGenerator(2, 64, 1)))), size)
    assert fqsr_memory(costs, maps=33) == pytest.approx(megabytes * 1e6, rel=1e-4)
