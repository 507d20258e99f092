"""NNCF and ONNX Runtime's quantize_static, with their defaults, on a float file and calibration patches."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from srptq_plugin.graph.types import Array


def nncf_file(plain: Path, patches: Sequence[Array], folder: Path) -> Path:
    """Quantize for OpenVINO as NNCF's guide does."""
    import nncf  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    import openvino  # noqa: PLC0415

    model = nncf.quantize(openvino.Core().read_model(plain), nncf.Dataset(list(patches)), subset_size=len(patches))
    path = folder / "nncf.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def static_file(plain: Path, patches: Sequence[Array], folder: Path) -> Path:
    """Quantize with ONNX Runtime's own tool, with a scale per output channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static  # noqa: PLC0415
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = ({"input": patch} for patch in patches)

        def get_next(self) -> Any:
            return next(self.batches, None)

    prepared, path = folder / "prepared.onnx", folder / "static.onnx"
    quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        prepared, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return path


PEERS: Mapping[str, Callable[[Path, Sequence[Array], Path], Path]] = {
    "openvino": nncf_file,
    "onnxruntime": static_file,
}
