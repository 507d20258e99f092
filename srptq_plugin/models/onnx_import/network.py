"""The module of a network that was read from an ONNX file."""

from collections.abc import Mapping

from torch import Tensor, nn

from srptq_plugin.models.onnx_import.container import Items, Values, run
from srptq_plugin.models.onnx_import.graph import OnnxGraph
from srptq_plugin.models.onnx_import.operation import Numbers


class ImportedNetwork(nn.Module):
    """A network from an ONNX file, from an image to an image, or to several by their names."""

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        self._image, self._outputs = graph.image, graph.outputs
        self._items: Items = ()
        self._constants: dict[str, Numbers] = {}
        self._parameter_paths: dict[str, str] = {}

    def complete(self, items: Items, constants: Mapping[str, Numbers], parameter_paths: Mapping[str, str]) -> None:
        """Set what runs, and the constants that it reads. Parameters of this module have a path instead."""
        self._items = items
        self._constants, self._parameter_paths = dict(constants), dict(parameter_paths)

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        """Run the file's operations on an image [N, C, H, W]."""
        values: Values = dict(self._constants)
        values |= {name: self.get_parameter(path) for name, path in self._parameter_paths.items()}
        values[self._image.name] = image.permute(0, 2, 3, 1) if self._image.channels_last else image
        run(self, values, self._items)
        images = {port.name: values[port.name] for port in self._outputs}
        images |= {port.name: images[port.name].permute(0, 3, 1, 2) for port in self._outputs if port.channels_last}
        return next(iter(images.values())) if len(images) == 1 else images
