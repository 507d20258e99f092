"""PSNR in the runtime with VNNI and without: our files compared with NNCF's and quantize_static's.

    PYTHONPATH=examples python benchmarks/processors.py --data DATA --images BSDS399 --weights WEIGHTS \
        --rows benchmarks/processors.jsonl [--emulator "qemu-x86_64 -cpu Haswell"]

Needs a processor with VNNI. `ONEDNN_MAX_CPU_ISA=AVX2` makes OpenVINO do without it. ONNX Runtime has no such switch.
The command of `--emulator` runs Python for it without VNNI, at scale 4 only, because that is slow. Prints Markdown.
Measurements go to the file of rows, and a restarted benchmark skips the known ones.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from paper_tables import NETWORKS, Bench, Subject, downscale_once
from rows import Rows

from srptq_plugin import Recipe, quantize
from srptq_plugin.calibration.inputs import Inputs, Source
from srptq_plugin.data.images import to_tensor
from srptq_plugin.data.metrics import psnr
from srptq_plugin.evaluation.pairs import Pair
from srptq_plugin.evaluation.scoring import scores
from srptq_plugin.graph.types import Array
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.runs.run import NETWORK

WORKER = Path(__file__).with_name("on_processor.py")
RUNTIMES = ("openvino", "onnxruntime")
FLOAT, UNSAFE = "float", "weights.overflow_safe=false"
Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Model:
    """A file to run. Files of this plugin have the outputs of their simulation."""

    name: str
    path: Path
    simulated: Outputs | None = None


class Comparison:
    """All models of a network for one runtime, and their scores."""

    def __init__(self, subject: Subject, runtime: str, arguments: argparse.Namespace, folder: Path) -> None:
        self.subject, self.runtime, self.folder = subject, runtime, folder
        self.emulator = shlex.split(arguments.emulator or "") if subject.scale == 4 else []  # noqa: PLR2004
        self.bench = Bench(subject, arguments.data, downscale_once(arguments, subject, folder), arguments.weights)
        self.range = self.bench.loaded.record.input_range
        self.pairs: Mapping[str, Pair] = {pair.low.name: pair for pair in self.bench.pairs["Set5"]}
        self.images = {name: self._input(pair) for name, pair in self.pairs.items()}
        np.savez(folder / "images.npz", **self.images)  # pyright: ignore[reportArgumentType]

    def _input(self, pair: Pair) -> Array:
        return to_tensor(pair.low.pixels[None], self.range).numpy()

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the measurements of each model, by its name."""
        for model in self._models():
            row: dict[str, Any] = {}
            if model.simulated is not None:
                row["simulated"] = self._psnr(model.simulated)
            for where, outputs in self._everywhere(model):
                row[where] = self._psnr(outputs)
                if model.simulated is not None:
                    row[f"{where} dB"] = self._distance(outputs, model.simulated)
            yield model.name, row

    def _everywhere(self, model: Model) -> Iterator[tuple[str, Outputs]]:
        yield "vnni", self._run(model, [], {})
        if self.runtime == "openvino":
            yield "without", self._run(model, [], {"ONEDNN_MAX_CPU_ISA": "AVX2"})
        elif self.emulator and model.name != FLOAT:
            yield "without", self._run(model, self.emulator, {"PYTHONPATH": os.pathsep.join(sys.path)})

    def _run(self, model: Model, before: list[str], environment: Mapping[str, str]) -> Outputs:
        files = [str(path) for path in (model.path, self.folder / "images.npz", self.folder / "outputs.npz")]
        python = str(Path(sys.executable).resolve()) if before else sys.executable
        command = [*before, python, str(WORKER), self.runtime, *files]
        subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)  # noqa: S603
        return dict(np.load(self.folder / "outputs.npz"))

    def _psnr(self, outputs: Outputs) -> float:
        scale = self.subject.scale
        image_scores = (scores(torch.from_numpy(outputs[n]), pair, scale, self.range) for n, pair in self.pairs.items())
        return float(np.mean([image_psnr for image_psnr, _ssim in image_scores]))

    def _distance(self, outputs: Outputs, simulated: Outputs) -> float:
        flat = [np.concatenate([images[name].ravel() for name in self.pairs]) for images in (outputs, simulated)]
        return float(psnr(flat[0], flat[1], self.range[1] - self.range[0]))

    def _models(self) -> Iterator[Model]:
        ours = self._ours("ours")
        plain = ours.path.with_name(NETWORK)
        yield Model(FLOAT, plain)
        yield from TOOLS[self.runtime](self, plain)
        yield self._ours("ours, overflow_safe: false", UNSAFE)
        yield ours

    def _ours(self, name: str, *overrides: str) -> Model:
        recipe = Recipe.load(f"{self.runtime}-w8a8", overrides)
        run = quantize(
            recipe,
            model=self.subject.model,
            weights=self.bench.weights,
            model_args=self.bench.args,
            images=self.bench.images,
            out=self.folder / f"run{len(overrides)}",
        )
        simulation = run.simulation()
        simulated = {image: simulation(pixels) for image, pixels in self.images.items()}
        return Model(name, run.artifacts[0], simulated)

    @property
    def patches(self) -> Array:
        """The calibration patches of our recipe, also for the other tools."""
        recipe = Recipe.load(f"{self.runtime}-w8a8", [f"calibration.images={self.bench.images}"])
        source = Source(self.subject.model, self.bench.weights, self.bench.args)
        return Inputs.load(BoundRecipe.of(recipe, Registry()), source).patches.numpy()


def _nncf(comparison: Comparison, plain: Path) -> Iterator[Model]:
    """Quantize with NNCF as its guide does, and with its overflow guard on every layer."""
    import nncf  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    import openvino  # noqa: PLC0415
    from nncf.quantization.advanced_parameters import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
        AdvancedQuantizationParameters,
        OverflowFix,
    )

    shifts = nncf.IgnoredScope(names=[node.name for node in _mean_shifts(plain)], validate=False)
    batches = [patch[None] for patch in comparison.patches]
    guards = {"NNCF": OverflowFix.FIRST_LAYER, "NNCF, overflow_fix: enable": OverflowFix.ENABLE}
    for name, guard in guards.items():
        model = nncf.quantize(
            openvino.Core().read_model(plain), nncf.Dataset(batches), subset_size=len(batches), ignored_scope=shifts,
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=guard),
        )  # fmt: skip
        path = comparison.folder / f"nncf-{guard.value}.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        yield Model(name, path)


def _quantize_static(comparison: Comparison, plain: Path) -> Iterator[Model]:
    """Quantize with ONNX Runtime's own tool, also with 7-bit weights."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static  # noqa: PLC0415

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = ({"input": patch[None]} for patch in comparison.patches)

        def get_next(self) -> Any:
            return next(self.batches, None)

    for name, reduced in {"quantize_static": False, "quantize_static, reduce_range": True}.items():
        path = comparison.folder / f"static-{reduced}.onnx"
        quantize_static(
            plain, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=reduced,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in _mean_shifts(plain)],
        )  # fmt: skip
        yield Model(name, path)


def _mean_shifts(plain: Path) -> Sequence[onnx.NodeProto]:
    convs = (node for node in onnx.load(plain).graph.node if node.op_type == "Conv")
    return [node for node in convs if node.input[1].startswith(("sub_mean", "add_mean"))]


TOOLS: Mapping[str, Callable[[Comparison, Path], Iterator[Model]]] = {
    "openvino": _nncf,
    "onnxruntime": _quantize_static,
}
COLUMNS = ("simulated", "vnni", "without", "vnni dB", "without dB")


def main() -> None:
    """Measure the missing networks, then print all."""
    arguments = _arguments()
    rows = Rows(arguments.rows)
    subjects = [subject for subject in NETWORKS if not arguments.only or subject.label in arguments.only]
    for subject in subjects:
        for runtime in arguments.runtime or RUNTIMES:
            if not any(key[:2] == (subject.label, runtime) for key in rows.known):
                with tempfile.TemporaryDirectory() as folder:
                    measured = dict(Comparison(subject, runtime, arguments, Path(folder)).rows())
                for name, row in measured.items():
                    rows.add((subject.label, runtime, name), row)
    _print(rows)


def _print(rows: Rows) -> None:
    print(f"| network | runtime | model | {' | '.join(COLUMNS)} |")
    print("| --- " * (3 + len(COLUMNS)) + "|")
    for key, row in rows.known.items():
        cells = (row.get(column) for column in COLUMNS)
        print(f"| {' | '.join(key)} | {' | '.join('' if value is None else f'{value:.2f}' for value in cells)} |")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "images", "weights", "rows"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[], choices=[subject.label for subject in NETWORKS])
    parser.add_argument("--runtime", action="append", choices=RUNTIMES)
    parser.add_argument("--emulator")
    return parser.parse_args()


if __name__ == "__main__":
    main()
