from collections.abc import Iterator

from torch import nn
from torch.ao.quantization import FakeQuantizeBase

from .logger import logger


def _switch(model: nn.Module, *, observe: bool, quantize: bool) -> None:
    logger.info("observe: %s, quantize: %s", observe, quantize)
    for quantizer in _quantizers(model):
        quantizer.enable_observer(observe)
        quantizer.enable_fake_quant(quantize)


def _quantizers(model: nn.Module) -> Iterator[FakeQuantizeBase]:
    return (module for module in model.modules() if isinstance(module, FakeQuantizeBase))


def enable_calibration(model: nn.Module) -> None:
    _switch(model, observe=True, quantize=False)


def enable_quantization(model: nn.Module) -> None:
    _switch(model, observe=False, quantize=True)


def enable_all(model: nn.Module) -> None:
    _switch(model, observe=True, quantize=True)


def disable_all(model: nn.Module) -> None:
    _switch(model, observe=False, quantize=False)
