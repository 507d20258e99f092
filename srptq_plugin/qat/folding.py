"""Batch norms and mean shifts that a prepared model still has, where an exported network has them folded."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from srptq_plugin.graph.export import BATCH_NORMS
from srptq_plugin.graph.network import QUANTIZER, Network, tensor_arguments

BETWEEN = frozenset({"add", "div", QUANTIZER})
"""Operations that toolkits put between a convolution and its batch norm or mean shift."""


@dataclass(frozen=True)
class Values:
    """The weight and the bias of a convolution."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Folded:
    """What follows a convolution: its output times `scale`, plus `shift`.

    `gamma` and `beta` name the parameters behind the scale and the shift, if they may change. Only a batch norm has
    a gamma. `fused` tells that the quantizer of the weight sees the weight times the scale.
    """

    scale: Tensor
    shift: Tensor
    gamma: str = ""
    beta: str = ""
    fused: bool = False

    def fold(self, values: Values) -> Values:
        """Return the convolution with this folded into it."""
        bias = self.shift if values.bias is None else values.bias * self.scale + self.shift
        return Values(values.weight * _by_output(self.scale), bias)


@dataclass(frozen=True)
class Convolution:
    """A convolution of a prepared model, by the names of its parameters."""

    weight: str
    bias: str
    folded: Folded | None

    def values(self, parameters: Mapping[str, Tensor]) -> Values:
        """Return its weight and bias, with what follows folded in."""
        values = Values(parameters[self.weight], parameters.get(self.bias))
        return values if self.folded is None else self.folded.fold(values)

    def scale(self, factor: Tensor) -> Tensor:
        """Return by what the output is multiplied, once `unfold` has divided the channels by a factor."""
        if self.folded is None:
            return torch.ones_like(factor)
        return self.folded.scale / factor if self.folded.gamma else self.folded.scale

    def unfold(self, values: Values, parameters: Mapping[str, Tensor], factor: Tensor) -> dict[str, Tensor]:
        """Return the parameters that give these values when folded.

        Args:
            values: the convolution as an exported network has it.
            parameters: the model's own.
            factor: by what the output channels are divided, compared with the model's own. A batch norm divides by
                it in its gamma, so the statistics that it has of the convolution's output stay right.
        """
        if self.folded is None:
            return {self.weight: values.weight} | ({} if values.bias is None else {self.bias: values.bias})
        folded, own, scale = self.folded, parameters.get(self.bias), self.scale(factor)
        changed = {self.weight: values.weight / _by_output(scale)}
        bias = torch.zeros_like(scale) if values.bias is None else values.bias
        if folded.gamma:
            moved = folded.fold(Values(values.weight, own)).bias - parameters[folded.beta]  # pyright: ignore[reportOptionalOperand]
            return changed | {folded.gamma: parameters[folded.gamma] / factor, folded.beta: bias - moved / factor}
        if own is not None:
            return changed | {self.bias: (bias - folded.shift) / scale}
        return changed | ({folded.beta: bias} if folded.beta else {})


def convolutions(network: Network, parameters: Mapping[str, Tensor], kept: Collection[str]) -> Iterator[Convolution]:
    """Find the convolutions of a prepared model, with what follows them alone.

    Args:
        network: the model.
        parameters: the float network's.
        kept: the names of parameters that an exported network still has. All else is folded.
    """
    for conv, op in network.ops.items():
        if op == "conv" and not _is_folded(network, conv, kept):
            weight = weight_name(network, conv)
            yield Convolution(weight, _bias_name(network, conv), _after(network, conv, parameters, kept))


def weight_name(network: Network, conv: fx.Node) -> str:
    """Return the name of a convolution's weight, through a quantizer and the scale of a batch norm.

    Empty where the weight is computed from something else than one parameter.
    """
    if conv.op == "call_module":
        return f"{conv.target}.weight"
    node = tensor_arguments(conv)[1]
    while node.op != "get_attr":
        arguments = tensor_arguments(node)
        if not arguments or node in network.varying:
            return ""
        node = arguments[0]
    return str(node.target)


def _bias_name(network: Network, conv: fx.Node) -> str:
    """The name of its bias, also where a toolkit adds it later."""
    found = network.parameter(conv, 2) if len(tensor_arguments(conv)) > 2 or conv.op == "call_module" else None  # noqa: PLR2004
    return found[0] if found else f"{weight_name(network, conv).rpartition('.')[0]}.bias"


def _is_folded(network: Network, conv: fx.Node, kept: Collection[str]) -> bool:
    return network.is_mean_shift(conv) and weight_name(network, conv) not in kept


def _after(network: Network, conv: fx.Node, parameters: Mapping[str, Tensor], kept: Collection[str]) -> Folded | None:
    if conv.op == "call_module" and (norm := getattr(network.module.get_submodule(str(conv.target)), "bn", None)):
        return _norm(network, f"{conv.target}.bn.", norm.eps, parameters, fused=True)
    fused = conv.op != "call_module" and network.parameter(conv, 1) is None
    for node in _only_readers(network, conv):
        if network.ops[node] in BATCH_NORMS:
            return _norm(network, *_norm_of(network, node), parameters, fused=fused)
        if network.ops[node] == "conv" and _is_folded(network, node, kept):
            return _mean_shift(network, node, parameters)
    return None


def _only_readers(network: Network, node: fx.Node) -> Iterator[fx.Node]:
    """Go on from a node as long as one other reads it, up to the first that is not `BETWEEN`."""
    while len(readers := [user for user in node.users if user in network.ops]) == 1:
        node = readers[0]
        yield node
        if network.ops[node] not in BETWEEN:
            return


def _norm(network: Network, path: str, epsilon: float, parameters: Mapping[str, Tensor], *, fused: bool) -> Folded:
    mean, variance = (network.module.get_buffer(f"{path}running_{name}").cpu() for name in ("mean", "var"))
    scale = parameters[f"{path}weight"] * (variance + epsilon).rsqrt()
    return Folded(scale, parameters[f"{path}bias"] - mean * scale, f"{path}weight", f"{path}bias", fused)


def _mean_shift(network: Network, conv: fx.Node, parameters: Mapping[str, Tensor]) -> Folded:
    scale, bias = parameters[weight_name(network, conv)][..., 0, 0].diagonal(), _bias_name(network, conv)
    return Folded(scale, parameters.get(bias, torch.zeros_like(scale)), beta=bias if bias in parameters else "")


def _norm_of(network: Network, node: fx.Node) -> tuple[str, float]:
    """The path of a batch norm's parameters, and what it adds to the variance."""
    if node.op == "call_module":
        return f"{node.target}.", network.module.get_submodule(str(node.target)).eps  # pyright: ignore[reportReturnType]
    epsilon = next(value for value in reversed(node.args) if isinstance(value, float))
    return str(tensor_arguments(node)[1].target).removesuffix("weight"), epsilon


def _by_output(scale: Tensor) -> Tensor:
    return scale.view(-1, 1, 1, 1)
