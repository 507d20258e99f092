"""The options of the targets' writers. They are apart, so that listing plugins imports no target."""

from typing import Annotated, Literal

from srptq_plugin.utils.field_types import Flag, whole
from srptq_plugin.utils.options import Options


class SnpeExport(Options):
    """The options of `export` for SNPE and QNN."""

    format: Literal["encodings", "qdq"] = "encodings"
    """`encodings` is the float file and encodings for Qualcomm's converter, `qdq` a file for ONNX Runtime's QNN."""
    encodings: Literal["1.0.0", "0.6.1", "2.0.0"] = "1.0.0"
    """The version of the encodings file."""


class TensorRTExport(Options):
    """The options of `export` for TensorRT."""

    float: Literal["fp32", "fp16"] = "fp32"
    """The type of what lies outside of Q/DQ. `fp16` runs it faster, with scales of half precision."""
    calibration_cache: Flag = False
    """`true` also writes a calibration cache."""


class ExecuTorchExport(Options):
    """The options of `export` for ExecuTorch."""

    largest: Annotated[int, whole(2, 2**14)] = 512
    """The largest height and width of an image, for programs of any size: ExecuTorch plans their memory."""


class LiteRtExport(Options):
    """The options of `export` for LiteRT."""

    io: Literal["float", "int8"] = "float"
    """The type of the images that the file takes and gives."""
