"""Batch norms and mean shifts, folded into the convolutions before them."""

import copy
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from srptq_plugin.graph.network import Network, tensor_arguments

BATCH_NORMS = frozenset({"batch_norm", "_native_batch_norm_legit_no_training"})


def fold(module: nn.Module, program: ExportedProgram) -> nn.Module | None:
    """Return a copy with batch norms and mean shifts folded into the convolutions before them, or None without any.

    Args:
        module: The network.
        program: Its trace, from which the pairs are known.

    >>> network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    >>> fold(network, torch.export.export(network, (torch.zeros(1, 3, 8, 8),)))[1]
    Identity()
    """
    pairs = list(_pairs(Network(program.module())))
    if not pairs:
        return None
    simpler = copy.deepcopy(module)
    for conv_path, after_path in pairs:
        conv, after = simpler.get_submodule(conv_path), simpler.get_submodule(after_path)
        if isinstance(conv, nn.Conv2d) and isinstance(after, nn.BatchNorm2d | nn.Conv2d):
            _fold_into(conv, *(_diagonal(after) if isinstance(after, nn.Conv2d) else _affine(after)))
            parent, _, name = after_path.rpartition(".")
            setattr(simpler.get_submodule(parent), name, nn.Identity())
    return simpler


def fold_mean_shifts(module: fx.GraphModule) -> fx.GraphModule:
    """Fold mean shifts into the convolutions before them, in place, in a traced graph that a toolkit will prepare.

    The graph gets new parameters of the same names. The network that it was traced from stays as it is.
    """
    network = Network(module)
    readers = Counter(str(node.target) for node in module.graph.nodes if node.op == "get_attr")
    for shift in [node for node, op in network.ops.items() if op == "conv" and network.is_mean_shift(node)]:
        conv = tensor_arguments(shift)[0]
        if network.ops.get(conv) == "conv" and len(conv.users) == 1:
            weight = network.parameter(conv, 1)
            if weight is not None and readers[weight[0]] == 1:
                _fold_node(network, conv, shift)
    module.recompile()
    return module


def _fold_node(network: Network, conv: fx.Node, shift: fx.Node) -> None:
    weight, bias = network.parameter(conv, 1), network.parameter(conv, 2)
    scale, offset = network.parameter(shift, 1), network.parameter(shift, 2)
    if weight is None or scale is None:
        return
    name, values = weight
    path, _, leaf = name.rpartition(".")
    owner, diagonal = network.module.get_submodule(path), scale[1][..., 0, 0].diagonal()
    biases = (torch.zeros_like(diagonal) if bias is None else bias[1]) * diagonal
    setattr(owner, leaf, nn.Parameter(values * diagonal[:, None, None, None]))
    leaf = "bias" if bias is None else bias[0].rpartition(".")[2]
    setattr(owner, leaf, nn.Parameter(biases if offset is None else biases + offset[1]))
    if bias is None:
        with network.module.graph.inserting_before(conv):
            conv.update_arg(2, network.module.graph.get_attr(f"{path}.bias" if path else "bias"))
    shift.replace_all_uses_with(conv)
    network.module.graph.erase_node(shift)


def _pairs(network: Network) -> Iterator[tuple[str, str]]:
    """Yield the module paths of a convolution and of the norm or shift that alone follows it.

    Modules that are called more than once are left out.
    """
    paths = Counter(key.path for key in network.keys.values())
    for node, op in network.ops.items():
        if op in BATCH_NORMS or (op == "conv" and network.is_mean_shift(node)):
            before = tensor_arguments(node)[0]
            if network.ops.get(before) == "conv" and len(before.users) == 1:
                pair = network.keys[before].path, network.keys[node].path
                if paths[pair[0]] == paths[pair[1]] == 1:
                    yield pair


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift of each channel: gamma / sqrt(variance + eps), and beta - mean * scale."""
    zero = torch.zeros(norm.num_features)
    mean, variance = norm.running_mean, norm.running_var
    scale = ((zero + 1 if variance is None else variance) + norm.eps).rsqrt()
    scale = scale * norm.weight if norm.affine else scale
    return scale, (norm.bias if norm.affine else zero) - (zero if mean is None else mean) * scale


def _diagonal(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    scale = conv.weight[..., 0, 0].diagonal()
    return scale, torch.zeros_like(scale) if conv.bias is None else conv.bias


def _fold_into(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    # scale * (w * x + b) + shift: the scale belongs to output channels, the first axis of a weight.
    bias = torch.zeros_like(shift) if conv.bias is None else conv.bias
    learns = conv.weight.requires_grad
    conv.weight = nn.Parameter((conv.weight * scale[:, None, None, None]).detach(), requires_grad=learns)
    conv.bias = nn.Parameter((bias * scale + shift).detach(), requires_grad=learns)
