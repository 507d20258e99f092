"""All built-in hook implementations. No toolkit and no runtime is imported before it is used."""

from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from srptq_adapters.export_options import ExecuTorchExport, LiteRtExport, SnpeExport, TensorRTExport
from srptq_plugin.errors import NotInstalledError, SrptqError
from srptq_plugin.models.model_options import EdsrOptions, RdnOptions, RrdbOptions, SizeOptions, UpscaleOptions
from srptq_plugin.observers.observer_options import DbdcOptions, PercentileOptions, SearchOptions
from srptq_plugin.plugins.entries import (
    ModelEntry,
    ObserverEntry,
    QuantizerEntry,
    ReconstructionEntry,
    TargetEntry,
    ToolkitEntry,
)
from srptq_plugin.plugins.hookspecs import hookimpl
from srptq_plugin.plugins.protocols import Toolkit
from srptq_plugin.qat.quantizer_options import DaqOptions, DdtbOptions, LinearOptions, MixedDaqOptions
from srptq_plugin.reconstruction.pac_options import PacOptions

MQBENCH = "git+https://github.com/ModelTC/MQBench@00f477d"
OURS = ("srptq_plugin", "srptq_adapters")


def lazy(path: str, extra: str = "") -> Callable[[], Any]:
    """Return a callable that imports `module:attribute` when it is called.

    >>> lazy("math:pi")()
    3.141592653589793
    """
    return partial(_imported, path, extra)


def _imported(path: str, extra: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if not error.name or error.name.split(".")[0] in OURS or not extra:
            raise
        raise SrptqError(f"{error.name} is not installed; pip install 'srptq-plugin[{extra}]'") from error


def _family(path: str) -> Callable[[], Any]:
    return lazy(f"srptq_plugin.models.{path}")


def _target(name: str) -> Callable[[], Any]:
    return lazy(f"srptq_adapters.targets.{name}:TARGET")


def _observer(path: str) -> Callable[[], Any]:
    return lazy(f"srptq_plugin.observers.{path}")


def _torchao() -> Toolkit:
    return lazy("srptq_adapters.torchao.torchao_toolkit:TorchaoToolkit", "torchao")()()


def _mqbench() -> Toolkit:
    spec = find_spec("mqbench")
    if spec is None or spec.origin is None:
        raise NotInstalledError(
            f"MQBench is not installed, and not on PyPI; pip install --no-deps {MQBENCH}, then 'srptq-plugin[mqbench]'"
        )
    try:
        return lazy("srptq_adapters.mqbench.mqbench_toolkit:MqbenchToolkit", "mqbench")()()
    except ImportError as error:
        raise SrptqError(f"MQBench does not import: {error}; the README names the versions that were run") from error


@hookimpl
def srptq_toolkits() -> Iterable[ToolkitEntry]:
    """Register the toolkits, each in a folder of its own."""
    return [
        ToolkitEntry("torchao", "PT2E: prepare_pt2e with the plan's annotations", _torchao),
        ToolkitEntry("mqbench", "prepare_by_platform with the plan's placement", _mqbench, host=True),
    ]


@hookimpl
def srptq_targets() -> Iterable[TargetEntry]:
    """Return the targets, one module each."""
    return [
        TargetEntry("paper", "unconstrained quantizer, simulation only", _target("paper")),
        TargetEntry("onnxruntime", "QDQ ONNX, uint8 affine, CPU", _target("onnxruntime"), aliases=("ort",)),
        TargetEntry("openvino", "QDQ ONNX, mixed or performance preset", _target("openvino"), aliases=("ov",)),
        TargetEntry(
            "tensorrt", "QDQ ONNX, int8 symmetric", _target("tensorrt"), aliases=("trt",), options=TensorRTExport
        ),
        TargetEntry(
            "snpe", "float ONNX with encodings, SNPE and QNN", _target("snpe"), aliases=("qnn",), options=SnpeExport
        ),
        TargetEntry(
            "executorch",
            "a program for XNNPACK, int8 affine",
            _target("executorch"),
            aliases=("xnnpack",),
            options=ExecuTorchExport,
        ),
        TargetEntry(
            "litert", "a .tflite file, int8 affine", _target("litert"), aliases=("tflite",), options=LiteRtExport
        ),
        TargetEntry("ncnn", "param and bin, int8 symmetric", _target("ncnn")),
    ]


@hookimpl
def srptq_observers() -> Iterable[ObserverEntry]:
    """Register the observers, each in a file of its own."""
    return [
        ObserverEntry("dbdc", "density-based dual clipping", _observer("dbdc:DBDCObserver"), options=DbdcOptions),
        ObserverEntry("minmax", "the plain extremes", _observer("minmax:MinMaxObserver")),
        ObserverEntry(
            "percentile",
            "a percentile at each end",
            _observer("percentile:PercentileObserver"),
            options=PercentileOptions,
        ),
        ObserverEntry("mse", "the least squared error", _observer("mse:MSEObserver"), options=SearchOptions),
        ObserverEntry(
            "entropy",
            "the least divergence, as TensorRT's",
            _observer("entropy:EntropyObserver"),
            options=SearchOptions,
        ),
    ]


@hookimpl
def srptq_reconstructions() -> Iterable[ReconstructionEntry]:
    """Register the reconstructions."""
    means = lazy("srptq_plugin.reconstruction.bias_correction:reconstruct")
    return [
        ReconstructionEntry(
            "pac", "pixel-aware calibration", lazy("srptq_plugin.reconstruction.pac:reconstruct"), options=PacOptions
        ),
        ReconstructionEntry("bias-correction", "the float network's mean in each channel (Nagel et al. 2019)", means),
    ]


@hookimpl
def srptq_quantizers() -> Iterable[QuantizerEntry]:
    """Register the fake-quantizers."""
    load = lazy("srptq_plugin.quantization.quantizer:BoundedFakeQuantize")
    pams = lazy("srptq_plugin.qat.pams:PamsFakeQuantize")
    fqsr = lazy("srptq_plugin.qat.fqsr:FqsrFakeQuantize")
    daq, mixed = lazy("srptq_plugin.qat.daq:DaqFakeQuantize"), lazy("srptq_plugin.qat.daq:MixedDaqFakeQuantize")
    linear = lazy("srptq_plugin.qat.dynamic:LinearFakeQuantize")
    ddtb = lazy("srptq_plugin.qat.ddtb:DdtbFakeQuantize")
    return [
        QuantizerEntry("bounded", "both bounds learnable, on the target's grid", load),
        QuantizerEntry("pams", "one learnable maximum, on both sides alike (Li et al. 2020)", pams),
        QuantizerEntry("fqsr", "one learnable interval, signed or not (Wang et al. 2020)", fqsr),
        QuantizerEntry(
            "daq",
            "each channel of each image by its mean and deviation (Hong et al. 2022); simulated",
            daq,
            options=DaqOptions,
        ),
        QuantizerEntry(
            "daq-m",
            "the same with a bit more or less by the channel's deviation; simulated",
            mixed,
            options=MixedDaqOptions,
        ),
        QuantizerEntry(
            "ddtb",
            "both bounds, scaled by gates image by image (Zhong et al. 2022); simulated",
            ddtb,
            options=DdtbOptions,
        ),
        QuantizerEntry(
            "linear",
            "between the extremes of each image, as DAQ is compared with; simulated",
            linear,
            options=LinearOptions,
        ),
    ]


@hookimpl
def srptq_models() -> Iterable[ModelEntry]:
    """Register the families of reference networks, each in a file of its own."""
    mini = "EDSR of 16 blocks and 32 features, with its weights for x2 and x4"
    edsr = "EDSR (Lim et al. 2017); weights of EDSR-PyTorch or BasicSR"
    srresnet = "SRResNet without batch norm; weights of BasicSR's MSRResNet"
    srgan = "generator of SRGAN (Ledig et al. 2017); weights of leftthomas/SRGAN"
    rdn = "RDN (Zhang et al. 2018); weights of EDSR-PyTorch"
    rrdb = "generator of ESRGAN (Wang et al. 2018); weights of ESRGAN, Real-ESRGAN or BasicSR"
    srvgg = "SRVGGNetCompact (Wang et al. 2021); weights of Real-ESRGAN's small networks"
    imdn = "IMDN (Hui et al. 2019); weights of Zheng222/IMDN"
    rfdn = "RFDN (Liu et al. 2020); weights of njulj/RFDN"
    rlfn = "RLFN (Kong et al. 2022); weights of bytedance/RLFN"
    mlperf = "EDSR of MLPerf Mobile (edsr_f32b5), for images of 0 to 255"
    espcn = "ESPCN (Shi et al. 2016) for Y or RGB; weights of yjn870 or Lornatang"
    fsrcnn = "FSRCNN (Dong et al. 2016) for Y or RGB; weights of yjn870 or Lornatang"
    span = "SPAN (Wan et al. 2024); weights of hongyuanyu/SPAN or neosr"
    pan = "PAN (Zhao et al. 2020); weights of zhaohengyuan1/PAN"
    bsrn = "BSRN and BSRN-S (Li et al. 2022); weights of xiaom233/BSRN"
    carn = "CARN and CARN-M (Ahn et al. 2018); weights of nmhkahn/CARN-pytorch"
    return [
        ModelEntry("edsr-mini", mini, _family("edsr:MINI_FAMILY"), options=EdsrOptions),
        ModelEntry("edsr", edsr, _family("edsr:FAMILY"), options=EdsrOptions),
        ModelEntry("srresnet", srresnet, _family("srresnet:FAMILY"), options=SizeOptions),
        ModelEntry("srgan", srgan, _family("srgan:FAMILY"), options=SizeOptions),
        ModelEntry("rdn", rdn, _family("rdn:FAMILY"), options=RdnOptions),
        ModelEntry("rrdb", rrdb, _family("rrdb:FAMILY"), options=RrdbOptions),
        ModelEntry("srvgg", srvgg, _family("srvgg:FAMILY"), options=SizeOptions),
        ModelEntry("imdn", imdn, _family("imdn:FAMILY"), options=SizeOptions),
        ModelEntry("rfdn", rfdn, _family("rfdn:FAMILY"), options=SizeOptions),
        ModelEntry("rlfn", rlfn, _family("rlfn:FAMILY"), options=SizeOptions),
        ModelEntry("span", span, _family("span:FAMILY"), options=SizeOptions),
        ModelEntry("pan", pan, _family("pan:FAMILY"), options=SizeOptions),
        ModelEntry("bsrn", bsrn, _family("bsrn:FAMILY"), options=SizeOptions),
        ModelEntry("carn", carn, _family("carn:FAMILY"), options=UpscaleOptions),
        ModelEntry("edsr-mlperf", mlperf, _family("edsr_mlperf:FAMILY"), options=SizeOptions),
        ModelEntry("espcn", espcn, _family("espcn:FAMILY"), options=UpscaleOptions),
        ModelEntry("fsrcnn", fsrcnn, _family("fsrcnn:FAMILY"), options=UpscaleOptions),
        ModelEntry("spandrel", "architectures that spandrel detects", lazy("srptq_adapters.spandrel_family:FAMILY")),
    ]
