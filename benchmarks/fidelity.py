"""The distance between runtimes and simulation, and the speed compared with float, for one network.

    python benchmarks/fidelity.py --images BSDS399 --scale 4 [--model srgan --weights SRGAN_netG_x4.safetensors]

The default model is the bundled one. Photographs are downscaled by --scale. Prints rows of a Markdown table.
"""

import argparse
import tempfile
from pathlib import Path

from srptq_plugin import quantize

RECIPES = ("openvino-w8a8-fast", "onnxruntime-w8a8-fast")


def main() -> None:
    """Quantize and verify with each recipe, and print its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--scale", type=int)
    arguments = parser.parse_args()
    for recipe in RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            summary = quantize(recipe, out=Path(folder) / "run", **vars(arguments)).summary
        check = summary["verify"]
        differences = f"{check['psnr']:.1f} | {check['p99_9_levels']:.1f} | {check['max_levels']:.1f}"
        convs = f"{check['convs_int8']} of {check['convs_planned']}"
        print(f"| {summary['model']['name']} | {recipe} | {differences} | {convs} | {check['speedup']:.2f} |")


if __name__ == "__main__":
    main()
