"""Forging the float network of a run folder, and checking that reading it runs no code."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import pytest
import torch
from torch import Tensor, nn
from torch._export.serde.serialize import serialize
from torch.export import ExportedProgram
from torch.nn import functional

from helpers import networks
from srptq_plugin.errors import SrptqError
from srptq_plugin.runs.run import PROGRAM, Run

GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
CONSTANTS, SAMPLES = "data/constants/model_constants_config.json", "data/sample_inputs/model.pt"
IMAGE = networks.images(1, 9, 11).numpy()
Members = dict[str, bytes]


@dataclass(frozen=True)
class Payload:
    """An object whose unpickling makes a folder and returns the value of the expression `gives`."""

    marker: Path
    gives: str = "None"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, (f"({self.code}, {self.gives})[1]",)

    @property
    def code(self) -> str:
        """A Python expression that makes the folder."""
        return f"__import__('os').mkdir('{self.marker}')"


class Padded(nn.Module):
    """A network with size arithmetic, a buffer and a split, so that its archive has all kinds of entries."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1))
        self.head, self.tail = networks.conv(3, 8), networks.conv(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = functional.pad(x - self.mean, (0, width % 2, 0, height % 2))
        left, right = self.head(padded).split(4, dim=1)
        return functional.pixel_shuffle(self.tail(left + right), 2)[:, :, : 2 * height, : 2 * width]


def read_members(path: Path) -> Members:
    with ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, members: Members, *, root: str = "model/", compression: int = ZIP_STORED) -> None:
    with ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(root + name, content)


def forge(folder: Path, change: Callable[[Members], object]) -> None:
    members = read_members(folder / PROGRAM)
    change(members)
    write(folder / PROGRAM, members)


def edit(members: Members, name: str, change: Callable[[Any], object]) -> None:
    document = json.loads(members[name])
    change(document)
    members[name] = json.dumps(document).encode()


def to_old_archive(members: Members, program: ExportedProgram, state: bytes | None = None) -> Members:
    """Return the members as torch 2.5 to 2.7 wrote them: tensors are pickles, and there is no folder."""
    artifact = serialize(program)
    return {
        "version": b"8.1",
        "serialized_exported_program.json": members[GRAPH],
        "serialized_state_dict.pt": state or artifact.state_dict,
        "serialized_constants.pt": artifact.constants,
        "serialized_example_inputs.pt": artifact.example_inputs,
    }


def use(folder: Path) -> None:
    Run.open(folder).float()(IMAGE)


def check_refused(folder: Path, payload: Payload) -> None:
    try:
        with pytest.raises(SrptqError, match=r"model\.pt2: not readable .*; run `srptq quantize` again"):
            use(folder)
    finally:
        assert not payload.marker.exists(), "a command ran"


def saved(content: object) -> bytes:
    buffer = BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
