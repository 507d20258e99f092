"""PSNR and SSIM on Y of any network, as means over pairs of images."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from srptq_plugin.data.images import to_pixels, to_tensor
from srptq_plugin.data.metrics import psnr_y, ssim_y
from srptq_plugin.evaluation.pairs import Pair

Upscale = Callable[[Tensor], Tensor]


def mean_scores(
    network: Upscale, pairs: Sequence[Pair], scale: int, input_range: tuple[float, float]
) -> tuple[float, float]:
    """Of a network from [1, 3, H, W] to [1, 3, scale H, scale W]."""
    how = scale, input_range
    with torch.no_grad():
        found = [scores(network(to_tensor(each.low.pixels[None], input_range)), each, *how) for each in pairs]
    psnr, ssim = np.mean(found, axis=0)
    return float(psnr), float(ssim)


def scores(output: Tensor, pair: Pair, scale: int, input_range: tuple[float, float]) -> tuple[float, float]:
    """Of what a network gave for the smaller image of a pair, [1, 3, H, W]."""
    drawn = to_pixels(output[0], input_range)
    return psnr_y(drawn, pair.high.pixels, scale), ssim_y(drawn, pair.high.pixels, scale)
