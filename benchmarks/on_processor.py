"""Run a file in its runtime on images, alone in a process, so that the processor can be another one.

    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/on_processor.py openvino model_openvino.xml images.npz outputs.npz
    qemu-x86_64 -cpu Haswell python benchmarks/on_processor.py onnxruntime model_onnxruntime.onnx images.npz outputs.npz

The outputs are written with the median milliseconds of the first image, whose runs are repeated by `--runs`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 2
Forward = Callable[[Any], Any]


def main() -> None:
    """Run every image of a file once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtime", choices=["openvino", "onnxruntime"])
    for name in ("model", "images", "outputs"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    forward = _openvino(arguments.model) if arguments.runtime == "openvino" else _onnxruntime(arguments.model)
    images = np.load(arguments.images)
    outputs: dict[str, Any] = {name: np.asarray(forward(images[name])) for name in images.files}
    milliseconds = [_timed(forward, images[images.files[0]]) for _ in range(arguments.runs)]
    outputs["milliseconds"] = np.array(statistics.median(milliseconds))
    np.savez(arguments.outputs, **outputs)


def _timed(forward: Forward, image: Any) -> float:
    start = time.perf_counter()
    forward(image)
    return 1000 * (time.perf_counter() - start)


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
