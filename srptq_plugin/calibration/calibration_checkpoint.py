"""The checkpoints of a calibration: after each phase, and within a reconstruction that can go on from one."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from srptq_plugin.calibration.calibration_state import CLASSES, CalibrationState, origins_of
from srptq_plugin.calibration.inputs import Inputs
from srptq_plugin.errors import SrptqError
from srptq_plugin.runs.atomic_folder import writing
from srptq_plugin.utils.checkpoint import CHECKPOINT, Checkpoint, State
from srptq_plugin.utils.distributed import LostProcessError, from_first, is_first

logger = logging.getLogger(__name__)
RECONSTRUCTION = "reconstruction.pt"


@dataclass(frozen=True)
class CalibrationCheckpoint:
    """The files of a calibration that may stop: the state after its last phase, and the state of its reconstruction."""

    phases: Checkpoint
    reconstruction: Checkpoint

    @classmethod
    def make(cls, folder: Path, inputs: Inputs, program: ExportedProgram) -> "CalibrationCheckpoint | None":
        """Make the folder. Return None, with a warning, where it cannot be made."""
        if not from_first(lambda: _make(folder)):
            return None
        origins = origins_of(inputs, program)
        return cls(Checkpoint(folder, origins, CHECKPOINT, CLASSES), Checkpoint(folder, origins, RECONSTRUCTION))

    def load(self) -> CalibrationState:
        """Return the saved state."""
        return self.phases.restore(_checked)

    def begin(self, state: CalibrationState) -> None:
        """Write the first state, in place of the states of an earlier run."""
        self.reconstruction.remove()
        self.save(state)

    def save(self, state: CalibrationState) -> None:
        """Write the state after a phase."""
        with writing(str(self.phases.folder), self.phases.folder):
            self.phases.save({"calibration": state})

    def remove(self) -> None:
        """Remove all files, and the folder."""
        self.reconstruction.remove()
        self.phases.remove()
        self._tidy()

    @contextmanager
    def guarding(self) -> Generator[None]:
        """Say how to go on if a calibration is stopped that has a state."""
        try:
            yield
        except BaseException as error:
            mistake = isinstance(error, SrptqError) and not isinstance(error, LostProcessError)
            if is_first() and not mistake and self.phases.path.is_file():
                logger.warning("stopped; %s holds what was calibrated: continue with `resume=True`", self.phases.folder)
            raise
        finally:
            self._tidy()

    @contextmanager
    def keeping(self) -> Generator[None]:
        """Add to the error of a file that cannot be written or loaded that the calibration is not lost."""
        try:
            yield
        except SrptqError as error:
            raise SrptqError(
                f"{error}\nthe calibration is kept in {self.phases.folder}: with `resume=True` only the files are "
                "written and verified again"
            ) from error

    def _tidy(self) -> None:
        """Remove the folder if it is empty."""
        if is_first() and self.phases.folder.is_dir() and not any(self.phases.folder.iterdir()):
            self.phases.folder.rmdir()


def _make(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("%s: cannot be made (%s), so this run cannot be resumed", folder, error.strerror)
        return False
    return True


def _checked(state: State) -> CalibrationState:
    calibration: Any = state["calibration"]
    if not isinstance(calibration, CalibrationState):
        raise TypeError("not the state of a calibration")
    return calibration
