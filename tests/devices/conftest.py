"""Devices of the tests besides the CPU: a GPU if there is one, and a device that second.cpp defines."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.cpp_extension import load

from srptq_plugin.planning.prepared_graph import PreparedGraph


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Register the device `second` with torch. Its tensors refuse to mix with CPU tensors, as on a GPU."""
    if not (shutil.which("c++") and shutil.which("ninja")):
        pytest.skip("no C++ compiler and ninja, which make the second device")
    source, folder = Path(__file__).with_name("second.cpp"), tmp_path_factory.mktemp("second")
    load("srptq_second", [str(source)], build_directory=str(folder), extra_cflags=["-O0"], is_python_module=False)
    torch.utils.rename_privateuse1_backend("second")  # pyright: ignore[reportPrivateImportUsage]
    module = ModuleType("torch.second")
    module.__dict__.update(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        _is_in_bad_fork=lambda: False,
        manual_seed_all=_ignore_seed,
    )
    torch._register_device_module("second", module)  # pyright: ignore[reportPrivateUsage]


def _ignore_seed(_seed: int) -> None:
    """Ignore the seed. All random numbers come from CPU generators."""


@pytest.fixture(params=["second", "cuda"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a device. Skip if this machine does not have it."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    if request.param == "second":
        request.getfixturevalue("second")
        monkeypatch.setattr(PreparedGraph, "to", _swap_parameters(PreparedGraph.to))
    return request.param


def _swap_parameters(move: Callable[..., PreparedGraph]) -> Callable[..., PreparedGraph]:
    """Return a `to` that preserves the identity of parameters. CUDA does so by default, a custom device does not."""

    def to(self: PreparedGraph, device: torch.device) -> PreparedGraph:
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return move(self, device)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    return to
