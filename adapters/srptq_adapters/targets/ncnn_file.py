"""ncnn's files: the layers as text (.param), their weights (.bin), and the table of scales for ncnn2int8."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = "7767517"
INT8_TAG, FLOAT_TAG = 0x000D4B38, 0
ARRAY = -23300
"""The key of an array is this number, minus the key of a number."""
INPUT, OUTPUT = "data", "output"
"""The blobs of the image: the names in the models of Real-ESRGAN-ncnn-vulkan and upscayl."""
PART = "-"
"""Parts a blob's name from a number. No name of a whole blob has it."""
INT8_TERM, SCALE_TERM, REQUANTIZED = 8, {"Convolution": 2, "ConvolutionDepthWise": 1, "InnerProduct": 2}, 100

Numbers = np.ndarray[Any, np.dtype[Any]]
Value = int | float | str | Sequence[int] | Sequence[float]


@dataclass
class Scales:
    """The factors from real values to the integers of a layer: the reciprocals of the scales in a quant table."""

    weights: Numbers
    """One factor for each output channel."""
    input: float
    output: float | None = None
    """The factor of the layers that read its output as integers."""


@dataclass
class Layer:
    """A line of a .param file, with its part of the .bin file."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    params: dict[int, Value] = field(default_factory=dict[int, Value])
    weights: list[bytes] = field(default_factory=list[bytes])
    scales: Scales | None = None
    """The scales of a layer in integers."""

    def line(self) -> str:
        """Return the line of the .param file."""
        blobs = f"{len(self.inputs)} {len(self.outputs)} {' '.join([*self.inputs, *self.outputs])}"
        return f"{self.kind:<16} {self.name:<24} {blobs} {' '.join(self._entries())}".rstrip()

    def _entries(self) -> Iterator[str]:
        for key, value in sorted({**self.params, **self._term()}.items()):
            if isinstance(value, (int, float, str)):
                yield f"{key}={_text(value)}"
            else:
                yield f"{ARRAY - key}={','.join([str(len(value)), *map(_text, value)])}"

    def _term(self) -> Mapping[int, int]:
        if self.scales is None:
            return {}
        return {INT8_TERM: SCALE_TERM[self.kind] + (REQUANTIZED if self.scales.output is not None else 0)}

    def content(self) -> bytes:
        """Return the bytes in the .bin file."""
        if self.scales is None:
            return b"".join(self.weights)
        ends = [factor for factor in (self.scales.input, self.scales.output) if factor is not None]
        return b"".join([*self.weights, floats(self.scales.weights), *(floats(np.array([end])) for end in ends)])


def _text(value: float | str) -> str:
    """Format a value: a float in the fewest digits, with a point or an exponent, and in at most 15 characters.

    >>> _text(2), _text(2.0), _text(0.1), _text(-1.23456789e-5), _text("0w,0h")
    ('2', '2.0', '0.1', '-1.2345679e-05', '"0w,0h"')
    """
    if isinstance(value, str):
        return f'"{value}"'
    # ncnn 1.0.20260114 misreads numbers of more digits than needed, such as 0.0500000007.
    return str(value) if isinstance(value, int) else str(np.float32(value))


def floats(values: Numbers) -> bytes:
    """Return numbers as ncnn stores biases and scales."""
    return np.ascontiguousarray(values, "<f4").tobytes()


def tagged(values: Numbers) -> bytes:
    """Return weights as ncnn stores them: a tag for their type, then 8-bit integers or floats.

    >>> tagged(np.array([1, -2], np.int8)).hex(" ", 4)
    '384b0d00 01fe0000'
    """
    if values.dtype != np.int8:
        return FLOAT_TAG.to_bytes(4, "little") + floats(values)
    return INT8_TAG.to_bytes(4, "little") + values.tobytes() + bytes(-values.size % 4)


def write(layers: Sequence[Layer], folder: Path, stem: str) -> tuple[Path, Path, Path]:
    """Write the .param file, the .bin file and the table."""
    param, model, table = (folder / f"{stem}.{kind}" for kind in ("param", "bin", "table"))
    layers = split(layers)
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [MAGIC, f"{len(layers)} {blobs}", *(layer.line() for layer in layers)]
    param.write_text("".join(f"{line}\n" for line in lines))
    model.write_bytes(b"".join(layer.content() for layer in layers))
    table.write_text("".join(f"{line}\n" for line in table_lines(layers)))
    return param, model, table


def table_lines(layers: Sequence[Layer]) -> Iterator[str]:
    """Yield the lines of the table: the factors of all weights, then the factors of all inputs."""
    integers = [(layer.name, layer.scales) for layer in layers if layer.scales is not None]
    for name, scales in integers:
        yield " ".join([f"{name}_param_0", *(f"{factor:.9g}" for factor in scales.weights.tolist())])
    for name, scales in integers:
        yield f"{name} {scales.input:.9g}"


def readers_of(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Return the layers that read each blob."""
    readers: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        for blob in layer.inputs:
            readers[blob].append(layer)
    return readers


def split(layers: Sequence[Layer]) -> list[Layer]:
    """Insert a Split layer behind each blob with several readers: in ncnn a blob has one."""
    readers = readers_of(layers)
    behind = {blob: _split(blob, users) for blob, users in readers.items() if len(users) > 1}
    splits = ((layer, *(behind[blob] for blob in layer.outputs if blob in behind)) for layer in layers)
    return list(chain.from_iterable(splits))


def _split(blob: str, readers: Sequence[Layer]) -> Layer:
    """Return a Split layer, and let each reader read a copy."""
    copies = [f"{blob}{PART}{number}" for number in range(len(readers))]
    for reader, copy in zip(readers, copies, strict=True):
        reader.inputs[reader.inputs.index(blob)] = copy
    return Layer("Split", f"split_{blob}", [blob], copies)
