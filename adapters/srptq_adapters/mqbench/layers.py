"""Layers in the place of an exported graph's planned convolutions, as MQBench quantizes weights inside layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from srptq_plugin.graph.network import Network, drop_guards, tensor_arguments
from srptq_plugin.planning.plan import Plan, Site

INSIDE = "weight_fake_quant"
"""The attribute in which MQBench's quantized layers keep the quantizer of their weight."""
DEFAULTS: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}


def layer_sites(network: Network, plan: Plan) -> dict[str, Site]:
    """Return the weight sites that can become layers, by the layer's path: one convolution alone reads the weight."""
    return {site.name.removesuffix(".weight"): site for site in plan.sites if _is_layer(network, site)}


def _is_layer(network: Network, site: Site) -> bool:
    if site.role != "weight" or len(site.consumers) != 1 or not site.source.endswith(".weight"):
        return False
    conv, path = network.nodes[site.consumers[0].consumer], site.source.removesuffix(".weight")
    bias = network.parameter(conv, 2) if len(tensor_arguments(conv)) > 2 else None  # noqa: PLR2004
    owner = network.module.get_submodule(path)
    # The layer takes the place of the owner's module, which therefore must hold nothing but the weight and bias.
    plain = {name for name, _ in owner.named_parameters()} <= {"weight", "bias"} and not list(owner.children())
    return plain and conv.target is torch.ops.aten.conv2d.default and (bias is None or bias[0] == f"{path}.bias")


def with_layers(network: Network, sites: Mapping[str, Site]) -> fx.GraphModule:
    """Replace the convolutions of these sites by layers, in place."""
    module = network.module
    for path, site in sites.items():
        _call_layer(module, path, network.nodes[site.consumers[0].consumer])
    drop_guards(module.graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _call_layer(module: fx.GraphModule, path: str, conv: fx.Node) -> None:
    owner = module.get_submodule(path)
    parent, _, leaf = path.rpartition(".")
    image, settings = conv.args[0], conv.args[3:]
    setattr(module.get_submodule(parent), leaf, _layer(owner, settings))
    with module.graph.inserting_before(conv):
        call = module.graph.call_module(path, (image,))
    call.meta = dict(conv.meta)
    conv.replace_all_uses_with(call)
    module.graph.erase_node(conv)


def _layer(owner: nn.Module, arguments: Sequence[Any]) -> nn.Conv2d:
    weight, bias = owner.get_parameter("weight"), getattr(owner, "bias", None)
    settings: dict[str, Any] = DEFAULTS | dict(zip(DEFAULTS, arguments, strict=False))
    inputs, outputs, size = weight.shape[1] * settings["groups"], weight.shape[0], (weight.shape[2], weight.shape[3])
    # On the meta device no memory is spent on parameters that are replaced at once.
    layer = nn.Conv2d(inputs, outputs, size, **settings, bias=bias is not None, device="meta")
    layer.weight, layer.bias = weight, bias
    return layer
