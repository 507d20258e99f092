"""PSNR and SSIM on Y of any network, on a test set that is read once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srptq_plugin.images import to_pixels, to_tensor
from srptq_plugin.metrics import psnr_y, ssim_y
from srptq_plugin.pairs import load_pairs

Scores = tuple[float, float]
Upscale = Callable[[Tensor], Tensor]


def scorer(data: Path, scale: int, input_range: tuple[float, float]) -> Callable[[Upscale], Scores]:
    """What scores a network, [1, 3, H, W] to [1, 3, scale H, scale W], by the means over the set's images."""
    pairs = load_pairs(data, scale, strict=True).usable

    def score(network: Upscale) -> Scores:
        found: list[Scores] = []
        with torch.no_grad():
            for pair in pairs:
                output = to_pixels(network(to_tensor(pair.low.pixels[None], input_range))[0], input_range)
                found.append((psnr_y(output, pair.high.pixels, scale), ssim_y(output, pair.high.pixels, scale)))
        psnr, ssim = np.mean(found, axis=0)
        return float(psnr), float(ssim)

    return score
