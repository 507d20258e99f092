"""What is analyzed: a quantized network, what is known of it, and patches to look at."""

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
        """What a run folder holds; without images those that it was calibrated on, or the sample photographs."""
        settings = run.recipe.calibration
        found = run.images() if images is None else load_images(images, scale=scale)
        size = fixed_size(run.network)
        if size:
            found = [Image(each.name, mirrored(each.pixels, size)) for each in found]
        pixels = random_patches(found, patches, size or run.record.fitted(settings.size), settings.seed)
        return cls(run.network, run.table, run.record, to_tensor(pixels, run.input_range))

    @classmethod
    def of_model(cls, inputs: Inputs, patches: int = PATCHES, progress: Progress = quiet) -> "Subject":
        """A network that was not quantized yet: calibrated by its recipe, without tuning."""
        untuned = replace(inputs, bound=inputs.bound.without_tuning())
        program, table = Calibrator(untuned, progress).run()
        return cls(graph_of(program), table, inputs.loaded.record, inputs.patches[:patches])

    def batch(self, usual: int) -> int:
        """How many patches may run at once, at most as many as usual."""
        return 1 if takes_one_image(self.network) else usual

    def levels(self, error: Tensor) -> Tensor:
        """An error of the network's output in levels of an 8-bit image."""
        low, high = self.record.input_range
        return error.double() * (PEAK / (high - low))
