import copy
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

_C: Any = torch._C  # pyright: ignore[reportPrivateUsage]


def deepcopy_graphmodule(gm: fx.GraphModule) -> fx.GraphModule:
    return copy.deepcopy(gm)


def is_tracing_state() -> bool:
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


@contextmanager
def no_jit_trace() -> Generator[None]:
    state = _C._get_tracing_state()
    _C._set_tracing_state(None)
    try:
        yield
    finally:
        _C._set_tracing_state(state)
