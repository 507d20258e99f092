"""Run a file in its runtime on images, in a process of its own that can have another processor or instruction set.

ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/on_processor.py openvino model_openvino.xml images.npz outputs.npz
qemu-x86_64 -cpu Haswell python benchmarks/on_processor.py onnxruntime model_onnxruntime.onnx images.npz outputs.npz
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 2
Forward = Callable[[Any], Any]


def main() -> None:
    """Run the model once on every image and store the outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtime", choices=["openvino", "onnxruntime"])
    for name in ("model", "images", "outputs"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    forward = _openvino(arguments.model) if arguments.runtime == "openvino" else _onnxruntime(arguments.model)
    images = np.load(arguments.images)
    outputs: dict[str, Any] = {name: np.asarray(forward(images[name])) for name in images.files}
    np.savez(arguments.outputs, **outputs)


def _openvino(model: Path) -> Forward:
    import openvino  # noqa: PLC0415

    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
    compiled = openvino.Core().compile_model(model, "CPU", config)

    def forward(image: Any) -> Any:
        return compiled(image)[0]

    return forward


def _onnxruntime(model: Path) -> Forward:
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def forward(image: Any) -> Any:
        return session.run(None, {name: image})[0]

    return forward


if __name__ == "__main__":
    main()
