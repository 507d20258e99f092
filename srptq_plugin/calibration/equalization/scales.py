"""By which factors the channels of a network were scaled, recovered from its weights before and after."""

from collections.abc import Mapping

import torch
from torch import Tensor

from srptq_plugin.calibration.equalization.channels import FIXED, Channels
from srptq_plugin.calibration.equalization.equalize import weight_classes
from srptq_plugin.graph.network import Network


def output_scales(network: Network, before: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Compare the weights of a scaled network with those before, from the image to the output.

    Returns:
        By the name of each weight: what it was multiplied by, and by what its output channels were divided.
        Where no factors explain a weight, the weight times the first still differs from the scaled one.
    """
    channels = Channels(network)
    factors = torch.ones(channels.count, dtype=torch.float64)
    known = torch.zeros(channels.count, dtype=torch.bool)
    known[FIXED] = True
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for conv in network.convs:
        parameter = network.parameter(conv, 1)
        if parameter is None or parameter[0] in found:
            continue
        name, after = parameter
        outputs, inputs = weight_classes(network, channels, conv)
        ratios = _sizes(after, outputs, inputs) / _sizes(before[name], outputs, inputs)
        factor = (factors[inputs][:, None] / ratios).nanmedian(2).values
        new = ~known[outputs] & factor.isfinite() & (factor > 0)
        factors[outputs[new]] = factor[new]
        known[outputs] = True
        whole = (factors[inputs][:, None] / factors[outputs][..., None]).flatten(0, 1)[..., None, None]
        found[name] = whole.float(), factors[outputs].flatten().float()
    return found


def _sizes(weight: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
    """The largest magnitude at each pair of an output and an input channel, by group. NaN where all are zero."""
    sizes = weight.detach().abs().flatten(2).amax(2).double().cpu().view(*outputs.shape, inputs.shape[1])
    return sizes.where(sizes > 0, torch.nan)
