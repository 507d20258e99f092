"""Networks that MQBench quantizes and deploys, and the files that it writes."""

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from helpers import networks
from helpers.runtimes import Array, integers

# The adapter comes first, as it makes MQBench importable.
_, deploying, platform, quantize_base, switches = map(
    import_module,
    (
        "srptq_adapters.mqbench",
        "mqbench.convert_deploy",
        "mqbench.prepare_by_platform",
        "mqbench.fake_quantize.quantize_base",
        "mqbench.utils.state",
    ),
)

SYMMETRIC = {
    "Academic": True,
    "Tensorrt": True,
    "SNPE": False,
    "OPENVINO": True,
    "QDQ": True,
    "PPLCUDA": False,
}
"""The backends, and whether MQBench's defaults for them are symmetric."""
FLOAT_FILES = ("Tensorrt", "SNPE", "PPLCUDA")
"""Backends whose deployed file is the float network."""
IMAGES = networks.images(2, seed=5)


class Plain(nn.Module):
    """A network without residuals, as OpenVINO fuses an add into the convolution before it and skips a quantizer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.grow = nn.Conv2d(6, 24, 3, padding=1)
        self.tail = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(functional.pixel_shuffle(self.grow(functional.relu(self.head(x))), 2))


@dataclass(frozen=True)
class Deployed:
    """A quantized model, and the folder with its files."""

    model: fx.GraphModule
    folder: Path

    @property
    def drawn(self) -> Array:
        with torch.no_grad():
            return self.model(IMAGES).numpy()

    @property
    def qdq(self) -> Path:
        return self.folder / "m.onnx"

    @property
    def deployed(self) -> Path:
        return self.folder / "m_deploy_model.onnx"

    @property
    def encodings(self) -> dict[str, Any]:
        return json.loads((self.folder / "m_clip_ranges.json").read_text())

    @property
    def quantizers(self) -> list[Any]:
        return [module for module in self.model.modules() if isinstance(module, quantize_base.QuantizeBase)]


def quantized(network: nn.Module, backend: str, **qconfig: Any) -> fx.GraphModule:
    stock = dict.fromkeys(("w_fakequantize", "a_fakequantize"), "FixedFakeQuantize")
    config = {"w_observer": "MinMaxObserver", "a_observer": "dbdc", **stock, **qconfig}
    model = platform.prepare_by_platform(network, platform.BackendType[backend], {"extra_qconfig_dict": config}).eval()
    switches.enable_calibration(model)
    with torch.no_grad():
        model(networks.images(seed=1))
    switches.enable_quantization(model)
    return model


def schemes(backend: str, bits: int, per: str = "channel") -> dict[str, Any]:
    shared = {"bit": bits, "symmetry": SYMMETRIC[backend], "pot_scale": False}
    return {"w_qscheme": shared | {"per_channel": per == "channel"}, "a_qscheme": shared | {"per_channel": False}}


def convert(model: fx.GraphModule, backend: str, folder: Path) -> None:
    backend_type = platform.BackendType[backend]
    deploying.convert_deploy(model, backend_type, {"x": list(IMAGES.shape)}, output_path=str(folder), model_name="m")


def written(folder: Path, network: nn.Module, backend: str, **qconfig: Any) -> Deployed:
    model = quantized(network, backend, **qconfig)
    convert(model, backend, folder)
    return Deployed(model, folder)


def floats(kind: str = "edsr") -> Array:
    with torch.no_grad():
        return networks.network(kind)(IMAGES).numpy()


def out_of_range(deployed: Deployed) -> int:
    """Count the integers of a file that lie outside the ranges of the model's quantizers, matched by their scales."""
    ends = {float(quantizer.scale[0]): (quantizer.quant_min, quantizer.quant_max) for quantizer in deployed.quantizers}
    wrong = 0
    for scale, values in integers(deployed.qdq, IMAGES):
        low, high = ends[float(scale[0])]
        wrong += int(((values < low) | (values > high)).sum())
    return wrong
