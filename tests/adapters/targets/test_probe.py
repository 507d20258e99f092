"""Measured saturation of kernels, against the flags of the processor."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import saturating

from srptq_adapters.targets import probe

CPU = Path("/proc/cpuinfo")
CODE = """
import json
from srptq_adapters.targets.{target} import {runtime} as Runtime
from srptq_adapters.targets.probe import probe_model
from pathlib import Path
from tempfile import TemporaryDirectory
import onnx

with TemporaryDirectory() as folder:
    path = Path(folder) / "one.onnx"
    onnx.save(probe_model(), path)
    runtime = Runtime(path)
    print(json.dumps([runtime.saturates(), dict(runtime.kernels())]))
"""
RUNTIMES = [("openvino", "OpenVinoModel"), ("onnxruntime", "OnnxRuntimeSession")]


def measured(target: str, runtime: str, **environment: str) -> tuple[bool, dict[str, int]]:
    """Load the probe in another process. Return whether it saturates, and its kernels."""
    pytest.importorskip(target)
    code = CODE.format(target=target, runtime=runtime)
    inherited = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], env={**inherited, **environment}, capture_output=True, text=True, check=True
    )
    saturates, kernels = json.loads(done.stdout)
    return saturates, kernels


def flags() -> set[str]:
    """Read the flags of an x86 processor, or skip the test."""
    text = CPU.read_text() if CPU.exists() else ""
    names = next((set(line.split()) for line in text.splitlines() if line.startswith("flags")), set[str]())
    if "avx2" not in names:
        pytest.skip("no x86 processor with AVX2")
    return names


@pytest.mark.parametrize(("target", "runtime"), RUNTIMES)
def test_probe_agrees_with_the_processor(target: str, runtime: str) -> None:
    saturates, kernels = measured(target, runtime)
    assert saturates is not bool(flags() & {"avx512_vnni", "avx_vnni"})
    assert sum(kernels.values()) == 1


def test_openvino_saturates_with_kernels_of_avx2() -> None:
    flags()
    saturates, kernels = measured(*RUNTIMES[0], ONEDNN_MAX_CPU_ISA="AVX2")
    assert saturates
    assert kernels == {"jit_avx2_1x1_I8": 1}


class Emulated:
    """A runtime that computes the probe's convolution in some order."""

    name = "emulated"

    def __init__(self, order: saturating.Order) -> None:
        self.order: saturating.Order = order

    def __call__(self, image: Any) -> Any:
        weight = np.full((probe.OUTPUTS, probe.CHANNELS, 1, 1), probe.WEIGHT)
        sums = saturating.saturating_conv(image.astype(np.int64), weight, self.order)
        return np.clip(np.rint(sums / (probe.CHANNELS * probe.WEIGHT)), 0, 255)

    def integer_convs(self) -> int:
        return 1


@pytest.mark.parametrize("order", ["taps", "flat", "exact"])
def test_probe_tells_exact_kernels_from_others(order: saturating.Order) -> None:
    assert probe.saturates(lambda _: Emulated(order)) is (order != "exact")
