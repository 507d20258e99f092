"""PSNR and SSIM on the Y channel against high-resolution images: of float, simulation, runtime and bicubic."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from srptq_plugin.data.images import fitted, to_pixels, to_tensor, upscale
from srptq_plugin.data.metrics import psnr_y, ssim_y
from srptq_plugin.data.resize import Pixels
from srptq_plugin.errors import ArgumentError, SrptqError
from srptq_plugin.evaluation.ensemble import ensembled
from srptq_plugin.evaluation.pairs import Pair, load_pairs
from srptq_plugin.evaluation.scores import Evaluation, Score, Tiles
from srptq_plugin.evaluation.seams import Seam, compare
from srptq_plugin.evaluation.tiling import Tiling, choose_tiling, tiled
from srptq_plugin.graph.types import Array
from srptq_plugin.runs.run import SUMMARY, Forward, Run
from srptq_plugin.utils.devices import device_of
from srptq_plugin.utils.progress import Progress, quiet

logger = logging.getLogger(__name__)


def evaluate(
    run: Run,
    data: Path,
    scale: int | None = None,
    progress: Progress = quiet,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    ensemble: bool = False,
    strict: bool = False,
    device: str = "auto",
) -> Evaluation:
    """Score every output of a run.

    Args:
        data: A folder with `HR` and `LR_x4` folders, or with high-resolution images, which are downscaled.
        scale: The scale that the caller expects. Any other than the network's is refused.
        tile: The side of tiles in low-resolution pixels. A run whose file takes one size only runs in tiles of it.
        overlap: The low-resolution pixels that a tile reads beyond the part it contributes, on each side.
        ensemble: Average over the eight rotations and flips of each image.
        strict: Raise an error for an image that cannot be scored, instead of leaving it out.
        device: The device for torch. Runtimes choose their own.
    """
    if scale is not None and scale != run.scale:
        raise ArgumentError("scale", f"the network of {run.folder} upscales by {run.scale}", scale)
    size = run.size if run.artifacts else None
    tiling = choose_tiling(size, tile, overlap)
    _check_tile(run, tile)
    if ensemble:
        _check_turns(run, size)
    pairs = load_pairs(Path(data), run.scale, strict=strict)
    networks = _networks(run, device_of(device))
    tiles = _tiles(run, networks["float"], tiling, pairs.usable) if tiling else None
    ways = {name: _wrapped(forward, tiling, run.scale, ensemble=ensemble) for name, forward in networks.items()}
    scores = list(_scores(run, ways, pairs.usable, progress))
    return Evaluation(Path(data).name, scores, pairs.skipped, ensemble, tiles)


def _check_tile(run: Run, tile: int | None) -> None:
    if tile is not None and tile % run.record.multiple:
        raise ArgumentError(
            "tile",
            f"the network of {run.folder} takes multiples of {run.record.multiple} only; "
            f"give {run.record.fitted(tile)}",
            tile,
        )


def _check_turns(run: Run, size: tuple[int, int] | None) -> None:
    if size is not None and size[0] != size[1]:
        raise ArgumentError(
            "ensemble",
            f"the file of {run.folder} takes images of {size[0]} x {size[1]} only, and turned ones do not fit; "
            "quantize with a square `input_size`, or without one",
        )


def _networks(run: Run, device: torch.device) -> dict[str, Forward]:
    """Return the networks to compare. Leave out the runtime if the run has none, or if it cannot be loaded."""
    networks = {"float": run.float(device), "simulated": run.simulation(device)}
    if run.artifacts:
        try:
            networks["runtime"] = run.target.load(run.artifacts[0])
        except SrptqError as error:
            logger.warning("the runtime is left out: %s", error)
    return networks


def _wrapped(forward: Forward, tiling: Tiling | None, scale: int, *, ensemble: bool) -> Forward:
    in_parts = tiled(forward, tiling, scale) if tiling else forward
    return ensembled(in_parts) if ensemble else in_parts


def _scores(run: Run, ways: Mapping[str, Forward], pairs: Sequence[Pair], progress: Progress) -> Iterator[Score]:
    names = [*ways, "bicubic"]
    total = len(names) * len(pairs)
    for n, name in enumerate(names):
        for m, pair in enumerate(pairs):
            progress(f"evaluating {name}", n * len(pairs) + m, total)
            pixels = _upscaled(run, ways.get(name), pair.low.pixels)
            psnr, ssim = (measure(pixels, pair.high.pixels, run.scale) for measure in (psnr_y, ssim_y))
            yield Score(pair.low.name, name, psnr, ssim)
    progress("evaluating", total, total)


def _upscaled(run: Run, forward: Forward | None, low: Pixels) -> Pixels:
    """Upscale an image by a network, or by bicubic interpolation if there is none."""
    if forward is None:
        return upscale(low, run.scale)
    image = _to_input(run, low)
    output = forward(image)
    if output.shape[2:] != tuple(run.scale * side for side in image.shape[2:]):
        raise SrptqError(
            f"{run.folder / SUMMARY}: says that the network upscales by {run.scale}, which gives no output of "
            f"{output.shape[2]}x{output.shape[3]} (height, width); run `srptq quantize` again"
        )
    height, width = (run.scale * side for side in low.shape[:2])
    return to_pixels(torch.from_numpy(output[0, :, :height, :width]), run.input_range)


def _to_input(run: Run, low: Pixels) -> Array:
    return to_tensor(fitted(low, run.record.multiple)[None], run.input_range, run.record.channels).numpy()


def _tiles(run: Run, forward: Forward, tiling: Tiling, pairs: Sequence[Pair]) -> Tiles:
    """Count the images that tiling affects, and measure its seam. Warn if the seam is visible."""
    split, padded = (sum(needed(*_size(pair)) for pair in pairs) for needed in (tiling.splits, tiling.pads))
    seam = _seam(run, forward, tiling, pairs)
    if seam and seam.visible:
        logger.warning(
            "tiles of %d x %d differ from the whole image by up to %.1f of 255 levels (%s, float); %s",
            *(tiling.height, tiling.width, seam.levels, seam.image),
            seam.cure(tiling),
        )
    return Tiles(tiling, split, padded, seam)


def _seam(run: Run, forward: Forward, tiling: Tiling, pairs: Sequence[Pair]) -> Seam | None:
    """Measure the seam on the smallest image that needs several tiles and no padding."""
    images = [pair.low for pair in pairs if tiling.splits(*_size(pair)) and not tiling.pads(*_size(pair))]
    if not images:
        return None
    image = min(images, key=lambda image: image.pixels.size)
    black, white = run.input_range
    return Seam(image.name, *compare(forward, tiling, _to_input(run, image.pixels), run.scale, white - black))


def _size(pair: Pair) -> tuple[int, int]:
    height, width, _ = pair.low.pixels.shape
    return height, width
