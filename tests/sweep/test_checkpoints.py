"""Hostile weights: damaged files, tensors of wrong shapes and types, and pickles that would run code."""

import io
import os
import pickle
import subprocess
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.mutations import Mutation, binary
from helpers.sweeping import Sweep
from safetensors.torch import save
from torch import Tensor, nn

from srptq_plugin.models.edsr import EDSR
from srptq_plugin.models.imdn import IMDN
from srptq_plugin.models.rdn import RDN
from srptq_plugin.models.rfdn import RFDN
from srptq_plugin.models.rlfn import RLFN
from srptq_plugin.models.rrdb import RRDB
from srptq_plugin.models.srgan import SRGANGenerator
from srptq_plugin.models.srresnet import SRResNet
from srptq_plugin.models.srvgg import SRVGG

State = dict[str, Tensor]
STATE: State = EDSR(upscale=2, features=4, blocks=1).state_dict()
STOPPED = ("--images", "gone", "--device", "cpu")
"""Options that stop a command after it read the network, as there are no images."""


def pickled(content: object, *, zipped: bool = True, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return file.getvalue()


FILES: Mapping[str, bytes] = {
    "pth": pickled(STATE),
    "old.pth": pickled(STATE, zipped=False),
    "safetensors": save(STATE),
}


def check(sweep: Sweep, name: str, content: bytes, model: str = "edsr") -> None:
    (sweep.place / name).write_bytes(content)
    sweep("quantize", "--model", model, "--weights", name, *STOPPED, names=[name, "weights", f"model {model}", "gone"])


@pytest.mark.parametrize("mutation", binary(5, 8, 5, 8), ids=str)
@pytest.mark.parametrize("name", FILES)
def test_damaged_weights(sweep: Sweep, name: str, mutation: Mutation) -> None:
    check(sweep, f"a.{name}", mutation(FILES[name]))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", ["pth", "pt", "ckpt", "bin", "safetensors", "SAFETENSORS", "onnx", ""])
def test_wrong_suffixes(sweep: Sweep, name: str, suffix: str) -> None:
    check(sweep, f"a.{suffix}", FILES[name])


class Runs:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[list[str]]]:
        return subprocess.check_call, (["touch", "touched"],)


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"a/{name.replace('__', '/').replace('_', '.')}", content)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"), io.BytesIO())
    return file.getvalue()


RECURSIVE: dict[str, Any] = {}
RECURSIVE["model"] = RECURSIVE
PICKLES: Mapping[str, bytes] = {
    "a plain pickle": pickle.dumps({"a": 1}),
    "a pickle of code": pickle.dumps(Runs()),
    "a pickle of code in text": pickle.dumps(Runs(), protocol=0),
    "code among tensors": pickled({**STATE, "code": Runs()}),
    "code in an old file": pickled({**STATE, "code": Runs()}, zipped=False),
    "code in an archive": zipped(data_pkl=pickle.dumps(Runs()), version=b"3"),
    "a pickle of itself": b"\x80\x04\x95" + b"\xff" * 8 + b".",
    "a huge pickle": b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b".",
    "a deep pickle": b"(" * 100_000 + b".",
    "many pickles": b"\x80\x02}." * 20,
    "an archive of nothing": zipped(),
    "an archive without data": zipped(version=b"3"),
    "an archive of text": zipped(readme_txt=b"hello"),
    "an archive of a number": zipped(data_pkl=pickle.dumps(3, 2), version=b"3"),
    "a script": zipped(code__a_py=b"x = 1", constants_pkl=pickle.dumps((), 2), data_pkl=pickle.dumps(3, 2)),
    "a tape": tarred(),
    "a module": pickled(nn.Conv2d(3, 3, 1)),
    "a program": pickled({"model": nn.Conv2d(3, 3, 1)}),
    "a recursive mapping": pickled(RECURSIVE),
    "a protocol of the future": b"\x80\x63}.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_hostile_pickles(sweep: Sweep, name: str) -> None:
    check(sweep, "a.pth", PICKLES[name])


def header(text: str, body: bytes = b"", size: int | None = None) -> bytes:
    """Return a safetensors file with this header, whose size may be wrong."""
    return (len(text) if size is None else size).to_bytes(8, "little") + text.encode() + body


def entry(dtype: str = '"F32"', shape: str = "[1]", offsets: str = "[0, 4]") -> str:
    return f'{{"a": {{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}}}'


HEADERS: Mapping[str, bytes] = {
    "nothing": header("{}"),
    "a huge header": header("{}", size=2**63),
    "a long header": header("{}", size=100),
    "a list": header("[]"),
    "no type": header('{"a": {}}'),
    "a fine one": header(entry(), bytes(4)),
    "no body": header(entry()),
    "too long a body": header(entry(), bytes(99)),
    "an unknown type": header(entry(dtype='"F33"'), bytes(4)),
    "a type as a number": header(entry(dtype="3"), bytes(4)),
    "a negative shape": header(entry(shape="[-1]"), bytes(4)),
    "a huge shape": header(entry(shape=f"[{2**62}, {2**62}]"), bytes(4)),
    "an empty shape": header(entry(shape="[0]", offsets="[0, 0]")),
    "backward offsets": header(entry(offsets="[4, 0]"), bytes(4)),
    "huge offsets": header(entry(offsets=f"[0, {2**62}]"), bytes(4)),
    "metadata of numbers": header('{"__metadata__": {"a": 3}}'),
    "metadata alone": header('{"__metadata__": {"a": "b"}}'),
    "two of one name": header(entry()[:-1] + "," + entry()[1:], bytes(4)),
    "booleans": save({key: value > 0 for key, value in STATE.items()}),
    "eight bits": save({key: value.to(torch.float8_e4m3fn) for key, value in STATE.items()}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_odd_safetensors_headers(sweep: Sweep, name: str) -> None:
    check(sweep, "a.safetensors", HEADERS[name])


Change = Callable[[Tensor], Any]
CHANGES: Mapping[str, Change] = {
    "nothing": lambda _: None,
    "text": lambda _: "text",
    "a number": lambda _: 3,
    "a list": list,
    "a mapping": lambda tensor: {"weight": tensor},
    "an array": lambda tensor: tensor.numpy(),
    "a parameter": nn.Parameter,
    "no values": lambda tensor: tensor[:0],
    "no shape": lambda tensor: tensor.sum(),
    "flat": lambda tensor: tensor.flatten(),
    "another axis": lambda tensor: tensor[None],
    "half of it": lambda tensor: tensor[: len(tensor) // 2],
    "twice of it": lambda tensor: torch.cat([tensor, tensor]),
    "five times": lambda tensor: torch.cat([tensor] * 5),
    "strange strides": lambda tensor: tensor.flatten()[:1].expand(tensor.shape),
    "integers": lambda tensor: (100 * tensor).to(torch.int8),
    "booleans": lambda tensor: tensor > 0,
    "complex": lambda tensor: tensor.to(torch.complex64),
    "halves": lambda tensor: tensor.half(),
    "doubles": lambda tensor: tensor.double() * 1e300,
    "bfloats": lambda tensor: tensor.bfloat16(),
    "quantized": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    "sparse": lambda tensor: tensor.to_sparse(),
    "on no device": lambda tensor: tensor.to("meta"),
    "nan": lambda tensor: tensor * torch.nan,
    "infinity": lambda tensor: tensor / 0,
    "zeros": torch.zeros_like,
    "huge": lambda tensor: torch.full_like(tensor, 3e38),
}
KEYS = ("sub_mean.weight", "add_mean.bias", "head.0.weight", "tail.0.0.weight")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("key", KEYS)
def test_wrong_tensors_of_edsr(sweep: Sweep, key: str, change: str) -> None:
    check(sweep, "a.pth", pickled({**STATE, key: CHANGES[change](STATE[key])}))


def without(word: str) -> State:
    return {key: value for key, value in STATE.items() if word not in key}


CONTENTS: Mapping[str, object] = {
    "nothing": {},
    "no mapping": None,
    "a list": list(STATE.values()),
    "a tensor": STATE["head.0.weight"],
    "one tensor": {"head.0.weight": STATE["head.0.weight"]},
    "numbers as keys": dict(enumerate(STATE.values())),
    "empty keys": {**STATE, "": torch.zeros(1)},
    "odd keys": {**STATE, "\x1b[2J": torch.zeros(1), "a\nb": torch.zeros(1)},
    "long keys": {**STATE, "k" * 5000: torch.zeros(1)},
    "many keys": {**STATE, **{f"more.{n}": torch.zeros(1) for n in range(300)}},
    "bytes as keys": {**STATE, b"a": torch.zeros(1)},
    "wrapped": {"state_dict": {"model": {"params": STATE}}},
    "wrapped in itself twice": {"params": {"params": {}}},
    "wrapped in a list": {"state_dict": [STATE]},
    "an optimizer's": {"state": STATE, "param_groups": [{"lr": 0.1}]},
    "half prefixed": {f"module.{key}" if n % 2 else key: value for n, (key, value) in enumerate(STATE.items())},
    "twice prefixed": {f"module.module.{key}": value for key, value in STATE.items()},
    "only a prefix": {"module.": torch.zeros(1)},
    "ordered": OrderedDict(STATE),
    **{f"no {word}": without(word) for word in ("head", "body", "tail", "sub_mean", "add_mean", "bias", "weight")},
    "a block beyond": {**STATE, "body.77.body.0.weight": torch.zeros(4, 4, 3, 3)},
    "a huge block number": {**STATE, f"body.{10**30}.body.0.weight": torch.zeros(4, 4, 3, 3)},
    "BasicSR without the rest": {"conv_first.weight": torch.zeros(4, 3, 3, 3)},
    "all zeros": {key: torch.zeros_like(value) for key, value in STATE.items()},
    "all scalars": {key: torch.tensor(1.0) for key in STATE},
    "all empty": {key: torch.zeros(0) for key in STATE},
    "all integers": {key: value.int() for key, value in STATE.items()},
    "all reversed": {key: value.movedim(0, -1).contiguous() for key, value in STATE.items()},
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("model", ["edsr", "srresnet"])
def test_odd_state_dicts(sweep: Sweep, name: str, model: str) -> None:
    check(sweep, "a.pth", pickled(CONTENTS[name]), model)


STATES: Mapping[str, State] = {
    "edsr": STATE,
    "srresnet": SRResNet(upscale=2).state_dict(),
    "srgan": SRGANGenerator().state_dict(),
    "rdn": RDN(2, 4, 2, 2, 2).state_dict(),
    "rrdb": RRDB(2, 4, 2, 1).state_dict(),
    "srvgg": SRVGG(2, 4, 2).state_dict(),
    "imdn": IMDN(2, 16, 1).state_dict(),
    "rfdn": RFDN(2, 4, 1, 2, 2).state_dict(),
    "rlfn": RLFN(2, 4, 1, 2, 2).state_dict(),
}


@pytest.mark.parametrize("model", STATES)
@pytest.mark.parametrize("other", [name for name in STATES if name != "srgan"])
def test_weights_of_other_networks(sweep: Sweep, model: str, other: str) -> None:
    check(sweep, "a.pth", pickled(STATES[other]), model)


@pytest.mark.parametrize("model", [name for name in STATES if name != "srgan"])
@pytest.mark.parametrize("number", range(12))
def test_wrong_or_missing_tensors_of_networks(sweep: Sweep, model: str, number: int) -> None:
    state, changes = STATES[model], list(CHANGES.values())
    key = list(state)[(5 * number) % len(state)]
    check(sweep, "a.pth", pickled({**state, key: changes[(7 * number + len(model)) % len(changes)](state[key])}), model)
    check(sweep, "b.pth", pickled({name: value for name, value in state.items() if name != key}), model)


PLACES: Mapping[str, Callable[[Path], object]] = {
    "nowhere": Path.exists,
    "a folder": Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("gone.pth"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda path: path.symlink_to("/dev/null"),
    "unreadable": lambda path: (path.touch(), path.chmod(0)),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_weights_that_are_no_regular_file(sweep: Sweep, place: str, name: str) -> None:
    PLACES[place](sweep.place / name)
    sweep("quantize", "--model", "edsr", "--weights", name, *STOPPED, names=[name])
