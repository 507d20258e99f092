"""Checkpoints: read as tensors only, without running code, and loaded with no key left over."""

import logging
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

logger = logging.getLogger(__name__)
SUFFIXES = (".safetensors", ".pth", ".pt")
"""Endings of the names of checkpoints."""
WRAPPERS = ("params_ema", "params", "state_dict", "model")
"""Keys under which checkpoints hold their state dict, in order of preference."""
PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile put before every key."""
SHOWN = 8
"""The most keys that an error lists."""
LONGEST = 120
"""The most letters of a key that an error shows."""
DEEPEST = 8
"""The most wrappers that are opened. A limit is needed because a pickle may contain itself."""
Renames = tuple[tuple[str, str], ...]
"""Pairs of a pattern that matches a whole key, and the replacement for `re.Match.expand`."""


def is_checkpoint(name: str | Path) -> bool:
    """Tell whether a network is named by the path of a checkpoint.

    >>> is_checkpoint("weights/x4.safetensors"), is_checkpoint("edsr"), is_checkpoint("nets:x4")
    (True, False, False)
    """
    return isinstance(name, Path) or name.lower().endswith(SUFFIXES)


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Read a .safetensors file or a PyTorch file of tensors and return its state dict in float32, unwrapped."""
    path = Path(path)
    if not path.is_file():
        raise SrptqError(f"weights: no file {path}; give a .safetensors, .pth or .pt file")
    read = _safetensors if path.suffix == ".safetensors" else _pickled
    _check_archive(path)
    state = _plain(_unwrapped(read(path), path), path)
    for key, tensor in state.items():
        _check(tensor, f"weights: {short(key)} in {path}")
    return state


def _check_archive(path: Path) -> None:
    """Refuse a zip file whose members are larger than the file, since torch.save never compresses."""
    if not is_zipfile(path):
        return
    try:
        with ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except Exception as error:  # zipfile raises far more than BadZipFile on a damaged archive
        raise SrptqError(f"weights: {path} is damaged ({first_line(error)}); save it again") from error
    if unpacked > path.stat().st_size:
        raise SrptqError(f"weights: {path} unpacks to more than its size; save it with torch.save")


def _check(tensor: Tensor, name: str) -> None:
    """Refuse a tensor that is sparse, quantized, meta or complex, or that holds NaN or infinity."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
        kind = f"{str(tensor.layout).removeprefix('torch.')} {str(tensor.dtype).removeprefix('torch.')}"
        raise SrptqError(f"{name} is {kind} on {tensor.device}; give plain real numbers")
    if not torch.isfinite(tensor).all():
        raise SrptqError(f"{name} holds NaN or infinity; give a checkpoint that works")


def require_keys(
    state: Mapping[str, Tensor] | None, needed: frozenset[str], family: str, source: str
) -> Mapping[str, Tensor]:
    """Return the weights. Raise SrptqError if there are none, or if keys that the family needs are missing."""
    if state is None or not state.keys() >= needed:
        fault = "no weights" if state is None else f"the weights lack {', '.join(sorted(needed - state.keys()))}"
        raise SrptqError(f"{family}: {fault}; give a checkpoint of {source}")
    return state


def load_into(model: nn.Module, state: Mapping[str, Tensor], *, allow_missing: bool | None = None) -> None:
    """Load weights into a model. Raise SrptqError unless keys and shapes match exactly.

    Args:
        model: The model, which changes in place.
        state: The weights.
        allow_missing: Whether missing and unexpected keys are only listed in a warning. Shapes have to match. If it is
            None they are refused, and the error does not offer to list them.

    >>> load_into(nn.Linear(1, 1), {"weight": torch.ones(1, 1)})
    Traceback (most recent call last):
    srptq_plugin.errors.SrptqError: weights do not fit Linear; 1 missing: bias
    """
    expected = model.state_dict()
    # Checkpoints of torch before 0.4.1 lack this counter, and nothing in eval mode reads it.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    misfits = [key for key in expected if key in state and expected[key].shape != state[key].shape]
    shapes = [f"{key} is {list(state[key].shape)}, should be {list(expected[key].shape)}" for key in misfits]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if texts := [_few(fault, keys) for fault, keys in faults.items() if keys]:
        kind, text = type(model).__name__, "; ".join(texts)
        if misfits or not allow_missing or not expected.keys() & state.keys():
            offered = allow_missing is False and not misfits
            cure = "; `allow_missing=True` loads what there is" if offered else ""
            raise SrptqError(f"weights do not fit {kind}; {text}{cure}")
        logger.warning("weights fit %s in part; %s; missing ones stay as the factory made them", kind, text)
    model.load_state_dict(dict(state), strict=False)


def rename_keys(state: Mapping[str, Tensor], renames: Renames) -> dict[str, Tensor]:
    r"""Return the same weights with each key rewritten by the first pattern that matches it.

    >>> list(rename_keys({"first.bias": torch.ones(1), "last": torch.ones(1)}, ((r"first\.(.*)", r"head.\1"),)))
    ['head.bias', 'last']
    """
    return {_rename_key(key, renames): value for key, value in state.items()}


def count_keys(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count the keys that a pattern matches as a whole."""
    return sum(re.fullmatch(pattern, key) is not None for key in state)


def _rename_key(key: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        if match := re.fullmatch(pattern, key):
            return match.expand(replacement)
    return key


def _few(fault: str, keys: list[str]) -> str:
    more = f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} {fault}: {', '.join(short(key, LONGEST) for key in keys[:SHOWN])}{more}"


def _safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError, or OverflowError and others for offsets out of bounds
        raise SrptqError(
            f"weights: {path} is not a valid safetensors file ({first_line(error)}); save or download it again"
        ) from error


def _pickled(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise SrptqError(
            f"weights: {path} holds more than tensors; Python objects are refused, as reading them could run code. "
            "If you trust the file, re-save it as safetensors or with "
            "torch.save(model.state_dict(), ...)"
        ) from error
    except Exception as error:  # a damaged pickle raises IndexError, AssertionError and more
        raise SrptqError(
            f"weights: PyTorch cannot read {path} ({first_line(error)}); give a state dict as .safetensors, .pth or .pt"
        ) from error


def _unwrapped(content: object, path: Path) -> object:
    """Open known wrappers, then the only mapping of tensors, whatever its key."""
    content = _open_known(content)
    entries = cast("Mapping[object, object]", content) if isinstance(content, Mapping) else {}
    opened = {key: _open_known(value) for key, value in entries.items()}
    states = {key: value for key, value in opened.items() if _is_state(value)}
    if not states or any(isinstance(value, Tensor) for value in opened.values()):
        return content
    if len(states) > 1:
        raise SrptqError(
            f"weights: {path} holds several state dicts ({', '.join(short(str(key)) for key in states)}); "
            "re-save one of them with torch.save"
        )
    return next(iter(states.values()))


def _open_known(content: object) -> object:
    for _ in range(DEEPEST):
        candidates = [content[key] for key in WRAPPERS if isinstance(content, Mapping) and key in content]
        inner = next((candidate for candidate in candidates if isinstance(candidate, Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _is_state(content: object) -> bool:
    entries = cast("Mapping[object, object]", content) if isinstance(content, Mapping) else {}
    # An optimizer holds tensors too, under numbers.
    return bool(entries) and all(isinstance(key, str) and isinstance(entries[key], Tensor) for key in entries)


def _plain(content: object, path: Path) -> dict[str, Tensor]:
    entries = cast("Mapping[object, object]", content) if isinstance(content, Mapping) else {}
    others = [str(key) for key, value in entries.items() if not isinstance(value, Tensor)]
    if not entries or others:
        contents = _few("entries other than tensors", others) if others else "no tensors"
        raise SrptqError(
            f"weights: {path} is not a state dict, it holds {contents}; "
            "give a dict of tensors, bare or as the only dict of tensors in another"
        )
    tensors = {str(key): cast("Tensor", value) for key, value in entries.items()}
    for key, tensor in tensors.items():
        # An expanded tensor claims a shape with no storage behind it: a few bytes could exhaust the memory.
        if tensor.layout == torch.strided and tensor.numel() > path.stat().st_size:
            raise SrptqError(f"weights: {short(key)} in {path} has more values than the file has bytes; save it again")
    state = {key: _in_float32(tensor) for key, tensor in tensors.items()}
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _in_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
