"""The subject of an analysis: a quantized network, its record, and image patches."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, fx

from srptq_plugin.calibration.calibrator import Calibrator
from srptq_plugin.calibration.inputs import Inputs
from srptq_plugin.data.images import Image, load_images, mirrored, random_patches, to_tensor
from srptq_plugin.data.metrics import PEAK
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.graph.export import graph_of
from srptq_plugin.models.model_record import ModelRecord
from srptq_plugin.planning.prepared_graph import fixed_size, takes_one_image
from srptq_plugin.runs.run import Run
from srptq_plugin.utils.progress import Progress, quiet

PATCHES = 8


@dataclass(frozen=True)
class Subject:
    """The float network, the table that quantizes it, and patches of images."""

    network: fx.GraphModule
    table: QuantTable
    record: ModelRecord
    patches: Tensor

    @classmethod
    def of_run(
        cls, run: Run, images: Path | None = None, scale: int | None = None, patches: int = PATCHES
    ) -> "Subject":
        """Take a run folder's network. By default take its calibration images, or else the sample photographs."""
        settings = run.recipe.calibration
        loaded = run.images() if images is None else load_images(images, scale=scale)
        size = fixed_size(run.network)
        if size:
            loaded = [Image(image.name, mirrored(image.pixels, size)) for image in loaded]
        pixels = random_patches(loaded, patches, size or run.record.fitted(settings.size), settings.seed)
        return cls(run.network, run.table, run.record, to_tensor(pixels, run.input_range, run.record.channels))

    @classmethod
    def of_model(cls, inputs: Inputs, patches: int = PATCHES, progress: Progress = quiet) -> "Subject":
        """Calibrate a network by its recipe, without tuning."""
        untuned = replace(inputs, bound=inputs.bound.without_tuning())
        program, table = Calibrator(untuned, progress).run()
        return cls(graph_of(program), table, inputs.loaded.record, inputs.patches[:patches])

    def batch(self, usual: int) -> int:
        """Return how many patches may run at once: the usual number, or 1 if the network takes no batches."""
        return 1 if takes_one_image(self.network) else usual

    def levels(self, error: Tensor) -> Tensor:
        """Convert an error of the network's output to levels of an 8-bit image."""
        low, high = self.record.input_range
        return error.double() * (PEAK / (high - low))
