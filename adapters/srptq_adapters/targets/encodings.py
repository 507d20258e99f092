"""Qualcomm's quantization encodings: a file next to a float ONNX file, in the three versions of AIMET, SNPE and QNN.

All versions hold the same numbers. 1.0.0 and 0.6.1 count integers from 0 and write the zero point with its sign turned
(`offset`), also for symmetric grids. 2.0.0 has the scales and zero points of ONNX's QuantizeLinear.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.quantization.grid import IntGrid, QParams

Version = Literal["1.0.0", "0.6.1", "2.0.0"]
VERSIONS: tuple[Version, ...] = ("1.0.0", "0.6.1", "2.0.0")
"""The first is the default."""
KINDS = ("activation_encodings", "param_encodings")


@dataclass(frozen=True)
class Encodings:
    """Quantization parameters by the name of the tensor in the ONNX file."""

    activations: Mapping[str, QParams]
    parameters: Mapping[str, QParams]
    floats: frozenset[str] = frozenset()
    """Tensors that a file says are floats."""

    def record(self, version: Version = "1.0.0") -> dict[str, Any]:
        """Return the content of the file in one version."""
        sides = zip(KINDS, (self.activations, self.parameters), strict=True)
        if version == "0.6.1":
            return {"version": version} | {kind: _dicts(side) for kind, side in sides}
        if version == "1.0.0":
            return {"version": version} | {kind: list(_lists(side)) for kind, side in sides}
        both = {**self.activations, **self.parameters}
        return {"version": version, "encodings": [_linear(name, qparams) for name, qparams in both.items()]}

    def write(self, path: Path, version: Version = "1.0.0") -> None:
        """Write the encodings as JSON."""
        path.write_text(json.dumps(self.record(version), indent=1) + "\n", encoding="utf-8")


def _scales_and_offsets(qparams: QParams) -> tuple[list[float], list[int]]:
    # Qualcomm's offset is the negative zero point of integers that count from 0: -128 for a symmetric grid of 8 bits.
    unsigned = qparams.unsigned()
    return unsigned.scale.reshape(-1).tolist(), [-int(zero) for zero in unsigned.zero_point.reshape(-1).tolist()]


def _dicts(side: Mapping[str, QParams]) -> dict[str, list[dict[str, Any]]]:
    return {name: list(_channels(qparams)) for name, qparams in side.items()}


def _channels(qparams: QParams) -> Iterator[dict[str, Any]]:
    bits = qparams.grid.bits
    for scale, offset in zip(*_scales_and_offsets(qparams), strict=True):
        yield {
            "bitwidth": bits,
            "dtype": "int",
            "is_symmetric": str(qparams.grid.symmetric),
            "min": scale * offset,
            "max": scale * (offset + 2**bits - 1),
            "offset": offset,
            "scale": scale,
        }


def _lists(side: Mapping[str, QParams]) -> Iterator[dict[str, Any]]:
    for name, qparams in side.items():
        scales, offsets = _scales_and_offsets(qparams)
        yield {
            "name": name,
            "enc_type": "PER_CHANNEL" if qparams.scale.ndim else "PER_TENSOR",
            "dtype": "INT",
            "bw": qparams.grid.bits,
            "is_sym": qparams.grid.symmetric,
            "scale": scales,
            "offset": offsets,
        }


def _linear(name: str, qparams: QParams) -> dict[str, Any]:
    grid = qparams.grid
    record = {
        "name": name,
        "output_dtype": f"{'int' if grid.signed else 'uint'}{grid.bits}",
        "y_scale": qparams.scale.tolist(),
    }
    # A grid without zero points is symmetric to the reader.
    if not grid.symmetric:
        record["y_zero_point"] = qparams.integer_zero_point.tolist()
    return record | ({"axis": grid.channel_axis} if qparams.scale.ndim else {})


def read(path: Path, parameters: Iterable[str]) -> Encodings:
    """Read a file of any version.

    Args:
        parameters: The names of the weights. Version 2.0.0 does not tell them from activations.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        tensors, floats = _READERS[record["version"]](record)
    except Exception as error:  # edited files fail in many ways: KeyError, ValueError, OverflowError
        raise SrptqError(
            f"{path}: not an encodings file of version {', '.join(VERSIONS)} ({first_line(error)})"
        ) from error
    weights = set(parameters)
    activations = {name: qparams for name, qparams in tensors.items() if name not in weights}
    parameters = {name: qparams for name, qparams in tensors.items() if name in weights}
    return Encodings(activations, parameters, frozenset(floats))


_Read = tuple[dict[str, QParams], set[str]]
"""The tensors of integers, and the names of tensors of floats."""


def _read_dicts(record: Mapping[str, Any]) -> _Read:
    entries = {name: channels for kind in KINDS for name, channels in record[kind].items()}
    floats = {name for name, channels in entries.items() if channels[0].get("dtype") == "float"}
    return {name: _parameters(**_columns(channels)) for name, channels in entries.items() if name not in floats}, floats


def _columns(channels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = channels[0]
    return {
        "bits": first["bitwidth"],
        "symmetric": first["is_symmetric"] == "True",
        "scales": [channel["scale"] for channel in channels],
        "offsets": [channel["offset"] for channel in channels],
        "per_channel": len(channels) > 1,
    }


def _read_lists(record: Mapping[str, Any]) -> _Read:
    entries = {entry["name"]: entry for kind in KINDS for entry in record[kind]}
    floats = {name for name, entry in entries.items() if entry.get("dtype") == "FLOAT"}
    tensors = {
        name: _parameters(
            entry["bw"], entry["is_sym"], entry["scale"], entry["offset"], entry["enc_type"] == "PER_CHANNEL"
        )
        for name, entry in entries.items()
        if name not in floats
    }
    return tensors, floats


def _parameters(bits: int, symmetric: bool, scales: list[float], offsets: list[int], per_channel: bool) -> QParams:  # noqa: FBT001
    # Symmetric grids are signed around 0 here, the others count from 0: the zero point moves by half the levels.
    grid = IntGrid(bits, signed=symmetric, symmetric=symmetric, channel_axis=0 if per_channel else None)
    shift = 2 ** (bits - 1) if symmetric else 0
    zeros = [-offset - shift for offset in offsets]
    both = (torch.tensor(values, dtype=torch.float32) for values in (scales, zeros))
    scale, zero_point = (values if per_channel else values[0] for values in both)
    return QParams(scale, zero_point, grid)


def _read_linear(record: Mapping[str, Any]) -> _Read:
    entries = {entry["name"]: entry for entry in record["encodings"]}
    floats = {name for name, entry in entries.items() if "float" in entry["output_dtype"]}
    return {name: _from_linear(entry) for name, entry in entries.items() if name not in floats}, floats


def _from_linear(entry: Mapping[str, Any]) -> QParams:
    kind: str = entry["output_dtype"]
    signed, bits = kind.startswith("int"), int(kind.removeprefix("u").removeprefix("int"))
    grid = IntGrid(bits, signed, symmetric="y_zero_point" not in entry, channel_axis=entry.get("axis"))
    scale = torch.tensor(entry["y_scale"], dtype=torch.float32)
    zero = torch.tensor(entry.get("y_zero_point", 0), dtype=torch.float32)
    return QParams(scale, zero.expand(scale.shape).clone(), grid)


_READERS = {"0.6.1": _read_dicts, "1.0.0": _read_lists, "2.0.0": _read_linear}
