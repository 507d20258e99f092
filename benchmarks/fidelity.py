"""How far the runtimes are from the simulation, and how much faster than float: a row for a network.

    python benchmarks/fidelity.py --images BSDS399 --scale 4 [--model srgan --weights SRGAN_netG_x4.safetensors]

Without a model the bundled one; photographs are made smaller by --scale. Prints rows of a Markdown table.
"""

import argparse
import tempfile
from pathlib import Path

from srptq_plugin import quantize

RECIPES = ("openvino-w8a8-fast", "onnxruntime-w8a8-fast")


def main() -> None:
    """Quantize by each recipe; the pipeline verifies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--scale", type=int)
    arguments = parser.parse_args()
    for recipe in RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            summary = quantize(recipe, out=Path(folder) / "run", **vars(arguments)).summary
        found = summary["verify"]
        differences = f"{found['psnr']:.1f} | {found['p99_9_levels']:.1f} | {found['max_levels']:.1f}"
        convs = f"{found['convs_int8']} of {found['convs_planned']}"
        print(f"| {summary['model']['name']} | {recipe} | {differences} | {convs} | {found['speedup']:.2f} |")


if __name__ == "__main__":
    main()
