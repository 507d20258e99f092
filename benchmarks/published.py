"""PSNR and speed of our LiteRT files and of others of the same network, in one run.

    python benchmarks/published.py --runs RUN ... --files FILE ... --data Set5 Set14

`RUN` is a folder that `srptq quantize --recipe litert-w8a8` wrote, `FILE` any .tflite of the network. Prints a Markdown
table: PSNR on Y of each, and medians of interleaved runs. The float rows are the network of the first run.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from srptq_adapters.targets.litert import TARGET, decoded, encoded
from srptq_plugin.data.metrics import psnr_y
from srptq_plugin.evaluation.pairs import load_pairs
from srptq_plugin.graph.types import Array
from srptq_plugin.runs.run import NETWORK, Run

RUNS, WARM = 9, 2
Forward = Callable[[Array], Array]
"""From pixels of 0 to 255, [1, H, W, 3], to pixels."""


def main() -> None:
    """Score and time every file, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, required=True)
    parser.add_argument("--files", nargs="+", type=Path, default=[])
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", nargs=2, type=int, default=(270, 480), help="height and width to time")
    arguments = parser.parse_args()
    runs = [Run.open(folder) for folder in arguments.runs]
    files = {f"ours, {run.folder.name}": run.artifacts[0] for run in runs} | {
        path.name: path for path in arguments.files
    }
    forwards = {"float": _float(runs[0])} | {name: _loaded(path, arguments.threads) for name, path in files.items()}
    seconds = _seconds({name: forward for name, forward in forwards.items() if name != "float"}, arguments.size)
    print("| file |", " | ".join(folder.name for folder in arguments.data), "| ms |")
    print("|", " --- |" * (len(arguments.data) + 2))
    for name, forward in forwards.items():
        scores = [f"{_psnr(forward, folder, runs[0].scale):.3f}" for folder in arguments.data]
        median = f"{1000 * statistics.median(seconds[name]):.0f}" if name in seconds else ""
        print(f"| {name} |", " | ".join(scores), f"| {median} |")


def _float(run: Run) -> Forward:
    network = TARGET.load(run.folder / NETWORK)
    low, high = run.input_range

    def forward(pixels: Array) -> Array:
        image = pixels.transpose(0, 3, 1, 2) * np.float32((high - low) / 255) + np.float32(low)
        return (network(image).transpose(0, 2, 3, 1) - low) * (255 / (high - low))

    return forward


def _loaded(path: Path, threads: int) -> Forward:
    """Load a file of a network for pixels of 0 to 255."""
    interpreter: Any = Interpreter(str(path), num_threads=threads)

    def forward(pixels: Array) -> Array:
        source = interpreter.get_input_details()[0]
        if tuple(source["shape"]) != pixels.shape:
            interpreter.resize_tensor_input(source["index"], pixels.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], encoded(pixels, source))
        interpreter.invoke()
        result = interpreter.get_output_details()[0]
        return decoded(interpreter.get_tensor(result["index"]), result)

    return forward


def _psnr(forward: Forward, data: Path, scale: int) -> float:
    """Return the mean PSNR on Y over a folder's images."""
    return statistics.mean(_scores(forward, data, scale))


def _scores(forward: Forward, data: Path, scale: int) -> Iterator[float]:
    for pair in load_pairs(data, scale).usable:
        low = pair.low.pixels if pair.low.pixels.ndim == 3 else np.repeat(pair.low.pixels[..., None], 3, 2)  # noqa: PLR2004
        output = forward(low[None].astype(np.float32))[0]
        yield psnr_y(np.clip(np.rint(output), 0, 255).astype(np.uint8), pair.high.pixels, scale)


def _seconds(forwards: Mapping[str, Forward], size: Sequence[int]) -> Mapping[str, Sequence[float]]:
    """Return the seconds of interleaved runs, so that a drifting machine affects all alike."""
    image = np.random.default_rng(0).uniform(0, 255, (1, *size, 3)).astype(np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in forwards}
    for turn in range(RUNS + WARM):
        for name, forward in forwards.items():
            start = time.perf_counter()
            forward(image)
            if turn >= WARM:
                seconds[name].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
