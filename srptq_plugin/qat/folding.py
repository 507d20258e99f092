"""Batch norms and mean shifts that a prepared model keeps, and an exported network has folded into convolutions.

With W and b of the convolution, s and t of what follows: s * (W x + b) + t = (s W) x + (s b + t). For a batch norm
s = gamma / sqrt(variance + epsilon) and t = beta - mean * s.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from srptq_plugin.graph.batch_norms import BATCH_NORMS
from srptq_plugin.graph.network import QUANTIZER, Network, tensor_arguments

BETWEEN = frozenset({"add", "div", QUANTIZER})
"""Operations that toolkits put between a convolution and its batch norm or mean shift.

A toolkit that simulates a folded batch norm convolves with the scaled weight and divides the output by the scale again
(`div`), adds the bias (`add`), and only then calls the batch norm.
"""


@dataclass(frozen=True)
class Values:
    """The weight and the bias of a convolution."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Folded:
    """The batch norm or mean shift that follows a convolution: its output times `scale`, plus `shift`."""

    scale: Tensor
    shift: Tensor
    gamma: str = ""
    """The parameter behind the scale, if it may change. Only a batch norm has one."""
    beta: str = ""
    """The parameter behind the shift, if it may change."""
    fused: bool = False
    """Whether the quantizer of the weight sees the weight times the scale."""

    def fold(self, values: Values) -> Values:
        """Return the weight and bias that compute the convolution and what follows at once."""
        bias = self.shift if values.bias is None else values.bias * self.scale + self.shift
        return Values(values.weight * _by_output(self.scale), bias)


@dataclass(frozen=True)
class Convolution:
    """A convolution of a prepared model, by the names of its parameters."""

    weight: str
    bias: str
    """The name, also where the convolution has no such parameter."""
    folded: Folded | None

    def values(self, parameters: Mapping[str, Tensor]) -> Values:
        """Return the weight and bias, with what follows folded in."""
        values = Values(parameters[self.weight], parameters.get(self.bias))
        return values if self.folded is None else self.folded.fold(values)

    def scale(self, factor: Tensor) -> Tensor:
        """Return the scale that multiplies the output once `unfold` has divided the channels by a factor."""
        if self.folded is None:
            return torch.ones_like(factor)
        return self.folded.scale / factor if self.folded.gamma else self.folded.scale

    def unfold(self, values: Values, parameters: Mapping[str, Tensor], factor: Tensor) -> dict[str, Tensor]:
        """Return the parameters that give these values when folded.

        Args:
            values: the convolution as an exported network has it.
            parameters: the model's own.
            factor: the divisor of each output channel, relative to the model's own.
        """
        if self.folded is None:
            return {self.weight: values.weight} | ({} if values.bias is None else {self.bias: values.bias})
        folded, own, scale = self.folded, parameters.get(self.bias), self.scale(factor)
        changed = {self.weight: values.weight / _by_output(scale)}
        bias = torch.zeros_like(scale) if values.bias is None else values.bias
        if folded.gamma:
            # gamma takes the factor, not the weight: the batch norm's running statistics describe W x + b, which
            # therefore must not change. beta takes the rest: beta' = bias - s / factor * (b - mean).
            moved = folded.fold(Values(values.weight, own)).bias - parameters[folded.beta]  # pyright: ignore[reportOptionalOperand]
            return changed | {folded.gamma: parameters[folded.gamma] / factor, folded.beta: bias - moved / factor}
        if own is not None:
            return changed | {self.bias: (bias - folded.shift) / scale}
        # Without a bias of the convolution, the shift is the whole bias. A shift without a parameter stays.
        return changed | ({folded.beta: bias} if folded.beta else {})


def convolutions(
    network: Network, parameters: Mapping[str, Tensor], unfolded: Collection[str]
) -> Iterator[Convolution]:
    """Yield the convolutions of a prepared model, each with the batch norm or mean shift that only it feeds.

    Transposed ones are among them.

    Args:
        network: the prepared model.
        parameters: the parameters of its float network.
        unfolded: the names of parameters that an exported network still has. All others are folded.
    """
    for conv, op in network.ops.items():
        if op == "conv" and not _is_folded(network, conv, unfolded):
            weight = weight_name(network, conv)
            yield Convolution(weight, _bias_name(network, conv), _after(network, conv, parameters, unfolded))
        if op == "conv_transpose" and (weight := weight_name(network, conv)):
            yield Convolution(weight, _bias_name(network, conv), None)  # an export folds nothing into it


def weight_name(network: Network, conv: fx.Node) -> str:
    """Return the name of a convolution's weight, through a quantizer and the scale of a batch norm.

    The name is empty if the weight depends on the image or on no parameter.
    """
    if conv.op == "call_module":
        return f"{conv.target}.weight"
    node = tensor_arguments(conv)[1]
    # The weight is always the first operand, on the way through its quantizer and its multiplication by the scale.
    while node.op != "get_attr":
        arguments = tensor_arguments(node)
        if not arguments or node in network.varying:
            return ""
        node = arguments[0]
    return str(node.target)


def _bias_name(network: Network, conv: fx.Node) -> str:
    """Return the name of the convolution's bias. A toolkit may add the bias in a later operation."""
    has_bias = len(tensor_arguments(conv)) > 2 or conv.op == "call_module"  # noqa: PLR2004
    bias = network.parameter(conv, 2) if has_bias else None
    return bias[0] if bias else f"{weight_name(network, conv).rpartition('.')[0]}.bias"


def _is_folded(network: Network, conv: fx.Node, unfolded: Collection[str]) -> bool:
    return network.is_mean_shift(conv) and weight_name(network, conv) not in unfolded


def _after(
    network: Network, conv: fx.Node, parameters: Mapping[str, Tensor], unfolded: Collection[str]
) -> Folded | None:
    if conv.op == "call_module" and (inner := _inner_norm(network.module.get_submodule(str(conv.target)))):
        name, norm = inner
        return _norm(network, f"{conv.target}.{name}.", norm.eps, parameters, fused=True)
    # A weight that is no parameter, but computed from one, is the weight times the scale of the batch norm.
    fused = conv.op != "call_module" and network.parameter(conv, 1) is None
    for node in _only_readers(network, conv):
        if network.ops[node] in BATCH_NORMS:
            return _norm(network, *_norm_of(network, node), parameters, fused=fused)
        if network.ops[node] == "conv" and _is_folded(network, node, unfolded):
            return _mean_shift(network, node, parameters)
    return None


def _inner_norm(layer: nn.Module) -> tuple[str, _BatchNorm] | None:
    """Return the batch norm that a layer applies to its own output, by the name of the child."""
    return next(((name, child) for name, child in layer.named_children() if isinstance(child, _BatchNorm)), None)


def _only_readers(network: Network, node: fx.Node) -> Iterator[fx.Node]:
    """Yield the chain of only readers of a node, up to the first operation that is not in `BETWEEN`."""
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
    # The 1x1 kernel of a mean shift is diagonal: one factor for each color.
    scale, bias = parameters[weight_name(network, conv)][..., 0, 0].diagonal(), _bias_name(network, conv)
    return Folded(scale, parameters.get(bias, torch.zeros_like(scale)), beta=bias if bias in parameters else "")


def _norm_of(network: Network, node: fx.Node) -> tuple[str, float]:
    """Return the prefix of a batch norm's parameters, and its epsilon."""
    if node.op == "call_module":
        return f"{node.target}.", network.module.get_submodule(str(node.target)).eps  # pyright: ignore[reportReturnType]
    # All overloads end in (momentum, epsilon), some with a flag behind: epsilon is the last float.
    epsilon = next(value for value in reversed(node.args) if isinstance(value, float))
    return str(tensor_arguments(node)[1].target).removesuffix("weight"), epsilon


def _by_output(scale: Tensor) -> Tensor:
    return scale.view(-1, 1, 1, 1)
