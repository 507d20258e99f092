"""The picture of the README: one crop drawn in float, by plain 4 bits, and by ours.

    python benchmarks/picture.py --out docs/int4.png

The bundled network, calibrated on the photographs of scikit-image but the one that is shown. Prints the PSNR of each.
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
WAYS = {"4 bits, min-max": "paper-w4a4-minmax", "4 bits, srptq": "paper-w4a4-best"}
MARGIN, CAPTION = 6, 26


def main() -> None:
    """Quantize, draw, and put the crops side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    samples = Path(str(skimage.__file__)).parent / "data"
    high = read_image(samples / SHOWN)
    low = downscale(high, SCALE)
    drawn = {"original": high, "bicubic": upscale(low, SCALE)}
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder) / "photographs"
        photographs.mkdir()
        for name in SAMPLES:
            if name != SHOWN and (samples / name).is_file():
                (photographs / name).symlink_to(samples / name)
        for label, recipe in WAYS.items():
            tuned = arguments.set if recipe.endswith("best") else []
            place = Path(folder) / recipe
            run = quantize(recipe, images=photographs, scale=SCALE, out=place, overrides=tuned)
            drawn.setdefault("float", _draw(run, PreparedGraph.float_only(run.network), low))
            drawn[label] = _draw(run, run.table.simulate(run.network), low)
    _save(drawn, high, arguments.out)


def _draw(run: Run, network: Callable[[torch.Tensor], torch.Tensor], low: Pixels) -> Pixels:
    with torch.no_grad():
        return to_pixels(network(to_tensor(low[None], run.input_range))[0], run.input_range)


def _save(drawn: dict[str, Pixels], high: Pixels, out: Path) -> None:
    width = len(drawn) * (SIDE + MARGIN) - MARGIN
    sheet = PIL.Image.new("RGB", (width, SIDE + CAPTION), "white")
    write, font = PIL.ImageDraw.Draw(sheet), PIL.ImageFont.load_default(14)
    for n, (label, pixels) in enumerate(drawn.items()):
        place = n * (SIDE + MARGIN)
        crop = np.ascontiguousarray(pixels[TOP : TOP + SIDE, LEFT : LEFT + SIDE])
        sheet.paste(PIL.Image.fromarray(crop), (place, 0))
        score = "" if pixels is high else f", {psnr_y(pixels, high, SCALE):.2f} dB"
        print(f"{label}{score}")
        write.text((place + SIDE / 2, SIDE + CAPTION / 2), label + score, "black", font, "mm")
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main()
