"""Channel equalization: factors with which rounding of weights and activations together moves the image least.

The weights that write a channel are divided by its factor, and the weights that read it are multiplied. This leaves
the float network as it is, and one scale for a tensor fits its channels better. The factors minimize the noise in the
image, to first order.
"""

import math

from torch import Tensor, nn

from srptq_plugin.calibration.equalization.channels import Channels
from srptq_plugin.calibration.equalization.rounding_noise import RoundingNoise, weight_classes
from srptq_plugin.graph.export import fold_and_trace, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe


def equalize_network(noise: RoundingNoise) -> float:
    """Scale the parameters of a network in place, and return by how many dB its rounding noise is expected to fall.

    The output of the float network stays the same, up to float32 rounding.
    """
    logs, falls = noise.least
    _scale(noise.network, noise.channels, logs.exp())
    return 10 * math.log10(falls)


def equalize(
    module: nn.Module,
    recipe: Recipe | str,
    images: Tensor,
    input_range: tuple[float, float] = (0.0, 1.0),
    registry: Registry | None = None,
) -> nn.Module:
    """Return a copy to prepare in any toolkit, with channels scaled for a recipe's grids and placement.

    Streams are not rotated, as `initialize` finds the factors of channels in the weights, and no rotation.
    Batch norms and mean shifts are folded into the convolutions before them.

    Args:
        module: The float network. It stays as it is.
        recipe: A recipe, or the name or file of one.
        images: Unlabeled images, [N, channels, H, W].
        input_range: The smallest and the largest value of an image.
        registry: The plugins. By default all installed ones.

    >>> import torch
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.PixelShuffle(2)).eval()
    >>> images = torch.rand(4, 3, 16, 16)
    >>> torch.allclose(equalize(network, "openvino-w8a8", images)(images), network(images), atol=1e-5)
    True
    """
    bound = BoundRecipe.resolve(recipe, registry or Registry())
    copied, program = fold_and_trace(module, channels=images.shape[1])
    network = Network(graph_of(program))
    plan, seed = bound.plan(network, input_range), bound.recipe.calibration.seed
    equalize_network(RoundingNoise(network, plan, images.cpu(), seed))
    copied.load_state_dict(program.state_dict, strict=False)
    return copied.to(next(module.parameters()).device)


def _scale(network: Network, channels: Channels, factors: Tensor) -> None:
    """Multiply weights by the factors of their inputs, and divide weights and biases by the factors of their outputs.

    In place, and once for a weight that several convolutions share.
    """
    done: set[str] = set()
    for conv in network.convs:
        weight, bias = network.parameter(conv, 1), network.parameter(conv, 2)
        if weight is not None and weight[0] not in done:
            outputs, inputs = weight_classes(network, channels, conv)
            factor = factors[inputs][:, None] / factors[outputs][..., None]  # [groups, outputs, inputs]
            weight[1].mul_(factor.flatten(0, 1)[..., None, None])
            if bias is not None:
                bias[1].div_(factors[outputs].flatten())
            done.add(weight[0])
