"""Speed of our files compared with NNCF's and ONNX Runtime's own int8 models of the same network, in one run.

    python benchmarks/runtimes.py [--threads 2] [--side 128]

Prints a Markdown table: medians of interleaved runs, ratios to the float network in the same runtime.
Needs `pip install 'srptq-plugin[all,bench]'`.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from srptq_plugin import quantize
from srptq_plugin.graph.types import Array
from srptq_plugin.models.edsr import EDSR

RUNS = 9
Forward = Callable[[Array], Any]
Row = tuple[str, str, Forward, int | None]
"""Runtime, model, a function that runs it, and the number of convolutions in integers."""


class Job(NamedTuple):
    """A network, its image, a folder for files, and the number of threads."""

    network: torch.nn.Module
    image: Array
    folder: Path
    threads: int


def main() -> None:
    """Time every runtime and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    network = EDSR(upscale=4, features=64, blocks=16).eval()
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, arguments.side, arguments.side)).astype(np.float32)
    print(f"EDSR-baseline x4, random weights, {arguments.side} x {arguments.side}, {arguments.threads} threads\n")
    print("| runtime | model | ms | times its float | int8 convs |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for measure in (_onnxruntime, _openvino, _executorch, _ncnn, _torch):
            _report(measure(Job(network, image, Path(folder), arguments.threads)), image)


def _report(rows: Sequence[Row], image: Array) -> None:
    """Time all rows and print them. The runs interleave, so a drifting machine affects all rows alike."""
    seconds: list[list[float]] = [[] for _ in rows]
    for turn in range(RUNS + 2):
        for n, (_, _, forward, _) in enumerate(rows):
            start = time.perf_counter()
            forward(image)
            if turn > 1:
                seconds[n].append(time.perf_counter() - start)
    medians = [statistics.median(row_seconds) for row_seconds in seconds]
    for (runtime, model, _, convs), median in zip(rows, medians, strict=True):
        count = "" if convs is None else convs
        print(f"| {runtime} | {model} | {1000 * median:.0f} | {medians[0] / median:.2f} | {count} |")
    sys.stdout.flush()


def _ours(network: torch.nn.Module, recipe: str, folder: Path, *overrides: str) -> Path:
    out = folder / "-".join([recipe, *overrides]).replace("=", "-")
    small = ["calibration.patches=8", *overrides]
    run = quantize(recipe, model=network, input_range=(0.0, 255.0), out=out, overrides=small)
    return run.artifacts[0]


def _calibration() -> Iterator[Array]:
    generator = np.random.default_rng(1)
    for _ in range(8):
        yield generator.uniform(0, 255, (1, 3, 48, 48)).astype(np.float32)


def _onnxruntime(job: Job) -> list[Row]:
    import onnx  # noqa: PLC0415
    import onnxruntime  # noqa: PLC0415
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static  # noqa: PLC0415

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = ({"input": batch} for batch in _calibration())

        def get_next(self) -> Any:
            return next(self._batches, None)

    def session(path: Path) -> tuple[Forward, int]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.log_severity_level = 3
        options.optimized_model_filepath = str(job.folder / "optimized.onnx")
        loaded = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(job.folder / "optimized.onnx").graph.node

        def forward(image: Array) -> Any:
            return loaded.run(None, {"input": image})

        return forward, sum(node.op_type == "QLinearConv" for node in nodes)

    ours = _ours(job.network, "onnxruntime-w8a8-fast", job.folder)
    plain, static = ours.parent / "model.onnx", job.folder / "static.onnx"
    quantize_static(
        plain, static, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        nodes_to_exclude=[n.name for n in onnx.load(plain).graph.node if _is_mean_shift(n)],
    )  # fmt: skip
    files = {"float": plain, "quantize_static, uint8": static, "ours, onnxruntime-w8a8": ours}
    return [(f"ONNX Runtime {onnxruntime.__version__}", name, *session(path)) for name, path in files.items()]


def _is_mean_shift(node: Any) -> bool:
    return node.op_type == "Conv" and node.input[1].startswith(("sub_mean", "add_mean"))


def _openvino(job: Job) -> list[Row]:
    import nncf  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    import onnx  # noqa: PLC0415
    import openvino  # noqa: PLC0415

    core = openvino.Core()
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": job.threads}

    def compile_model(model: Any) -> tuple[Forward, int]:
        loaded = core.compile_model(model, "CPU", config)
        infos = [op.get_rt_info() for op in loaded.get_runtime_model().get_ops()]
        convs = [info for info in infos if str(info["layerType"].value) == "Convolution"]
        return loaded, sum(str(info["runtimePrecision"].value) in ("u8", "i8") for info in convs)

    ours = {
        "ours, openvino-w8a8 (mixed)": _ours(job.network, "openvino-w8a8-fast", job.folder),
        "ours, preset performance": _ours(job.network, "openvino-w8a8-fast", job.folder, "preset=performance"),
        "ours, placement convs": _ours(job.network, "openvino-w8a8-fast", job.folder, "placement=convs"),
    }
    plain = next(iter(ours.values())).parent / "model.onnx"
    shifts = [node.name for node in onnx.load(plain).graph.node if _is_mean_shift(node)]
    ignored = nncf.IgnoredScope(names=shifts, validate=False)
    rows = [("float (f32)", compile_model(plain))]
    for preset in ("mixed", "performance"):
        model = nncf.quantize(
            core.read_model(plain), nncf.Dataset(list(_calibration())),
            preset=nncf.QuantizationPreset(preset), ignored_scope=ignored,
        )  # fmt: skip
        rows.append((f"NNCF {nncf.__version__}, {preset}", compile_model(model)))
    rows += [(name, compile_model(path)) for name, path in ours.items()]
    runtime = f"OpenVINO {openvino.__version__.split('-')[0]}"
    return [(runtime, name, forward, convs) for name, (forward, convs) in rows]


def _ncnn(job: Job) -> list[Row]:
    from srptq_adapters.targets.ncnn import EMPTY, TARGET  # noqa: PLC0415

    ncnn: Any = import_module("ncnn")

    def load(param: Path, **options: bool) -> Forward:
        net = ncnn.Net()
        net.opt.num_threads = job.threads
        for name, value in options.items():
            setattr(net.opt, name, value)
        net.load_param(str(param))
        net.load_model(str(param.with_suffix(".bin")))
        return partial(forward, net)

    def forward(net: Any, image: Array) -> Any:
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(image[0]).clone())
        return extractor.extract("output")

    ours = _ours(job.network, "ncnn-w8a8-fast", job.folder)
    plain = TARGET.write(ours.parent / "model.onnx", EMPTY, job.folder)[0]
    convs, name = TARGET.load(ours).integer_convs(), f"ncnn {ncnn.__version__}"
    return [
        (name, "float", load(plain), 0),
        (name, "float, bf16 storage", load(plain, use_bf16_storage=True), 0),
        (name, "ours, ncnn-w8a8", load(ours), convs),
        (name, "ours, without Winograd", load(ours, use_winograd_convolution=False), convs),
    ]


def _executorch(job: Job) -> list[Row]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # noqa: PLC0415
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack  # noqa: PLC0415
    from executorch.exir import to_edge_transform_and_lower  # noqa: PLC0415
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e  # noqa: PLC0415

    from srptq_adapters.targets.executorch import TARGET  # noqa: PLC0415

    any_size = ({2: torch.export.Dim.AUTO(max=512), 3: torch.export.Dim.AUTO(max=512)},)

    def export(module: torch.nn.Module) -> torch.export.ExportedProgram:
        return torch.export.export(module, (torch.from_numpy(job.image),), dynamic_shapes=any_size)

    quantizer = xnnpack.XNNPACKQuantizer()
    quantizer.set_global(xnnpack.get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(export(job.network).module(), quantizer)
    with torch.no_grad():
        for batch in _calibration():
            prepared(torch.from_numpy(batch))
    peer = job.folder / "xnnpack.pte"
    lowered = to_edge_transform_and_lower(export(convert_pt2e(prepared)), partitioner=[XnnpackPartitioner()])
    peer.write_bytes(lowered.to_executorch().buffer)
    ours = _ours(job.network, "executorch-w8a8-fast", job.folder)
    files = {"float": ours.parent / "model.onnx", "XNNPACKQuantizer": peer, "ours, executorch-w8a8": ours}
    programs = {name: TARGET.load(path) for name, path in files.items()}
    return [(program.name, name, program, program.integer_convs()) for name, program in programs.items()]


def _torch(job: Job) -> list[Row]:
    from torch._inductor import config  # noqa: PLC0415
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e  # noqa: PLC0415

    from srptq_adapters.torchao import SRQuantizer  # noqa: PLC0415

    config.freezing = True
    example = torch.from_numpy(job.image)
    rows: list[Row] = [("torch", "eager float", _without_gradients(job.network), None)]
    for recipe in ("onnxruntime-w8a8-fast", "openvino-w8a8-fast"):
        exported = torch.export.export(job.network, (example,)).module()
        prepared = prepare_pt2e(exported, SRQuantizer.from_recipe(recipe, input_range=(0.0, 255.0)))
        with torch.no_grad():
            prepared(example)
            compiled = torch.compile(convert_pt2e(prepared))
            compiled(example)
        rows.append(("torch.compile", f"ours, {recipe}", _without_gradients(compiled), None))
    return rows


def _without_gradients(network: Any) -> Forward:
    def forward(image: Array) -> Any:
        with torch.no_grad():
            return network(torch.from_numpy(image))

    return forward


if __name__ == "__main__":
    main()
