"""Rotation of streams: the linear combinations of channels at which rounding moves the image least.

One scale has to fit all channels of a feature map, and every channel has the same number of levels. Where few channels
carry most of an image, and the others small details, other combinations use the levels better: features spread over
all channels have smaller ranges, and their rounding errors average out. Rotations of this kind are known from language
models (QuaRot, SpinQuant). Here the matrices minimize the noise in the image, to first order.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from srptq_plugin.calibration.equalization.noise import descend
from srptq_plugin.calibration.rotation.stream_noise import NoiseTerm, measure_noise
from srptq_plugin.calibration.rotation.streams import Streams
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.plan import Plan
from srptq_plugin.reconstruction.color_augmentation import recolor
from srptq_plugin.utils.devices import one_thread

STEPS, RATE = 100, 0.05
"""Adam's steps, and its rate at first."""


def rotate_streams(
    network: Network, plan: Plan, images: Tensor, input_range: tuple[float, float], seed: int
) -> tuple[dict[str, Tensor], float]:
    """Rotate the streams of a network in place. The float network computes the same, up to float32 rounding.

    Args:
        network: The network, whose parameters change.
        plan: The encodings whose noise is to fall.
        images: Calibration images.
        input_range: The smallest and the largest value of an image.
        seed: The seed of the measurement.

    Returns:
        The matrix of each stream, by the first convolution that writes it, and by how many dB the rounding noise is
        expected to fall. Without streams nothing changes.
    """
    streams = Streams(network)
    if not streams.sizes:
        return {}, 0.0
    # With the colors of few photographs alone, the ranges fit these too closely: rarer colors are clipped.
    terms = measure_noise(streams, plan, recolor(images, *input_range, seed), seed)
    matrices, fall = least_noise(terms, streams.sizes)
    streams.rotate(matrices)
    return dict(zip(streams.names, matrices, strict=True)), 10 * math.log10(fall)


@one_thread()
def least_noise(terms: Sequence[NoiseTerm], sizes: Sequence[int]) -> tuple[list[Tensor], float]:
    """Return the matrices with the least noise, and the ratio by which it falls."""
    matrices = [torch.eye(size, dtype=torch.float64) for size in sizes]
    still = noise([term for term in terms if not term.streams], matrices)
    moving = [term for term in terms if term.streams]
    first = still + noise(moving, matrices)
    for matrix in matrices:
        matrix.requires_grad_()
    descend(matrices, lambda: still + noise(moving, matrices), STEPS, RATE)
    best = [matrix.detach() for matrix in matrices]
    return best, float(first / (still + noise(moving, best)))


def noise(terms: Sequence[NoiseTerm], matrices: Sequence[Tensor]) -> Tensor:
    """Return the squared error of the image by the rounding of all terms."""
    inverses = [torch.linalg.inv(matrix) for matrix in matrices]
    return sum((term.noise(matrices, inverses) for term in terms), torch.zeros((), dtype=torch.float64))
