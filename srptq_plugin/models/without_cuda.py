"""Networks whose code asks for CUDA, on a machine without it: their tensors stay on the CPU."""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

logger = logging.getLogger(__name__)
CPU = torch.device("cpu")


def kept_on_cpu(name: str) -> AbstractContextManager[object]:
    """Return a context in which `.cuda()` and `device="cuda"` mean the CPU, if this machine has no CUDA.

    >>> with kept_on_cpu("toy"):
    ...     torch.nn.Linear(1, 1, device="cpu").weight.device
    device(type='cpu')

    Args:
        name: The network's name, for the line that is logged when it asks for CUDA.
    """
    return nullcontext() if torch.cuda.is_available() else _OnCpu(name)


class _OnCpu(TorchFunctionMode):
    """Redirects functions of torch that take a device, in this thread alone."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._logged = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.cuda:
            self._log()
            return args[0]
        options = {key: self._redirected(value) for key, value in (kwargs or {}).items()}
        return func(*map(self._redirected, args), **options)

    def _redirected(self, value: Any) -> Any:
        asks = isinstance(value, torch.device) and value.type == "cuda"
        if asks or (isinstance(value, str) and value.partition(":")[0] == "cuda"):
            self._log()
            return CPU
        return value

    def _log(self) -> None:
        if not self._logged:
            logger.info("model %s asks for CUDA, which this machine lacks; it is built on the CPU", self._name)
        self._logged = True
