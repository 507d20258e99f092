"""Reading weights: tensors only, no code, and every key accounted for."""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import cast
from zipfile import ZipFile, is_zipfile

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError, first_line, short

WRAPPERS = ("params_ema", "params", "state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")
SHOWN = 8
LONGEST = 120
"""Letters of a key."""
DEEPEST = 8
"""Wrappers within wrappers; a pickle may hold itself."""
Renames = tuple[tuple[str, str], ...]
"""Patterns of keys in one layout, and what they are called in another."""


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Read a .safetensors file or a PyTorch file of tensors as a float32 state dict, wrappers removed."""
    path = Path(path)
    if not path.is_file():
        raise SrptqError(f"weights: no file {path}; give a .safetensors, .pth or .pt file")
    read = _safetensors if path.suffix == ".safetensors" else _pickled
    _check_archive(path)
    state = _plain(_unwrapped(read(path)), path)
    for key, tensor in state.items():
        _check(tensor, f"weights: {short(key)} in {path}")
    return state


def _check_archive(path: Path) -> None:
    """Refuse a file that unpacks to more than it is: torch.save packs nothing."""
    if not is_zipfile(path):
        return
    try:
        with ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except Exception as error:  # a damaged archive lets all kinds through
        raise SrptqError(f"weights: {path} is damaged ({first_line(error)}); save it again") from error
    if unpacked > path.stat().st_size:
        raise SrptqError(f"weights: {path} unpacks to more than its size; save it with torch.save")


def _check(tensor: Tensor, name: str) -> None:
    """Refuse what has no plain values, and values that are no numbers."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
        kind = f"{str(tensor.layout).removeprefix('torch.')} {str(tensor.dtype).removeprefix('torch.')}"
        raise SrptqError(f"{name} is {kind} on {tensor.device}; give plain real numbers")
    if not torch.isfinite(tensor).all():
        raise SrptqError(f"{name} holds NaN or infinity; give a checkpoint that works")


def load_into(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights that must fit key by key and shape by shape.

    >>> load_into(nn.Linear(1, 1), {"weight": torch.ones(1, 1)})
    Traceback (most recent call last):
    srptq_plugin.errors.SrptqError: weights do not fit Linear; 1 missing: bias
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    both = [key for key in own if key in state and own[key].shape != state[key].shape]
    shapes = [f"{key} is {list(state[key].shape)}, should be {list(own[key].shape)}" for key in both]
    wrong = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if faults := [_few(what, keys) for what, keys in wrong.items() if keys]:
        raise SrptqError(f"weights do not fit {type(model).__name__}; {'; '.join(faults)}")
    model.load_state_dict(dict(state), strict=False)


def renamed(state: Mapping[str, Tensor], renames: Renames) -> dict[str, Tensor]:
    r"""The same weights, each by the name that the first pattern which fits gives it, or its own.

    >>> list(renamed({"first.bias": torch.ones(1), "last": torch.ones(1)}, ((r"first\.(.*)", r"head.\1"),)))
    ['head.bias', 'last']
    """
    return {_renamed(key, renames): value for key, value in state.items()}


def _renamed(key: str, renames: Renames) -> str:
    for pattern, name in renames:
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    return key


def _few(what: str, keys: list[str]) -> str:
    more = f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} {what}: {', '.join(short(key, LONGEST) for key in keys[:SHOWN])}{more}"


def _safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError, and what numbers out of bounds raise
        raise SrptqError(f"weights: {path} is no valid safetensors file ({first_line(error)})") from error


def _pickled(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise SrptqError(
            f"weights: {path} is not a file of tensors only; a file that holds Python objects is refused, as "
            "reading it could run code. Where you trust it, re-save it as safetensors or with "
            "torch.save(model.state_dict(), ...)"
        ) from error
    except Exception as error:  # of a damaged pickle: IndexError, AssertionError and more
        raise SrptqError(
            f"weights: PyTorch cannot read {path} ({first_line(error)}); give a state dict as .safetensors, .pth or .pt"
        ) from error


def _unwrapped(content: object) -> object:
    for _ in range(DEEPEST):
        inner = [content[key] for key in WRAPPERS if isinstance(content, Mapping) and key in content]
        found = next((each for each in inner if isinstance(each, Mapping)), None)
        if found is None:
            break
        content = found
    return content


def _plain(content: object, path: Path) -> dict[str, Tensor]:
    entries = cast("Mapping[object, object]", content) if isinstance(content, Mapping) else {}
    other = [str(key) for key, value in entries.items() if not isinstance(value, Tensor)]
    if not entries or other:
        found = _few("entries that are no tensors", other) if other else "no tensors"
        raise SrptqError(
            f"weights: {path} is no state dict, it holds {found}; "
            f"give a dict of tensors, bare or under {', '.join(WRAPPERS)}"
        )
    tensors = {str(key): cast("Tensor", value) for key, value in entries.items()}
    for key, tensor in tensors.items():
        if tensor.layout == torch.strided and tensor.numel() > path.stat().st_size:
            raise SrptqError(f"weights: {short(key)} in {path} has more values than the file has bytes; save it again")
    state = {key: _single(tensor) for key, tensor in tensors.items()}
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
