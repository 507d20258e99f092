"""ncnn: .param and .bin in int8. Convolutions run in integers, everything between them in floats."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from srptq_adapters.targets.native_runtime import count_usable_cores
from srptq_adapters.targets.ncnn_file import INPUT, INT8_TERM, OUTPUT, PART, write
from srptq_adapters.targets.ncnn_layers import translate
from srptq_adapters.targets.runtime_import import import_runtime
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.fusion import Fusion
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array, Size
from srptq_plugin.planning.plan import Plan
from srptq_plugin.quantization.grid import IntGrid

STEM = "model_ncnn"
INT8 = IntGrid(8, signed=True, symmetric=True, narrow_range=True)
ACTIVATIONS = ("clamp", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "relu6", "sigmoid")
REDUCED = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")
"""Options that let ncnn compute the float parts in 16 bits."""
TERM = f"{INT8_TERM}="
EMPTY = QuantTable(Plan((), (), (), {}), {}, {}, {})


class NcnnTarget:
    """int8 with one symmetric scale per tensor, and one scale for each output channel of a weight.

    Between two convolutions and the activation that the first one computes, the file keeps integers.
    """

    presets: Mapping[str, Rules] = {
        "default": Rules(
            weights=IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0),
            activations=INT8,
            weight_bits=frozenset({8}),
            activation_bits=frozenset({8}),
            placements=("convs",),
            inputs=frozenset({"conv"}),
            outputs=frozenset(),
            fusions=tuple(Fusion(activation, behind="conv") for activation in ACTIVATIONS),
        )
    }

    def require(self) -> None:
        """Accept every machine: writing needs ONNX only."""

    def check(self, network: onnx.ModelProto) -> None:
        """Translate the float network, which fails as the network of integers would."""
        translate(network, EMPTY)

    def write(self, network: Path, table: QuantTable, folder: Path) -> Sequence[Path]:
        """Write the network (.param), its weights (.bin), and the scales as a table for ncnn2int8."""
        return write(translate(onnx.load(network), table), folder, STEM)

    def load(self, artifact: Path) -> "NcnnNet":
        """Load a .param file with its .bin file, or a float ONNX file."""
        return NcnnNet(artifact)

    def command(self, artifact: Path, size: Size, *, fixed: bool) -> str:  # noqa: ARG002
        """Return a command that times the file with ncnn's own tool."""
        _, channels, height, width = size
        return f"benchncnn 8 $(nproc) 0 -1 0 param={artifact.name} shape=[{width},{height},{channels}]"


class NcnnNet:
    """A file in ncnn, on the CPU."""

    def __init__(self, artifact: Path) -> None:
        self._ncnn = import_runtime("ncnn")
        self.name = f"ncnn {self._ncnn.__version__}"
        self._net = self._ncnn.Net()
        # ncnn also counts cores that this process may not use, on which its threads would wait for each other.
        self._net.opt.num_threads = min(self._net.opt.num_threads, count_usable_cores())
        for option in REDUCED:
            setattr(self._net.opt, option, False)
        if artifact.suffix == ".onnx":
            with TemporaryDirectory() as folder:
                self._load(write(translate(onnx.load(artifact), EMPTY), Path(folder), STEM)[0])
        else:
            self._load(artifact)

    def _load(self, param: Path) -> None:
        model = param.with_suffix(".bin")
        if self._net.load_param(str(param)) or self._net.load_model(str(model)):
            raise SrptqError(f"{param}: ncnn does not load it with {model.name}; run `srptq quantize` again")
        layers = [line.split() for line in param.read_text().splitlines()[2:]]
        integers = [name for _, name, *rest in layers if any(field.startswith(TERM) for field in rest)]
        self._integers = {name.partition(PART)[0] for name in integers}  # a convolution in groups is several layers

    def __call__(self, image: Array) -> Array:
        """Run a [N, 3, H, W] batch, image by image."""
        return np.stack([self._run(np.ascontiguousarray(single, np.float32)) for single in image])

    def _run(self, image: Array) -> Array:
        with self._net.create_extractor() as extractor:
            # A Mat shares the memory of its array, and does not keep it alive.
            extractor.input(INPUT, self._ncnn.Mat(image).clone())
            failed, output = extractor.extract(OUTPUT)
            if failed:
                _, height, width = image.shape
                raise SrptqError(f"ncnn does not run the network on an image of {width} x {height}; give another size")
            return np.array(output)

    def integer_convs(self) -> int:
        """Return how many convolutions run in integers, by the loaded file.

        ncnn runs every layer with 8-bit weights in integers, and a build without integers refuses the file.
        """
        return len(self._integers)


TARGET = NcnnTarget()
