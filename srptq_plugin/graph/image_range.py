"""The exact range of the image after moves, scales and shifts, such as the mean shift at the head of EDSR."""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx

from srptq_plugin.graph.network import ELEMENTWISE, MOVEMENT, Network

CORNER = 64
"""The side of an image of one color, where the graph does not say which sides it was traced with."""


def compute_image_range(network: Network, node: fx.Node, image: tuple[float, float]) -> tuple[float, float] | None:
    """Return the exact range of a tensor that is the image, moved, scaled or shifted. None for any other tensor.

    Args:
        network: The network that the node belongs to.
        node: The tensor.
        image: The range of the input.
    """
    if not _is_image(network, node):
        return None
    batch, colors, *sides = network.input.meta["val"].shape
    device = next((parameter.device for parameter in network.module.parameters()), None)
    # A function that is affine in each color has its extremes at the corners of the cube of colors.
    # One even image for each corner is therefore enough, and exact. Padding with zeros is seen as well.
    corners = torch.tensor(list(product(image, repeat=int(colors))), dtype=torch.float32, device=device)
    height, width = (side if isinstance(side, int) else side.node.hint or CORNER for side in sides)
    corners = corners[:, :, None, None].expand(-1, -1, height, width).contiguous()
    parts = corners.split(batch) if isinstance(batch, int) else [corners]
    ends = [values.aminmax() for values in (_evaluate(network, node, part) for part in parts)]
    return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


def _is_image(network: Network, node: fx.Node) -> bool:
    if node is network.input or node not in network.varying:
        return True
    op = network.ops[node]
    shift = op == "conv" and network.is_mean_shift(node)
    allowed = shift or op in ELEMENTWISE or (op in MOVEMENT and op != "max_pool") or op == "to"
    return allowed and all(_is_image(network, source) for _, source in network.edges_in(node))


def _evaluate(network: Network, node: fx.Node, image: Tensor) -> Any:
    """Run only the few nodes between the image and a tensor, and return its value."""
    known: dict[fx.Node, Any] = {network.input: image}

    def value(of: fx.Node) -> Any:
        if of not in known:
            known[of] = _run(network.module, of, value)
        return known[of]

    return value(node)


def _run(module: fx.GraphModule, node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
    if node.op == "get_attr":
        owner, _, leaf = str(node.target).rpartition(".")
        return getattr(module.get_submodule(owner), leaf).detach()
    function: Any = node.target
    return function(*fx.map_arg(node.args, value), **fx.map_arg(node.kwargs, value))
