"""Tuned weights and biases in the files of every target, and in their runtimes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import networks

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.protocols import Runtime
from srptq_plugin.plugins.registry import Registry


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "snpe"])
def test_files_hold_tuned_weights_and_biases(
    target: str,
    float_file: Callable[[str], Path],
    error_share: Callable[[str, QuantTable, Runtime], float],
    tmp_path: Path,
) -> None:
    prepared = networks.calibrated("edsr", 8, target)
    untuned = QuantTable.of(prepared)
    _tune(prepared)
    table = QuantTable.of(prepared)
    entry = Registry().target(target).load()
    files = entry.write(float_file("edsr"), table, tmp_path)
    runtime = entry.load(files[0])
    apart = error_share("edsr", table, runtime)
    assert apart < 0.05
    for other in (replace(table, weights=untuned.weights), replace(table, biases={})):
        assert error_share("edsr", other, runtime) > 5 * apart


def _tune(prepared: PreparedGraph) -> None:
    """Change weights and biases, as an optimizer may do."""
    generator = torch.Generator().manual_seed(5)
    for site in prepared.plan.sites:
        if site.role == "weight":
            weight = prepared.parameter(site)
            weight.data *= 0.9 + 0.2 * torch.rand(weight.shape, generator=generator)
    for bias in prepared.biases.values():
        bias.data += 0.05 * torch.randn(bias.shape, generator=generator)
