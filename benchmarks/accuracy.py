"""PSNR of a quantized network on a test set, for several recipes, in one run.

    python benchmarks/accuracy.py --model imdn:imdn --weights IMDN_x4.safetensors --images BSDS399 --data Set5
    python benchmarks/accuracy.py ... --placement full tensorrt-w8a8 snpe-w8a8 onnxruntime-w8a8 openvino-w8a8

Images are high-resolution photographs. 100 patches of 48 x 48 are cut from them. Prints a Markdown table. With
`--rows FILE` measurements are kept there, and a restarted benchmark skips the known ones.
`imdn` is in examples/: run it with PYTHONPATH=examples.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rows import Rows

from srptq_plugin import Recipe, quantize
from srptq_plugin.evaluation.evaluate import evaluate

GRIDS = {
    "paper": ("paper-w8a8", "paper-w6a6", "paper-w4a4"),
    "openvino": ("openvino-w8a8", "openvino-w6a6", "openvino-w4a4"),
}


def main() -> None:
    """Calibrate, reconstruct and evaluate every recipe, and print its row."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.model}, {Path(arguments.data).name}, placement {arguments.placement}, seed 0\n")
    print("| recipe | bits | DBDC | DBDC + PaC | in the runtime | float | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for recipe in arguments.recipes or [name for names in GRIDS.values() for name in names]:
        _row(recipe, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--placement", default="convs", choices=("convs", "full"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--rows", type=Path, default=Path(os.devnull))
    parser.add_argument("recipes", nargs="*")
    return parser.parse_args()


def _row(recipe: str, arguments: argparse.Namespace) -> None:
    overrides = [f"placement={arguments.placement}", *arguments.overrides]
    bits = Recipe.load(recipe, overrides).activations.bits
    before = _scores(recipe, [*overrides, "reconstruction=null"], arguments)
    after = _scores(recipe, overrides, arguments)
    runtime = f"{after['runtime']:.2f}" if "runtime" in after else ""
    figures = f"{before['simulated']:.2f} | {after['simulated']:.2f} | {runtime} | {after['float']:.2f}"
    print(f"| {recipe} | {bits} | {figures} | {after['seconds']:.0f} |")
    sys.stdout.flush()


def _scores(recipe: str, overrides: Sequence[str], arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Return the PSNR of each output, and the seconds of the run."""
    inputs = (arguments.model, arguments.weights, arguments.images, arguments.data, arguments.scale)
    rows, key = Rows(arguments.rows), (recipe, *overrides, *map(str, inputs))
    known = rows.get(key)
    if known is None:
        rows.add(key, known := _measure(recipe, overrides, arguments))
    return known


def _measure(recipe: str, overrides: Sequence[str], arguments: argparse.Namespace) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = quantize(
            recipe,
            model=arguments.model,
            weights=arguments.weights,
            images=arguments.images,
            scale=arguments.scale,
            out=Path(folder) / "run",
            overrides=overrides,
        )
        rows = evaluate(run, arguments.data, strict=True).means
    return {row["output"]: row["psnr"] for row in rows} | {"seconds": sum(run.summary["seconds"].values())}


if __name__ == "__main__":
    main()
