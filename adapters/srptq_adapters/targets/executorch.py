"""ExecuTorch: a .pte program that XNNPACK computes in int8, with affine activations."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from srptq_adapters.export_options import ExecuTorchExport
from srptq_adapters.targets.native_runtime import without_logs
from srptq_adapters.targets.runtime_import import import_runtime
from srptq_adapters.targets.xnnpack import RULES
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array, Size

FILE = "model_executorch.pte"
DEFAULTS = ExecuTorchExport()
INTEGERS = ("QC8", "QS8")
"""Parts of the names of kernels that compute in int8."""
USUAL_SIDE = 64


class ExecuTorchTarget:
    """int8 affine activations per tensor, int8 symmetric weights per channel, computed by XNNPACK.

    A file takes images of any size up to `largest` or, with an input size, of that size only.
    """

    # XNNPACK's partitioner takes an operation as integer if all of its inputs and its output are.
    presets: Mapping[str, Rules] = {"xnnpack": RULES}

    def require(self) -> None:
        """Raise `MissingRuntimeError` without ExecuTorch, whose compiler writes the program."""
        _compiler()

    def write(
        self, network: Path, table: QuantTable, folder: Path, *, largest: int = DEFAULTS.largest
    ) -> Sequence[Path]:
        """Write one program."""
        (folder / FILE).write_bytes(_compiler().compile_network(network, table, largest))
        return (folder / FILE,)

    def load(self, artifact: Path) -> "ExecuTorchProgram":
        """Load a program, or compile the float network and load that."""
        if artifact.suffix != ".onnx":
            return ExecuTorchProgram(artifact)
        with TemporaryDirectory() as folder:
            program = Path(folder) / FILE
            program.write_bytes(_compiler().compile_network(artifact, None, DEFAULTS.largest))
            return ExecuTorchProgram(program)

    def command(self, artifact: Path, size: Size, *, fixed: bool) -> str:  # noqa: ARG002
        """Return a command that runs the file with ExecuTorch's own tool."""
        return f"executor_runner --model_path={artifact.name}"


def _compiler() -> Any:
    import_runtime("executorch")
    return import_module("srptq_adapters.targets.executorch_program")


class ExecuTorchProgram:
    """A program in ExecuTorch's runtime, with the kernels that a profile of it names."""

    def __init__(self, path: Path) -> None:
        import_runtime("executorch")
        import_module("executorch.kernels.quantized")  # registers kernels
        self.name = f"executorch {version('executorch')}"
        self._content = path.read_bytes()
        runtime = import_module("executorch.runtime").Runtime.get()
        try:
            self._method = runtime.load_program(self._content).load_method("forward")
        except RuntimeError as error:
            raise SrptqError(f"{path}: ExecuTorch does not load it: {first_line(error)}") from error
        self._largest: tuple[int, ...] = tuple(self._method.metadata.input_tensor_meta(0).sizes())
        self._last: tuple[int, ...] | None = None
        """The size of the last image."""

    def __call__(self, image: Array) -> Array:
        """Run a [N, 3, H, W] batch, one image after the other."""
        return np.concatenate([self._run(part) for part in np.split(image, len(image))])

    def _run(self, image: Array) -> Array:
        height, width = image.shape[2:]
        _, _, highest, widest = self._largest
        if height > highest or width > widest:
            raise SrptqError(
                f"ExecuTorch: the program takes images of up to {highest} x {widest}, and this one has {height} x "
                f"{width}; quantize with a larger `export.largest`, or evaluate by tiles"
            )
        # The first run starts threads, and logs about the processor.
        silence = without_logs() if self._last is None else nullcontext()
        self._last = image.shape
        try:
            with silence:
                return np.asarray(self._method.execute([torch.from_numpy(np.ascontiguousarray(image))])[0])
        except RuntimeError as error:
            raise SrptqError(f"ExecuTorch does not run {height} x {width}: {first_line(error)}") from error

    def integer_convs(self) -> int:
        """Return how many convolutions run in integers, by XNNPACK's profile."""
        return sum(self.kernels().values())

    def kernels(self) -> Mapping[str, int]:
        """Count integer convolutions by the kernel that XNNPACK names, for the size of the last image."""
        # A convolution of 1 x 1 is a fully connected layer to XNNPACK.
        convs = (name for name in self._profile() if "onvolution" in name or "Fully Connected" in name)
        return Counter(name for name in convs if any(kind in name for kind in INTEGERS))

    def saturates(self) -> bool:
        """Return False: XNNPACK's kernels for x86 add products in 32 bits, with and without VNNI."""
        return False

    def _profile(self) -> list[str]:
        """Return the names of XNNPACK's kernels, in the order in which they run."""
        library = import_module("executorch.extension.pybindings.portable_lib")
        serialize = import_module("executorch.devtools.etdump.serialize")
        with TemporaryDirectory() as folder, without_logs():
            # Only the bindings behind `executorch.runtime` write profiles.
            module = library._load_for_executorch_from_buffer(self._content, enable_etdump=True)  # noqa: SLF001
            module.forward([torch.zeros(self._last or [min(side, USUAL_SIDE) for side in self._largest])])
            path = Path(folder) / "profile"
            module.write_etdump_result_to_file(str(path), str(path.with_suffix(".debug")))
            profile = serialize.deserialize_from_etdump_flatcc(path.read_bytes())
        events = (event.profile_event for run in profile.run_data for event in run.events or ())
        names = (event.delegate_debug_id_str for event in events if event)
        return [name.rsplit(" #")[0] for name in names if name]


TARGET = ExecuTorchTarget()
