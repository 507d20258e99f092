"""The factors by which channels of a network were scaled, recovered from its weights before and after."""

from collections.abc import Mapping

import torch
from torch import Tensor

from srptq_plugin.calibration.equalization.channels import FIXED, Channels
from srptq_plugin.calibration.equalization.equalize import weight_classes
from srptq_plugin.graph.network import Network


def output_scales(network: Network, before: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Compare the weights of a scaled network with those before, from the image to the output.

    Args:
        network: The scaled network.
        before: The weights before scaling, by name.

    Returns:
        By the name of each weight, the factors that it was multiplied by and the divisors of its output channels.
        If no factors explain a weight, the old weight times its factors still differs from the scaled one.
    """
    channels = Channels(network)
    factors = torch.ones(channels.count, dtype=torch.float64)
    known = torch.zeros(channels.count, dtype=torch.bool)
    known[FIXED] = True
    scales: dict[str, tuple[Tensor, Tensor]] = {}
    for conv in network.convs:
        parameter = network.parameter(conv, 1)
        if parameter is None or parameter[0] in scales:
            continue
        name, after = parameter
        outputs, inputs = weight_classes(network, channels, conv)
        # ratio = s_in / s_out. In the order of the dataflow s_in is known already, from the image's factor of 1 on.
        ratios = _largest_magnitudes(after, outputs, inputs) / _largest_magnitudes(before[name], outputs, inputs)
        # Every input of an output channel gives an estimate. The median ignores weights that are all zero (NaN) and
        # the rounding of single ones.
        factor = (factors[inputs][:, None] / ratios).nanmedian(2).values
        new = ~known[outputs] & factor.isfinite() & (factor > 0)
        factors[outputs[new]] = factor[new]
        known[outputs] = True
        whole = (factors[inputs][:, None] / factors[outputs][..., None]).flatten(0, 1)[..., None, None]
        scales[name] = whole.float(), factors[outputs].flatten().float()
    return scales


def _largest_magnitudes(weight: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
    """Return the largest magnitude for each pair of an output and an input channel, or NaN if all weights are zero.

    The result is [groups, outputs, inputs].
    """
    sizes = weight.detach().abs().flatten(2).amax(2).double().cpu().view(*outputs.shape, inputs.shape[1])
    return sizes.where(sizes > 0, torch.nan)
