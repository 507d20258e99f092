"""The outputs of a run for an image, in pixels: of float, simulation, runtime and bicubic."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from srptq_plugin.data.images import fitted, to_pixels, to_tensor, upscale
from srptq_plugin.data.resize import Pixels
from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.ensemble import ensembled
from srptq_plugin.evaluation.tiling import Tiling, tiled
from srptq_plugin.graph.types import Array
from srptq_plugin.runs.run import SUMMARY, Forward, Run

FLOAT, SIMULATED, RUNTIME, BICUBIC = "float", "simulated", "runtime", "bicubic"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """The networks of a run as functions on pixels, and bicubic interpolation, by name."""

    run: Run
    networks: Mapping[str, Forward]

    @classmethod
    def of(cls, run: Run, device: torch.device) -> "Outputs":
        """Load the networks. Leave out the runtime if the run has none, or if it cannot be loaded."""
        networks = {FLOAT: run.float(device), SIMULATED: run.simulation(device)}
        if run.artifacts:
            try:
                networks[RUNTIME] = run.target.load(run.artifacts[0])
            except SrptqError as error:
                logger.warning("the runtime is left out: %s", error)
        return cls(run, networks)

    def wrapped(self, tiling: Tiling | None, *, ensemble: bool) -> "Outputs":
        """Return the outputs of networks that run in tiles, or as ensembles."""
        wrapped = {name: _wrapped(network, tiling, self.run.scale, ensemble) for name, network in self.networks.items()}
        return Outputs(self.run, wrapped)

    def of_image(self, low: Pixels) -> dict[str, Pixels]:
        """Upscale an image in every way, bicubic last."""
        names = *self.networks, BICUBIC
        return {name: self._upscaled(self.networks.get(name), low) for name in names}

    def of_network(self, name: str, low: Pixels) -> Pixels:
        """Upscale an image by one of the networks."""
        return self._upscaled(self.networks[name], low)

    def _upscaled(self, forward: Forward | None, low: Pixels) -> Pixels:
        run = self.run
        if forward is None:
            return upscale(low, run.scale)
        image = to_input(run, low)
        output = forward(image)
        if output.shape[2:] != tuple(run.scale * side for side in image.shape[2:]):
            raise SrptqError(
                f"{run.folder / SUMMARY}: says that the network upscales by {run.scale}, which gives no output of "
                f"{output.shape[2]}x{output.shape[3]} (height, width); run `srptq quantize` again"
            )
        height, width = (run.scale * side for side in low.shape[:2])
        return to_pixels(torch.from_numpy(output[0, :, :height, :width]), run.input_range)


def to_input(run: Run, low: Pixels) -> Array:
    """Convert pixels to an input of the network, [1, channels, height, width], of sides that it takes."""
    return to_tensor(fitted(low, run.record.multiple)[None], run.input_range, run.record.channels).numpy()


def _wrapped(forward: Forward, tiling: Tiling | None, scale: int, ensemble: bool) -> Forward:  # noqa: FBT001
    in_parts = tiled(forward, tiling, scale) if tiling else forward
    return ensembled(in_parts) if ensemble else in_parts
