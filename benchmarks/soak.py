"""Many runs in one process: memory, open files, threads and objects.

    python benchmarks/soak.py [--runs 200] [--every 20] [--recipe onnxruntime-w8a8]

Each run quantizes a tiny network by a whole recipe, writes its files and verifies them, into one folder. Prints a row
of Markdown now and then, and in the end the growth of memory in KiB a run, by a line through the second half.
"""

import argparse
import gc
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from srptq_plugin import Recipe, quantize

SMALL = ("calibration.patches=4", "calibration.size=16", "reconstruction.epochs=1")


def main() -> None:
    """Run, and print what the process holds."""
    arguments = _arguments()
    torch.set_num_threads(1)
    recipe = Recipe.load(arguments.recipe, [*SMALL, *arguments.set])
    print("| run | memory | files | threads | objects |\n| --- | --- | --- | --- | --- |")
    memory: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(1, arguments.runs + 1):
            torch.manual_seed(0)
            quantize(recipe, model=tiny(), out=Path(folder) / "run", device="cpu")
            memory.append(resident())
            if run % arguments.every == 0 or run == 1:
                print(f"| {run} | {memory[-1] / 1024:,.1f} MiB | {' | '.join(map(str, held()))} |", flush=True)
    half = memory[len(memory) // 2 :]
    slope = np.polyfit(range(len(half)), half, 1)[0] if len(half) > 1 else 0.0
    print(f"\n{slope:+.1f} KiB a run over the last {len(half)} runs")


def tiny() -> nn.Module:
    """Return a network that upscales by 2, with a skip."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)]
    return nn.Sequential(*layers)


def resident() -> int:
    """Return the resident memory of this process in KiB."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def held() -> tuple[int, int, int]:
    """Return the numbers of open files, of threads and of objects that Python's collector tracks."""
    files, threads = (sum(1 for _ in Path("/proc/self", name).iterdir()) for name in ("fd", "task"))
    return files, threads, len(gc.get_objects())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--recipe", default="onnxruntime-w8a8")
    parser.add_argument("--set", action="append", default=[], help="changes of the recipe")
    return parser.parse_args()


if __name__ == "__main__":
    main()
