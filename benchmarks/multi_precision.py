"""Tables 2 and 3 of Liu et al. 2021: 8 bits everywhere, and 16 at the first and the last convolution.

    python benchmarks/multi_precision.py --data DATA --images BSDS399 --weights SRGAN_netG_x4.safetensors \
        --rows rows.jsonl [--steps 1000]

DATA holds Set5 and Set14. IMAGES are photographs. The ESRGAN columns need `--model rrdb` and ESRGAN's weights. PSNR and
SSIM are the simulation's, on Y. Bytes of the model are counted as by `srptq cost`. Speed is measured in ONNX Runtime,
as the median of interleaved runs, and is empty for other targets. `--steps` adds rows that continue by training. The
paper's no-reference metric PI is not computed. Prints Markdown. Measurements go to the file of rows, and a restarted
benchmark skips the known ones.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import Key, Rows

from srptq_plugin import quantize
from srptq_plugin.costs.cost import Costs
from srptq_plugin.costs.estimate import Estimate, usual_size
from srptq_plugin.deploy.onnx_export import export_float
from srptq_plugin.evaluation.pairs import load_pairs
from srptq_plugin.evaluation.scoring import mean_scores
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.models.loading import load_model
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import NETWORK, Run

SETS = ("Set5", "Set14")
RUNTIME = "onnxruntime"
RUNS = 9


@dataclass(frozen=True)
class Method:
    """A recipe and the steps of its training. The recipe `None` is the float network."""

    name: str
    bits: str
    recipe: str | None = None
    steps: int = 0


CALIBRATED = (
    Method("extremes, ONNX Runtime", "8", "onnxruntime-w8a8-stock"),
    Method("DBDC + PaC, ONNX Runtime", "8", "onnxruntime-w8a8"),
    Method("DBDC + PaC, SNPE", "8", "snpe-w8a8"),
    Method("DBDC + PaC, SNPE", "8, activations 16 at the edges", "snpe-w8a8-edges16"),
    Method("DBDC + PaC, simulated", "8", "paper-w8a8"),
    Method("DBDC + PaC, simulated", "8, all 16 at the edges", "paper-w8a8-edges16"),
)


def methods(steps: int) -> Iterator[Method]:
    """Yield the rows: float, calibrated, and trained ones if there are steps."""
    yield Method("float", "32")
    yield from CALIBRATED
    if steps:
        for method in CALIBRATED[1:]:
            yield Method(f"{method.name}, {steps} steps", method.bits, method.recipe, steps)


class Bench:
    """One network with its test images, from which rows are measured."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.loaded = load_model(arguments.model, arguments.weights)
        self.scale = self.loaded.record.scale
        self.pairs = {
            name: load_pairs(arguments.data / name, self.scale, strict=True).usable for name in arguments.sets
        }
        self.calibrated = cache(self._calibrated)

    def measure(self, method: Method) -> dict[str, Any]:
        """Return a row: bytes, milliseconds, and the scores on every set."""
        row = self._float() if method.recipe is None else self._quantized(method.recipe, method.steps)
        print(f"{method}: {row}", file=sys.stderr, flush=True)
        return row

    def _float(self) -> dict[str, Any]:
        network, file = self.loaded.module, self.folder / "float.onnx"
        program = export_network(network)
        export_float(program, file, {})
        size = Costs.of(Network(graph_of(program)), usual_size(self.loaded.record)).size()
        return {"bytes": size, "ms": self._milliseconds(file)[0], "scores": self._scores(network)}

    def _quantized(self, recipe: str, steps: int) -> dict[str, Any]:
        run = self._trained(recipe, steps) if steps else self.calibrated(recipe)
        milliseconds, float_milliseconds = None, None
        if run.recipe.target == RUNTIME:
            milliseconds, float_milliseconds = self._milliseconds(run.artifacts[0], run.folder / NETWORK)
        return {
            "bytes": Estimate.of_run(run).quantized.size,
            "ms": milliseconds,
            "float_ms": float_milliseconds,
            "scores": self._scores(run.table.simulate(run.network)),
        }

    def _calibrated(self, recipe: str) -> Run:
        epochs = override_epochs(recipe, self.arguments)
        return quantize(
            recipe,
            model=self.arguments.model,
            weights=self.arguments.weights,
            images=self.arguments.images,
            scale=self.scale,
            out=self.folder / recipe,
            overrides=[epochs] if epochs else [],
        )

    def _trained(self, recipe: str, steps: int) -> Run:
        return train_run(
            recipe,
            self.calibrated(recipe).folder,
            images=self.arguments.images,
            scale=self.scale,
            out=self.folder / f"{recipe}-trained",
            overrides=[f"training.steps={steps}"],
        )

    def _scores(self, network: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, tuple[float, float]]:
        input_range = self.loaded.record.input_range
        return {name: mean_scores(network, pairs, self.scale, input_range) for name, pairs in self.pairs.items()}

    def _milliseconds(self, *files: Path) -> list[float]:
        """Return each file's median. The runs interleave, so a drifting machine affects all files alike."""
        load = Registry().target(RUNTIME).load().load
        sessions = [load(file) for file in files]
        side, (low, high) = self.arguments.side, self.loaded.record.input_range
        image = np.random.default_rng(0).uniform(low, high, (1, 3, side, side)).astype(np.float32)
        seconds = [[_seconds(session, image) for session in sessions] for _ in range(RUNS + 1)]
        return [1000 * statistics.median(file_seconds) for file_seconds in zip(*seconds[1:], strict=True)]


def override_epochs(recipe: str | None, arguments: argparse.Namespace) -> str:
    """Return the override that sets a recipe's epochs to `--epochs`, or "" if the recipe's own apply."""
    if recipe is None or arguments.epochs is None or Recipe.load(recipe).reconstruction is None:
        return ""
    return f"reconstruction.epochs={arguments.epochs}"


def _seconds(session: Callable[[Any], object], image: object) -> float:
    start = time.perf_counter()
    session(image)
    return time.perf_counter() - start


def make_key(arguments: argparse.Namespace, method: Method) -> Key:
    """Return everything on which a row depends."""
    network = arguments.model, arguments.weights.name, " ".join(arguments.sets), str(arguments.side)
    return (*network, method.recipe or "float", override_epochs(method.recipe, arguments), str(method.steps))


def main() -> None:
    """Measure the missing rows, then print all."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    rows = Rows(arguments.rows)
    missing = [method for method in methods(arguments.steps) if rows.get(make_key(arguments, method)) is None]
    if missing and not arguments.no_measuring:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(arguments, Path(folder))
            for method in missing:
                rows.add(make_key(arguments, method), bench.measure(method))
    _print(arguments, rows)


def _print(arguments: argparse.Namespace, rows: Rows) -> None:
    print(f"### {arguments.weights.stem}, {arguments.side} x {arguments.side} pixels timed\n")
    print(f"| method | bits | bytes | times float | {' | '.join(arguments.sets)} |")
    print("| --- | --- | --- | --- |" + " --- |" * len(arguments.sets))
    for method in methods(arguments.steps):
        row = rows.get(make_key(arguments, method))
        if row is not None:
            scores: Sequence[Sequence[float]] = [row["scores"][name] for name in arguments.sets]
            cells = [f"{row['bytes']:,}", _speedup(row), *(f"{psnr:.2f} / {ssim:.4f}" for psnr, ssim in scores)]
            print(f"| {method.name} | {method.bits} | {' | '.join(cells)} |")


def _speedup(row: Any) -> str:
    return "" if row["ms"] is None else f"{row.get('float_ms', row['ms']) / row['ms']:.2f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "images", "weights", "rows"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", default="srgan", choices=("srgan", "rrdb"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="epochs of PaC (default: the recipe's)")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-measuring", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
