"""A third-party target in one file: an NPU whose scales are powers of two, fed by a table of shifts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime

from srptq_plugin.plugin_api import (
    Array,
    Fusion,
    IntGrid,
    Options,
    Placer,
    QuantTable,
    Rules,
    Size,
    TargetEntry,
    hookimpl,
)

BITS = frozenset({8})


class TinyNpuExport(Options):
    """What a recipe may say under `export`."""

    shifts: Literal["json", "none"] = "json"
    """The format of the table of shifts, or `none` without it."""


class TinyNpu:
    """8 bits for weights and activations. Convolutions also compute the activation or the add that follows them."""

    presets: Mapping[str, Rules] = {
        "default": Rules(
            weights=IntGrid(8, signed=True, symmetric=True, channel_axis=0, power_of_two=True),
            activations=IntGrid(8, signed=True, symmetric=True, power_of_two=True),
            weight_bits=BITS,
            activation_bits=BITS,
            inputs=frozenset({"conv", "add"}),
            outputs=frozenset({"conv", "add"}),
            fusions=tuple(Fusion(op, behind="conv") for op in ("relu", "clamp", "add")),
        )
    }

    def require(self) -> None:
        """Accept every machine: writing needs ONNX only."""

    def write(self, network: Path, table: QuantTable, folder: Path, *, shifts: str) -> Sequence[Path]:
        """Write the Q/DQ file for the NPU's compiler, and the shifts for its driver."""
        onnx.save(Placer(onnx.load(network), table).place(), folder / "model_tiny_npu.onnx")
        if shifts == "none":
            return (folder / "model_tiny_npu.onnx",)
        record = {name: np.log2(qparams.scale.numpy()).astype(int).tolist() for name, qparams in table.qparams.items()}
        (folder / "shifts.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return (folder / "model_tiny_npu.onnx", folder / "shifts.json")

    def load(self, artifact: Path) -> "Emulator":
        """Load a file in the NPU's emulator, which is ONNX Runtime here."""
        return Emulator(artifact)

    def command(self, artifact: Path, size: Size, *, fixed: bool) -> str:
        """Return the compiler's command line."""
        return f"tiny-npu-compile {artifact.name}" + (f" --shape {'x'.join(map(str, size))}" if fixed else "")


class Emulator:
    """A written file, ready to run."""

    name = "tiny-npu emulator"

    def __init__(self, artifact: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session: Any = onnxruntime.InferenceSession(str(artifact), options, ["CPUExecutionProvider"])

    def __call__(self, image: Array) -> Array:
        """Run a [N, 3, H, W] batch."""
        return np.asarray(self._session.run(None, {self._session.get_inputs()[0].name: image})[0])

    def integer_convs(self) -> None:
        """Return None: the emulator runs everything in float."""


@hookimpl
def srptq_targets() -> Iterable[TargetEntry]:
    """Return the targets that the entry point registers."""
    return [TargetEntry("tiny-npu", "8 bits, scales are powers of two", TinyNpu, options=TinyNpuExport)]
