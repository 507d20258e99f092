"""The state of a long run in a file, from which the run goes on after it was stopped."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zipfile import ZipFile

import torch

from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.utils.distributed import from_first, is_first

CHECKPOINT = "checkpoint.pt"
T = TypeVar("T")
State = Mapping[str, Any]
Classes = tuple[type, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A file with the state of a run, and with digests of the inputs that the run was begun with.

    The first of several processes writes and reads it. All of them get the state.

    Attributes:
        folder: A folder next to what the run writes.
        origins: A digest of each input, by the name that a message gives it.
        name: The file's name.
        classes: The classes of records in the state, besides tensors, numbers, texts and plain containers.
    """

    folder: Path
    origins: Mapping[str, str]
    name: str = CHECKPOINT
    classes: Classes = ()

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / self.name

    @property
    def exists(self) -> bool:
        """Whether there is a state."""
        return from_first(self.path.is_file)

    def save(self, state: State) -> None:
        """Write a state. The old file stays whole until the new one is."""
        if is_first():
            part = self.path.with_name(f"{self.name}.part")
            torch.save({**state, "origins": self.origins}, part)
            part.replace(self.path)

    def restore(self, restore: Callable[[State], T], device: torch.device | str = "cpu") -> T:
        """Return what a function makes of the saved state.

        A file that is damaged, or of a run with other inputs, is refused.

        Args:
            restore: Takes the state. Any error that it raises counts as damage.
            device: The device of the state's tensors.
        """
        try:
            state = from_first(lambda: self._read(device))
            return restore(state)
        except SrptqError as error:
            raise SrptqError(f"{self.path}: {error}") from error
        except Exception as error:  # a damaged pickle raises errors of all kinds
            reason = first_line(error)
            raise SrptqError(f"{self.path}: damaged ({reason}); remove {self.folder} to start again") from error

    def _read(self, device: torch.device | str) -> State:
        _check_bytes(self.path)
        with torch.serialization.safe_globals(list(self.classes)):
            state: State = torch.load(self.path, map_location=device, weights_only=True)
        check_origins(state["origins"], self.origins)
        return state

    def remove(self) -> None:
        """Remove the file, if it is there."""
        if is_first():
            for path in (self.path, self.path.with_name(f"{self.name}.part")):
                path.unlink(missing_ok=True)


def check_origins(begun: Mapping[str, str], current: Mapping[str, str]) -> None:
    """Raise an error if the current inputs differ from the inputs at the beginning of the run.

    >>> check_origins({"recipe": "1", "run": "2"}, {"recipe": "1", "run": "3"})
    Traceback (most recent call last):
    srptq_plugin.errors.SrptqError: begun with another run; resume with what it was begun with, or start again
    """
    different = [name for name, digest in current.items() if begun.get(name) != digest]
    if different:
        named = " and another ".join(different)
        raise SrptqError(f"begun with another {named}; resume with what it was begun with, or start again")


def digest(parts: Iterable[bytes]) -> str:
    """Return a digest of some bytes.

    >>> digest([b"one ", b"network"]) == digest([b"one network"])
    True
    """
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def tensor_bytes(tensors: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the names, shapes, types and values of tensors, for a digest."""
    for name, tensor in tensors.items():
        yield f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode()
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _check_bytes(path: Path) -> None:
    """Compare with the checksums in the file. `torch.load` ignores them."""
    with ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"{broken} differs from its checksum")
