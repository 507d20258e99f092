"""Qualcomm's quantization encodings: what AIMET, SNPE and QNN read beside a float ONNX file, in three versions."""

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
"""The default first."""
KINDS = ("activation_encodings", "param_encodings")


@dataclass(frozen=True)
class Encodings:
    """Parameters by the name of the tensor in the ONNX file."""

    activations: Mapping[str, QParams]
    parameters: Mapping[str, QParams]

    def record(self, version: Version = "1.0.0") -> dict[str, Any]:
        """The file's content in one of the versions."""
        sides = zip(KINDS, (self.activations, self.parameters), strict=True)
        if version == "0.6.1":
            return {"version": version} | {kind: _dicts(side) for kind, side in sides}
        if version == "1.0.0":
            return {"version": version} | {kind: list(_lists(side)) for kind, side in sides}
        both = {**self.activations, **self.parameters}
        return {"version": version, "encodings": [_linear(name, found) for name, found in both.items()]}

    def write(self, path: Path, version: Version = "1.0.0") -> None:
        """Write the file."""
        path.write_text(json.dumps(self.record(version), indent=1) + "\n", encoding="utf-8")


def _integers(found: QParams) -> tuple[list[float], list[int]]:
    """Scales, and zero points counted from 0 as Qualcomm's offsets are, with their sign turned."""
    plain = found.unsigned()
    return plain.scale.reshape(-1).tolist(), [-int(zero) for zero in plain.zero_point.reshape(-1).tolist()]


def _dicts(side: Mapping[str, QParams]) -> dict[str, list[dict[str, Any]]]:
    return {name: list(_whole(found)) for name, found in side.items()}


def _whole(found: QParams) -> Iterator[dict[str, Any]]:
    for scale, offset in zip(*_integers(found), strict=True):
        yield {
            "bitwidth": found.grid.bits,
            "dtype": "int",
            "is_symmetric": str(found.grid.symmetric),
            "min": scale * offset,
            "max": scale * (offset + 2**found.grid.bits - 1),
            "offset": offset,
            "scale": scale,
        }


def _lists(side: Mapping[str, QParams]) -> Iterator[dict[str, Any]]:
    for name, found in side.items():
        scales, offsets = _integers(found)
        yield {
            "name": name,
            "enc_type": "PER_CHANNEL" if found.scale.ndim else "PER_TENSOR",
            "dtype": "INT",
            "bw": found.grid.bits,
            "is_sym": found.grid.symmetric,
            "scale": scales,
            "offset": offsets,
        }


def _linear(name: str, found: QParams) -> dict[str, Any]:
    scales = found.scale.tolist()
    zeros = found.integer_zero_point.tolist()
    kind = f"{'int' if found.grid.signed else 'uint'}{found.grid.bits}"
    kept = {"name": name, "output_dtype": kind, "y_scale": scales}
    if not found.grid.symmetric:
        kept["y_zero_point"] = zeros
    return kept | ({"axis": found.grid.channel_axis} if found.scale.ndim else {})


def read(path: Path, parameters: Iterable[str]) -> Encodings:
    """Read a file of any version back; `parameters` are the names that are weights, which 2.0.0 does not tell apart."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = _READERS[record["version"]](record)
    except Exception as error:  # whatever numbers and names that were edited come to
        raise SrptqError(
            f"{path}: not an encodings file of version {', '.join(VERSIONS)} ({first_line(error)})"
        ) from error
    weights = set(parameters)
    sides = [{n: q for n, q in found.items() if (n in weights) is weight} for weight in (False, True)]
    return Encodings(*sides)


def _read_dicts(record: Mapping[str, Any]) -> dict[str, QParams]:
    entries = {name: each for kind in KINDS for name, each in record[kind].items()}
    return {name: _parameters(**_columns(each)) for name, each in entries.items()}


def _columns(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = each[0]
    return {
        "bits": first["bitwidth"],
        "symmetric": first["is_symmetric"] == "True",
        "scales": [one["scale"] for one in each],
        "offsets": [one["offset"] for one in each],
        "per_channel": len(each) > 1,
    }


def _read_lists(record: Mapping[str, Any]) -> dict[str, QParams]:
    return {
        each["name"]: _parameters(
            each["bw"], each["is_sym"], each["scale"], each["offset"], each["enc_type"] == "PER_CHANNEL"
        )
        for kind in KINDS
        for each in record[kind]
    }


def _parameters(bits: int, symmetric: bool, scales: list[float], offsets: list[int], per_channel: bool) -> QParams:  # noqa: FBT001
    """Symmetric ones are signed integers around zero, the others are counted from 0."""
    grid = IntGrid(bits, signed=symmetric, symmetric=symmetric, channel_axis=0 if per_channel else None)
    shift = 2 ** (bits - 1) if symmetric else 0
    zeros = [-offset - shift for offset in offsets]
    both = (torch.tensor(values, dtype=torch.float32) for values in (scales, zeros))
    scale, zero_point = (values if per_channel else values[0] for values in both)
    return QParams(scale, zero_point, grid)


def _read_linear(record: Mapping[str, Any]) -> dict[str, QParams]:
    return {each["name"]: _from_linear(each) for each in record["encodings"]}


def _from_linear(each: Mapping[str, Any]) -> QParams:
    kind: str = each["output_dtype"]
    signed, bits = kind.startswith("int"), int(kind.removeprefix("u").removeprefix("int"))
    grid = IntGrid(bits, signed, symmetric="y_zero_point" not in each, channel_axis=each.get("axis"))
    scale = torch.tensor(each["y_scale"], dtype=torch.float32)
    zero = torch.tensor(each.get("y_zero_point", 0), dtype=torch.float32)
    return QParams(scale, zero.expand(scale.shape).clone(), grid)


_READERS = {"0.6.1": _read_dicts, "1.0.0": _read_lists, "2.0.0": _read_linear}
