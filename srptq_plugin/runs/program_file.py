"""The file of the float network: an archive of torch.export, read as data.

`torch.export.load` unpickles and evaluates parts of an archive. It never sees one that others wrote. It gets a copy
in memory, made here from members that were checked. These are the functions that it calls on that copy (torch 2.13,
in torch/export/pt2_archive/_package.py), and the reasons why none of them runs code:

* `_load_state_dict` and `_load_constants` read raw bytes. They unpickle entries with `use_pickle`, which are refused,
  members `custom_obj_*` and `opaque_obj_*`, which are refused, and `model.pt`, rewritten here from tensors alone.
* `_load_exported_programs` unpickles the sample inputs, which are made here. For the graph see `exported_graph`.
* `_load_extra_files` and `_load_aoti` (native libraries) look for members that are refused.
* Archives of torch 2.5 to 2.7 have other names in the same zip. They are treated alike.
"""

import json
import re
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import torch
from torch import Tensor
from torch.export import ExportedProgram

from srptq_plugin.runs.exported_graph import sanitize

GRAPH, OLD_GRAPH = "models/model.json", "serialized_exported_program.json"
DOCUMENTS = {GRAPH, OLD_GRAPH, "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"}
SAMPLES = {"data/sample_inputs/model.pt", "serialized_example_inputs.pt"}
TENSORS = {
    *("data/weights/model.pt", "data/constants/model.pt"),
    *(f"serialized_{kind}.{ending}" for kind in ("state_dict", "constants") for ending in ("pt", "json")),
}
"""Members that are pickles of tensors, in archives of torch 2.5 to 2.8."""
RAW = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
"""Members that are the bytes of one tensor."""
WORDS = re.compile(r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)")
"""Members whose content is one word."""
WORD = re.compile(rb"[\w.]{0,64}\n?")
ROOT = "model"
"""The folder of all members in a newer archive."""
Members = Mapping[str, bytes]


def read_program(path: Path) -> ExportedProgram:
    """Read the float network. The error raised for a bad file can be of any kind, and says why."""
    return torch.export.load(_clean_archive(_members(path)))


def _members(path: Path) -> dict[str, bytes]:
    """Read the members and return their contents by name, without the folder around them."""
    with ZipFile(path) as archive:
        infos = archive.infolist()
        size = path.stat().st_size
        # torch.save never compresses. A compressed member could be a bomb that fills the memory.
        if any(info.compress_type != ZIP_STORED for info in infos) or sum(info.file_size for info in infos) > size:
            raise ValueError("its members are larger than the file")
        members = {_without_folder(info.filename): archive.read(info) for info in infos}
    if len(members) < len(infos):
        raise ValueError("it holds two members of one name")
    return members


def _without_folder(name: str) -> str:
    folder, _, inner = name.partition("/")
    return inner or folder


def _clean_archive(members: Members) -> BytesIO:
    buffer = BytesIO()
    prefix = f"{ROOT}/" if GRAPH in members else ""
    with ZipFile(buffer, "w", ZIP_STORED) as archive:
        for name, content in _clean_members(members):
            archive.writestr(ZipInfo(prefix + name), content)
    buffer.seek(0)
    return buffer


def _clean_members(members: Members) -> Iterator[tuple[str, bytes]]:
    graph = _document(next(name for name in (GRAPH, OLD_GRAPH) if name in members), members)
    for name, content in members.items():
        if name in DOCUMENTS:
            yield name, json.dumps(_document(name, members)).encode()
        elif name in SAMPLES:
            yield name, _sample_inputs(graph)
        elif name in TENSORS:
            yield name, _rewrite_tensors(name, content)
        elif RAW.fullmatch(name) or (WORDS.fullmatch(name) and WORD.fullmatch(content)):
            yield name, content
        else:
            raise ValueError(f"{name[:60]!r}: not a member of an exported network")


def _document(name: str, members: Members) -> Any:
    try:
        return sanitize(json.loads(members[name]))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _rewrite_tensors(name: str, content: bytes) -> bytes:
    """Read a pickle of tensors without running code, and return a new pickle of the same tensors."""
    tensors = torch.load(BytesIO(content), weights_only=True) if content else {}
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError(f"{name}: holds more than tensors")
    return _saved(tensors)


def _sample_inputs(graph: Any) -> bytes:
    """Pickle an image of zeros in the size that the network was traced with."""
    inputs = graph["graph_module"]["signature"]["input_specs"]
    name = next(spec["user_input"]["arg"]["as_tensor"]["name"] for spec in inputs if "user_input" in spec)
    sizes = graph["graph_module"]["graph"]["tensor_values"][name]["sizes"]
    # An expanded scalar: any size that the file claims takes the memory of one number.
    return _saved(((torch.zeros(()).expand([_hint(size) for size in sizes]),), {}))


def _hint(size: Mapping[str, Any]) -> int:
    return int(size["as_int"] if "as_int" in size else size["as_expr"]["hint"]["as_int"])


def _saved(content: object) -> bytes:
    buffer = BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
