"""One crop of a photograph by a float network and by recipes, side by side.

    python benchmarks/picture.py --out docs/int4.png
    python benchmarks/picture.py --model RealESR_animevideov3_x4.safetensors \
        --recipes openvino-w8a8 onnxruntime-w8a8 snpe-w8a8 --against float --out docs/realesrgan.png

By default it is the README's picture: the bundled network by 4 bits with min-max, and by 4 bits with this plugin. The
network is calibrated on scikit-image's photographs without the one in the picture. Prints each PSNR.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import skimage
import torch

from srptq_plugin import quantize
from srptq_plugin.data.images import SAMPLES, downscale, read_image, to_pixels, to_tensor, upscale
from srptq_plugin.data.metrics import psnr_y
from srptq_plugin.data.resize import Pixels
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.runs.run import Run

SCALE, SHOWN, SIDE = 4, "astronaut.png", 208
TOP, LEFT = 20, 130
LABELS = {"paper-w4a4-minmax": "4 bits, min-max", "paper-w4a4-best": "4 bits, srptq"}
"""The recipes of the README's picture, with their captions."""
MARGIN, CAPTION = 6, 26


def main() -> None:
    """Quantize, enlarge, and save the crops side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="as `srptq quantize` takes it (default: the bundled network)")
    parser.add_argument("--recipes", nargs="+", default=list(LABELS), metavar="RECIPE")
    parser.add_argument("--against", choices=("original", "float"), default="original", help="what PSNR compares with")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    samples = Path(str(skimage.__file__)).parent / "data"
    high = read_image(samples / SHOWN)
    low = downscale(high, SCALE)
    outputs = {"original": high, "bicubic": upscale(low, SCALE)}
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder) / "photographs"
        photographs.mkdir()
        for name in SAMPLES:
            if name != SHOWN and (samples / name).is_file():
                (photographs / name).symlink_to(samples / name)
        for recipe in map(str, arguments.recipes):
            overrides = arguments.set if recipe.endswith("best") else []
            out = Path(folder) / recipe
            run = quantize(recipe, model=arguments.model, images=photographs, scale=SCALE, out=out, overrides=overrides)
            outputs.setdefault("float", _enlarge(run, PreparedGraph.float_only(run.network), low))
            outputs[LABELS.get(recipe, recipe)] = _enlarge(run, run.table.simulate(run.network), low)
    _save(outputs, arguments.against, arguments.out)


def _enlarge(run: Run, network: Callable[[torch.Tensor], torch.Tensor], low: Pixels) -> Pixels:
    with torch.no_grad():
        return to_pixels(network(to_tensor(low[None], run.input_range))[0], run.input_range)


def _save(outputs: dict[str, Pixels], against: str, out: Path) -> None:
    width = len(outputs) * (SIDE + MARGIN) - MARGIN
    sheet = PIL.Image.new("RGB", (width, SIDE + CAPTION), "white")
    draw, font = PIL.ImageDraw.Draw(sheet), PIL.ImageFont.load_default(14)
    for n, (label, pixels) in enumerate(outputs.items()):
        left = n * (SIDE + MARGIN)
        crop = np.ascontiguousarray(pixels[TOP : TOP + SIDE, LEFT : LEFT + SIDE])
        sheet.paste(PIL.Image.fromarray(crop), (left, 0))
        scored = label not in ({"original"} if against == "original" else {"original", "bicubic", "float"})
        score = f", {psnr_y(pixels, outputs[against], SCALE):.2f} dB" if scored else ""
        print(f"{label}{score}")
        draw.text((left + SIDE / 2, SIDE + CAPTION / 2), label + score, "black", font, "mm")
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main()
