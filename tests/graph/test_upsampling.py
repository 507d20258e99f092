"""Which operations upsample a network, and which only resize within it."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.networks import conv
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.graph.stages import STAGES, Stages

ORDER = {stage: place for place, stage in enumerate(STAGES)}


def strided(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, 2, 1)


def deconv(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)


def restored(small: Tensor, large: Tensor) -> Tensor:
    return functional.interpolate(small, large.shape[2:], mode="nearest")


class Layers(nn.Module):
    """Named layers, and a function of the image and the layers that connects them."""

    def __init__(self, connect: Callable[[Tensor, Any], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.connect, self.layers = connect, nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.connect(x, self.layers)


def spatial_attention(x: Tensor, to: Any) -> Tensor:
    shallow = to.head(x)
    return torch.pixel_shuffle(to.grow(shallow * torch.sigmoid(to.back(restored(to.down(shallow), shallow)))), 2)


def pooled_attention(x: Tensor, to: Any) -> Tensor:
    shallow = to.head(x)
    attended = shallow * to.mix(restored(to.small(functional.max_pool2d(shallow, 2)), shallow))
    return to.up(functional.interpolate(attended, scale_factor=3.0, mode="bilinear"))


def attention_behind(x: Tensor, to: Any) -> Tensor:
    large = torch.pixel_shuffle(to.grow(to.head(x)), 2)
    small = functional.max_pool2d(to.down(large), 4)
    return to.tail(large * torch.sigmoid(restored(small, large)))


def transposed(x: Tensor, to: Any) -> Tensor:
    return to.tail(to.expand(to.shrink(to.head(x)).relu()).relu())


def progressive(x: Tensor, to: Any) -> Tensor:
    deep = functional.leaky_relu(to.up1(to.body(to.head(x))), 0.2)
    deeper = functional.leaky_relu(to.up2(to.mid(deep)), 0.2)
    return to.skip2(to.skip1(x) + to.image(deep)) + to.tail(deeper)


def hourglass(x: Tensor, to: Any) -> Tensor:
    shallow = to.head(x)
    return to.tail(shallow + to.up(to.deep(to.down(shallow))))


def shuffled_hourglass(x: Tensor, to: Any) -> Tensor:
    shallow = to.head(x)
    both = torch.cat([shallow, torch.pixel_shuffle(to.back(to.down(shallow)), 2)], 1)
    return torch.pixel_shuffle(to.grow(both), 2)


def unshuffled(x: Tensor, to: Any) -> Tensor:
    shallow = to.head(functional.pixel_unshuffle(x, 2))
    large = to.up1(functional.interpolate(shallow + to.body(shallow), scale_factor=2.0, mode="nearest"))
    return to.tail(to.up2(functional.interpolate(large, scale_factor=2.0, mode="nearest")))


def enlarged_body(x: Tensor, to: Any) -> Tensor:
    shallow = to.head(x)
    return to.tail(shallow + to.down(torch.pixel_shuffle(to.grow(shallow), 2)))


def refined_skip(x: Tensor, to: Any) -> Tensor:
    large = functional.interpolate(x, scale_factor=2.0, mode="bicubic")
    return to.tail(torch.pixel_shuffle(to.grow(to.head(x)), 2) + to.refine(to.skip(large)))


def enlarged_first(x: Tensor, to: Any) -> Tensor:
    shallow = to.head(functional.interpolate(x, scale_factor=2.0, mode="bicubic"))
    return to.tail(shallow + restored(to.deep(to.down(shallow)), shallow))


def two_readers(x: Tensor, to: Any) -> Tensor:
    first = to.early(to.head(x))
    return torch.pixel_shuffle(first, 2) + torch.pixel_shuffle(to.late(first), 2)


CASES: Mapping[str, tuple[Layers, str]] = {
    "attention that is interpolated back": (
        Layers(spatial_attention, head=conv(3, 6), down=strided(6, 4), back=conv(4, 6), grow=conv(6, 12)),
        "head: head; body: down back; tail: grow",
    ),
    "attention of pooled maps": (
        Layers(pooled_attention, head=conv(3, 6), small=conv(6, 6), mix=conv(6, 6), up=conv(6, 3)),
        "head: head; body: small mix; tail: up",
    ),
    "attention behind the upsampling": (
        Layers(attention_behind, head=conv(3, 6), grow=conv(6, 24), down=strided(6, 6), tail=conv(6, 3)),
        "head: head; upsample: grow down; tail: tail",
    ),
    "a transposed convolution at the end": (
        Layers(transposed, head=conv(3, 6), shrink=conv(6, 4), expand=conv(4, 6), tail=deconv(6, 3)),
        "head: head; body: shrink expand; tail: tail",
    ),
    "transposed convolutions step by step": (
        Layers(
            progressive,
            head=conv(3, 6),
            body=conv(6, 6),
            mid=conv(6, 6),
            tail=conv(6, 3),
            image=conv(6, 3),
            up1=deconv(6, 6),
            up2=deconv(6, 6),
            skip1=deconv(3, 3),
            skip2=deconv(3, 3),
        ),
        "head: head skip1; body: body; upsample: up1 mid up2 image; tail: tail skip2",
    ),
    "an hourglass at scale 1": (
        Layers(hourglass, head=conv(3, 6), down=strided(6, 8), deep=conv(8, 8), up=deconv(8, 6), tail=conv(6, 3)),
        "head: head; body: down deep up; tail: tail",
    ),
    "an hourglass before the upsampling": (
        Layers(shuffled_hourglass, head=conv(3, 6), down=strided(6, 8), back=conv(8, 24), grow=conv(12, 12)),
        "head: head; body: down back; tail: grow",
    ),
    "an unshuffled image": (
        Layers(unshuffled, head=conv(12, 6), body=conv(6, 6), up1=conv(6, 6), up2=conv(6, 6), tail=conv(6, 3)),
        "head: head; body: body; upsample: up1 up2; tail: tail",
    ),
    "a body that enlarges and shrinks": (
        Layers(enlarged_body, head=conv(3, 6), grow=conv(6, 24), down=strided(6, 6), tail=conv(6, 3)),
        "head: head; body: grow down; tail: tail",
    ),
    "convolutions on the enlarged image": (
        Layers(refined_skip, skip=conv(3, 4), refine=conv(4, 6), head=conv(3, 6), grow=conv(6, 24), tail=conv(6, 3)),
        "head: head skip; body: refine; upsample: grow; tail: tail",
    ),
    "an image that is enlarged first": (
        Layers(enlarged_first, head=conv(3, 6), down=strided(6, 6), deep=conv(6, 6), tail=conv(6, 3)),
        "head: head; body: down deep; tail: tail",
    ),
    "a convolution that the body reads as well": (
        Layers(two_readers, head=conv(3, 6), early=conv(6, 12), late=conv(12, 12)),
        "head: head; body: early; tail: late",
    ),
}


def layers_by_stage(network: Network) -> dict[str, set[str]]:
    """Return the names of the convolutions, transposed ones included, by stage."""
    stages, paths = Stages(network), dict[str, set[str]]()
    for node, op in network.ops.items():
        if op in ("conv", "conv_transpose"):
            paths.setdefault(stages.of(node), set()).add(network.keys[node].path.removeprefix("layers."))
    return paths


def parsed(text: str) -> dict[str, set[str]]:
    pairs = (entry.split(": ") for entry in text.split("; "))
    return {stage: set(paths.split()) for stage, paths in pairs}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [None, (1, 3, 8, 12)], ids=["any size", "one size"])
def test_only_lasting_enlargement_is_upsampling(case: str, size: tuple[int, int, int, int] | None) -> None:
    module, expected = CASES[case]
    network = Network(graph_of(export_network(module.eval(), size, multiple=4)))
    assert layers_by_stage(network) == parsed(expected)
    stages = Stages(network)
    for node in network.varying - {network.input}:
        for _, source in network.edges_in(node) if network.ops[node] != "output" else ():
            assert ORDER[stages.of(source)] <= ORDER[stages.of(node)], network.name(node)


def test_attention_of_any_odd_size_is_body() -> None:
    network = Network(graph_of(export_network(networks.network("esa"), (1, 3, 33, 41))))
    assert layers_by_stage(network) == parsed("head: head; body: body reduce stride deep back; tail: grow")


def test_without_shapes_every_resize_is_upsampling() -> None:
    module, _ = CASES["attention that is interpolated back"]
    graph = graph_of(export_network(module.eval(), (1, 3, 8, 12)))
    for node in graph.graph.nodes:
        node.meta.pop("val", None)
    assert layers_by_stage(Network(graph)) == parsed("head: head; upsample: down back; tail: grow")
