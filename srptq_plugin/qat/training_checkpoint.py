"""The checkpoint of a training, from which it goes on after an interruption."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.qat.provenance import check_origins
from srptq_plugin.qat.training import Training, Validation, validation_of

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A file with the state of a training, its validations, and digests of its images, recipe and run."""

    folder: Path
    origins: Mapping[str, str]

    @property
    def path(self) -> Path:
        """The file, in a folder next to the run that the training writes."""
        return self.folder / CHECKPOINT

    def save(self, training: Training, log: list[Validation]) -> None:
        """Write the state of a training. The old checkpoint stays whole until the new one is."""
        part = self.path.with_name(f"{self.path.name}.part")
        state = {**training.state(), "log": [asdict(record) for record in log], "origins": self.origins}
        torch.save(state, part)
        part.replace(self.path)

    def restore(self, training: Training) -> list[Validation]:
        """Set a training to the saved state. Return the validations until then.

        A checkpoint that is damaged, or of a training from other images, another recipe or another run, is refused.
        """
        try:
            _check_bytes(self.path)
            state: Mapping[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            check_origins(state["origins"], self.origins)
            log = [validation_of(record) for record in state["log"]]
            training.resume(state)
            _check_log(log, training.done)
        except SrptqError as error:
            raise SrptqError(f"{self.path}: {error}") from error
        except Exception as error:  # a damaged pickle raises errors of all kinds
            reason = first_line(error)
            raise SrptqError(f"{self.path}: damaged ({reason}); remove {self.folder} to start again") from error
        return log


def _check_bytes(path: Path) -> None:
    """Compare with the checksums in the file. `torch.load` ignores them."""
    with ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"{broken} differs from its checksum")


def _check_log(log: list[Validation], done: int) -> None:
    if [record.step for record in log][-1:] != [done]:
        raise ValueError(f"its log does not end at step {done}")
