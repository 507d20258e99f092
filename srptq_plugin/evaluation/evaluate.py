"""PSNR and SSIM on the Y channel against high-resolution images: of float, simulation, runtime and bicubic."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from srptq_plugin.data.images import Image
from srptq_plugin.data.metrics import psnr_y, ssim_y
from srptq_plugin.data.resize import Pixels
from srptq_plugin.errors import ArgumentError
from srptq_plugin.evaluation.outputs import FLOAT, RUNTIME, SIMULATED, Outputs, to_input
from srptq_plugin.evaluation.pairs import Pair, load_pairs
from srptq_plugin.evaluation.scores import Evaluation, Score, Tiles
from srptq_plugin.evaluation.seams import Seam, compare
from srptq_plugin.evaluation.tiling import Tiling, choose_tiling
from srptq_plugin.runs.run import Forward, Run
from srptq_plugin.utils.devices import device_of
from srptq_plugin.utils.distributed import collect, deal
from srptq_plugin.utils.progress import Progress, quiet

logger = logging.getLogger(__name__)
ORIGINAL = "original"
"""The name of the high-resolution image, next to the names of the outputs."""
Watch = Callable[[str, Mapping[str, Pixels]], None]
"""Takes the name of an image, and its outputs by name."""


def unwatched(_image: str, _outputs: Mapping[str, Pixels]) -> None:
    """Ignore the outputs."""


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
    watch: Watch = unwatched,
) -> Evaluation:
    """Score every output of a run. Several processes share the images, and all return the scores of all.

    Args:
        data: A folder with `HR` and `LR_x4` folders, or with high-resolution images, which are downscaled.
        scale: The scale that the caller expects. Any other than the network's is refused.
        tile: The side of tiles in low-resolution pixels. A run whose file takes one size only runs in tiles of it.
        overlap: The low-resolution pixels that a tile reads beyond the part it contributes, on each side.
        ensemble: Average over the eight rotations and flips of each image.
        strict: Raise an error for an image that cannot be scored, instead of leaving it out.
        device: The device for torch. Runtimes choose their own.
        watch: Called with each image's name, and with its outputs and its original.
    """
    if scale is not None and scale != run.scale:
        raise ArgumentError("scale", f"the network of {run.folder} upscales by {run.scale}", scale)
    size = run.size if run.artifacts else None
    tiling = choose_tiling(size, tile, overlap)
    _check_tile(run, tile)
    if ensemble:
        _check_turns(run, size)
    pairs = load_pairs(Path(data), run.scale, strict=strict)
    outputs = Outputs.of(run, device_of(device))
    tiles = _tiles(run, outputs.networks[FLOAT], tiling, pairs.usable) if tiling else None
    scores = _by_output(_scores(outputs.wrapped(tiling, ensemble=ensemble), pairs.usable, watch, progress))
    return Evaluation(Path(data).name, scores, pairs.skipped, ensemble, tiles)


def evaluate_against_float(
    run: Run, images: Sequence[Image], progress: Progress = quiet, *, device: str = "auto", watch: Watch = unwatched
) -> Evaluation:
    """Score the simulation and the runtime against the float network, on low-resolution images without originals."""
    outputs = Outputs.of(run, device_of(device))
    tiling = choose_tiling(run.size if run.artifacts else None, None, None)
    return Evaluation(
        FLOAT, _by_output(_float_scores(outputs.wrapped(tiling, ensemble=False), images, watch, progress))
    )


def _float_scores(outputs: Outputs, images: Sequence[Image], watch: Watch, progress: Progress) -> Iterator[Score]:
    for done, image in enumerate(images):
        progress("evaluating", done, len(images))
        pixels = outputs.of_image(image.pixels)
        for name in (name for name in (SIMULATED, RUNTIME) if name in pixels):
            yield _score(image.name, name, pixels[name], pixels[FLOAT], outputs.run.scale)
        watch(image.name, pixels)
    progress("evaluating", len(images), len(images))


def _by_output(scores: Iterable[Score]) -> list[Score]:
    """Sort scores by output, in the order of the first image."""
    listed = list(scores)
    order = {name: number for number, name in enumerate(dict.fromkeys(score.output for score in listed))}
    return sorted(listed, key=lambda score: order[score.output])


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


def _scores(outputs: Outputs, pairs: Sequence[Pair], watch: Watch, progress: Progress) -> list[Score]:
    own, scored = deal(pairs), list[list[Score]]()
    for done, pair in enumerate(own):
        progress("evaluating", done, len(own))
        pixels = outputs.of_image(pair.low.pixels)
        border = outputs.run.scale
        scored.append(
            [_score(pair.low.name, name, output, pair.high.pixels, border) for name, output in pixels.items()]
        )
        watch(pair.low.name, pixels | {ORIGINAL: pair.high.pixels})
    progress("evaluating", len(own), len(own))
    return [score for image in collect(scored) for score in image]


def _score(image: str, name: str, output: Pixels, reference: Pixels, border: int) -> Score:
    """Score an output of one image."""
    return Score(image, name, psnr_y(output, reference, border), ssim_y(output, reference, border))


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
    return Seam(image.name, *compare(forward, tiling, to_input(run, image.pixels), run.scale, white - black))


def _size(pair: Pair) -> tuple[int, int]:
    height, width, _ = pair.low.pixels.shape
    return height, width
