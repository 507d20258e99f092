from collections.abc import Mapping
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.ao.quantization import QConfig

from .fake_quantize import AdaRoundFakeQuantize, FixedFakeQuantize, LearnableFakeQuantize, PACTFakeQuantize
from .observer import MinMaxObserver
from .utils.logger import logger
from .utils.registry import DEFAULT_MODEL_QUANTIZER


class BackendType(Enum):
    Academic = "Academic"
    Tensorrt = "Tensorrt"
    SNPE = "SNPE"
    PPLCUDA = "PPLCUDA"
    OPENVINO = "OPENVINO"
    Vitis = "Vitis"
    QDQ = "QDQ"


class QuantizeScheme:
    def __init__(
        self,
        symmetry: bool = True,  # noqa: FBT001, FBT002
        per_channel: bool = False,  # noqa: FBT001, FBT002
        pot_scale: bool = False,  # noqa: FBT001, FBT002
        bit: int = 8,
        symmetric_range: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> None:
        self.symmetry, self.per_channel, self.pot_scale, self.bit = symmetry, per_channel, pot_scale, bit
        self.symmetric_range, self.kwargs = symmetric_range, kwargs

    def to_observer_params(self) -> dict[str, Any]:
        half = 2 ** (self.bit - 1)
        per_channel = torch.per_channel_symmetric if self.symmetry else torch.per_channel_affine
        per_tensor = torch.per_tensor_symmetric if self.symmetry else torch.per_tensor_affine
        return {
            "quant_min": self.symmetric_range - half if self.symmetry else 0,
            "quant_max": half - 1 if self.symmetry else 2 * half - 1,
            "dtype": torch.qint8 if self.symmetry else torch.quint8,
            "pot_scale": self.pot_scale,
            "qscheme": per_channel if self.per_channel else per_tensor,
            "reduce_range": False,
            "ch_axis": 0 if self.per_channel else -1,
            **self.kwargs,
        }


def _row(*, symmetry: bool, per_channel: bool, narrow_range: bool = False) -> dict[str, QuantizeScheme]:
    return {
        "w_qscheme": QuantizeScheme(symmetry, per_channel, symmetric_range=narrow_range),
        "a_qscheme": QuantizeScheme(symmetry, symmetric_range=narrow_range),
    }


ParamsTable: dict[BackendType, dict[str, Any]] = {
    BackendType.Academic: {},
    BackendType.Tensorrt: _row(symmetry=True, per_channel=True, narrow_range=True),
    BackendType.SNPE: _row(symmetry=False, per_channel=False),
    BackendType.PPLCUDA: _row(symmetry=False, per_channel=True),
    BackendType.OPENVINO: _row(symmetry=True, per_channel=True),
    BackendType.Vitis: _row(symmetry=True, per_channel=False),
    BackendType.QDQ: _row(symmetry=True, per_channel=True, narrow_range=True),
}
ObserverDict: dict[str, Any] = {"MinMaxObserver": MinMaxObserver}
FakeQuantizeDict: dict[str, Any] = {
    kind.__name__: kind for kind in (AdaRoundFakeQuantize, FixedFakeQuantize, LearnableFakeQuantize, PACTFakeQuantize)
}


def get_qconfig_by_platform(deploy_backend: BackendType, extra_qparams: Mapping[str, Any]) -> QConfig:
    return QConfig(*(_constructor(deploy_backend, extra_qparams, side) for side in "aw"))  # pyright: ignore[reportArgumentType]


def _constructor(backend: BackendType, extra: Mapping[str, Any], side: str) -> Any:
    given = extra.get(f"{side}_qscheme")
    scheme = ParamsTable[backend][f"{side}_qscheme"] if given is None else QuantizeScheme(**given)
    scheme.kwargs.update(extra.get(f"{side}_observer_extra_args", {}))
    observer = ObserverDict[extra.get(f"{side}_observer") or "MinMaxObserver"]
    kind = FakeQuantizeDict[extra.get(f"{side}_fakequantize") or "LearnableFakeQuantize"]
    arguments = {**extra.get(f"{side}_fakeq_params", {}), **scheme.to_observer_params()}
    return partial(kind, observer=observer, **arguments)


def prepare_by_platform(  # noqa: PLR0917
    model: nn.Module,
    deploy_backend: BackendType,
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
    custom_tracer: Any = None,
    is_qat: bool = True,  # noqa: FBT001, FBT002
    freeze_bn: bool = True,  # noqa: FBT001, FBT002
) -> fx.GraphModule:
    given = prepare_custom_config_dict or {}
    logger.info("prepare for %s", deploy_backend)
    qconfig = get_qconfig_by_platform(deploy_backend, given.get("extra_qconfig_dict", {}))
    graph = (custom_tracer or fx.Tracer()).trace(model, given.get("concrete_args"))
    module = fx.GraphModule(model, graph, type(model).__name__)
    extra = (given.get("extra_quantizer_dict", {}), given.get("extra_fuse_dict", {}))
    return DEFAULT_MODEL_QUANTIZER[deploy_backend](*extra).prepare(module, qconfig, is_qat, None, freeze_bn)
