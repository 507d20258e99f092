"""The PSNR of a run on images whose originals are known: in the runtime, or else in simulation."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from srptq_plugin.data.metrics import psnr_y
from srptq_plugin.errors import ArgumentError, MissingRuntimeError
from srptq_plugin.evaluation.outputs import FLOAT, RUNTIME, SIMULATED, Outputs
from srptq_plugin.evaluation.pairs import Pair, load_pairs
from srptq_plugin.evaluation.tiling import choose_tiling
from srptq_plugin.runs.run import Forward, Run
from srptq_plugin.utils.distributed import world_size
from srptq_plugin.utils.progress import Progress, quiet

logger = logging.getLogger(__name__)
SIMULATION = "simulation"


@dataclass(frozen=True)
class DropLimit:
    """The PSNR on Y, in dB, that quantization may cost against the float network, and the images that decide it."""

    drop: float
    data: Path

    @classmethod
    def of(cls, max_drop: float | None, data: Path | str | None) -> "DropLimit | None":
        """Check the arguments of `quantize`. Return None if there is no limit."""
        if max_drop is None:
            if data is not None:
                raise ArgumentError("data", "these images only decide a limit on the drop; give `max_drop` as well")
            return None
        if not (math.isfinite(max_drop) and max_drop >= 0):
            raise ArgumentError("max_drop", "give the dB of PSNR that may be lost, such as 0.1", max_drop)
        if data is None:
            raise ArgumentError(
                "max_drop", "PSNR is measured against high-resolution images, which are missing; give `data`", max_drop
            )
        if world_size() > 1:
            raise ArgumentError("max_drop", "several processes do not share this search; start one", max_drop)
        return cls(max_drop, Path(data))


@dataclass(frozen=True)
class Judge:
    """Scores runs on pairs of images, as `evaluate` does."""

    data: str
    pairs: Sequence[Pair]
    device: torch.device
    progress: Progress = quiet

    @classmethod
    def load(cls, data: Path, scale: int, device: torch.device, progress: Progress = quiet) -> "Judge":
        """Load the pairs of a folder. Raise SrptqError if no image can be scored."""
        return cls(data.name, load_pairs(data, scale).usable, device, progress)

    def score_float(self, run: Run) -> list[float]:
        """Return the PSNR of the float network for each image."""
        return self._score(run, FLOAT, run.float(self.device))

    def score(self, run: Run) -> tuple[str, list[float]]:
        """Return the name of the runtime, or "simulation", and the PSNR of the quantized network for each image."""
        if run.artifacts:
            try:
                runtime = run.target.load(run.artifacts[0])
            except MissingRuntimeError as error:
                logger.warning("the drop is judged in simulation: %s", error)
            else:
                return runtime.name, self._score(run, RUNTIME, runtime)
        return SIMULATION, self._score(run, SIMULATED, run.simulation(self.device))

    def _score(self, run: Run, name: str, forward: Forward) -> list[float]:
        tiling = choose_tiling(run.size if run.artifacts else None, None, None)
        outputs = Outputs(run, {name: forward}).wrapped(tiling, ensemble=False)
        scores: list[float] = []
        for done, pair in enumerate(self.pairs):
            self.progress("judging the drop", done, len(self.pairs))
            scores.append(psnr_y(outputs.of_network(name, pair.low.pixels), pair.high.pixels, run.scale))
        self.progress("judging the drop", len(self.pairs), len(self.pairs))
        return scores
