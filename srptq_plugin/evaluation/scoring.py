"""PSNR and SSIM on the Y channel of any network, as means over pairs of images."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from srptq_plugin.data.images import to_pixels, to_tensor
from srptq_plugin.data.metrics import psnr_y, ssim_y
from srptq_plugin.evaluation.pairs import Pair

Upscale = Callable[[Tensor], Tensor]


def mean_scores(
    network: Upscale, pairs: Sequence[Pair], scale: int, input_range: tuple[float, float], channels: int = 3
) -> tuple[float, float]:
    """Return the mean PSNR and SSIM of a network that enlarges [1, channels, H, W] by `scale`."""
    with torch.no_grad():
        rows = [
            scores(network(to_tensor(pair.low.pixels[None], input_range, channels)), pair, scale, input_range)
            for pair in pairs
        ]
    psnr, ssim = np.mean(rows, axis=0)
    return float(psnr), float(ssim)


def scores(output: Tensor, pair: Pair, scale: int, input_range: tuple[float, float]) -> tuple[float, float]:
    """Return PSNR and SSIM of a network's output, [1, channels, H, W], for the smaller image of a pair."""
    pixels = to_pixels(output[0], input_range)
    return psnr_y(pixels, pair.high.pixels, scale), ssim_y(pixels, pair.high.pixels, scale)
