"""PSNR and SSIM on Y against high-resolution images: float, simulated, in the runtime, and bicubic."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srptq_plugin.contracts import Progress, quiet
from srptq_plugin.errors import SrptqError
from srptq_plugin.images import (
    Image,
    downscale,
    list_images,
    load_images,
    read_image,
    to_pixels,
    to_tensor,
    upscale,
)
from srptq_plugin.metrics import psnr_y, ssim_y
from srptq_plugin.run import Forward, Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A low-resolution image and the one that it was made from."""

    low: Image
    high: Image


def evaluate(run: Run, data: Path, scale: int | None = None, progress: Progress = quiet) -> list[dict[str, Any]]:
    """A row an output; `data` holds `HR` and `LR_x4` folders, or high-resolution images to make smaller."""
    if scale is not None and scale != run.scale:
        raise SrptqError(f"--scale {scale}: the network of {run.folder} upscales by {run.scale}")
    pairs = load_pairs(Path(data), run.scale)
    rows: list[dict[str, Any]] = []
    outputs = _outputs(run)
    total = len(outputs) * len(pairs)
    for n, (name, forward) in enumerate(outputs):
        scores: list[tuple[float, float]] = []
        for m, pair in enumerate(pairs):
            progress(f"evaluating {name}", n * len(pairs) + m, total)
            scores.append(_score(run, forward, pair))
        psnr, ssim = (float(np.mean(column)) for column in zip(*scores, strict=True))
        rows.append({"data": Path(data).name, "output": name, "psnr": psnr, "ssim": ssim, "images": len(pairs)})
    progress("evaluating", total, total)
    return rows


def load_pairs(data: Path, scale: int) -> list[Pair]:
    """Test pairs from a folder laid out as `HR_x4` or `HR`, and `LR_x4`; or from photographs, cropped to the scale."""
    low = data / f"LR_x{scale}"
    if not low.is_dir():
        return list(_made_smaller(data / "HR" if (data / "HR").is_dir() else data, scale))
    high = data / f"HR_x{scale}"
    return list(_matched(load_images(low), high if high.is_dir() else data / "HR", scale))


def _made_smaller(folder: Path, scale: int) -> Iterator[Pair]:
    for path in list_images(folder):
        pixels = read_image(path)
        height, width = (side - side % scale for side in pixels.shape[:2])
        high = Image(path.name, pixels[:height, :width])
        yield Pair(Image(path.name, downscale(high.pixels, scale)), high)


def _matched(lows: Sequence[Image], folder: Path, scale: int) -> Iterator[Pair]:
    highs = {image.name: image for image in load_images(folder)}
    for low in lows:
        if low.name not in highs:
            raise SrptqError(f"{folder}: no {low.name}, which the low-resolution folder has; name both alike")
        high = highs[low.name]
        if high.pixels.shape[:2] != tuple(scale * side for side in low.pixels.shape[:2]):
            raise SrptqError(f"{folder / high.name}: {high.pixels.shape[:2]} is not {scale} x {low.pixels.shape[:2]}")
        yield Pair(low, high)


def _outputs(run: Run) -> list[tuple[str, Forward | None]]:
    """What is compared; the runtime only where there is one, and it takes any size."""
    outputs: list[tuple[str, Forward | None]] = [("float", run.float()), ("simulated", run.simulation())]
    if run.artefacts:
        try:
            outputs.append(("runtime", _runtime(run)))
        except SrptqError as error:
            logger.warning("the runtime is left out: %s", error)
    return [*outputs, ("bicubic", None)]


def _runtime(run: Run) -> Forward:
    if run.size:
        raise SrptqError(f"the file takes images of {run.size[0]} x {run.size[1]} only")
    return run.target.load(run.artefacts[0])


def _score(run: Run, forward: Forward | None, pair: Pair) -> tuple[float, float]:
    if forward is None:
        pixels = upscale(pair.low.pixels, run.scale)
    else:
        image = to_tensor(pair.low.pixels[None], run.input_range).numpy()
        pixels = to_pixels(torch.from_numpy(forward(image)[0]), run.input_range)
    return psnr_y(pixels, pair.high.pixels, run.scale), ssim_y(pixels, pair.high.pixels, run.scale)
