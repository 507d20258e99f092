from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import networks

from srptq_plugin.deploy.fixed_point import use_fixed_point
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.protocols import Runtime
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.runs.run import NETWORK, PROGRAM

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
SIZES = ((1, 12, 14), (2, 9, 23), (1, 33, 31))


@pytest.fixture(scope="session")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write the float network of a toy as a run has it: the ONNX file, and the program. Returns the ONNX file."""

    @cache
    def export(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        onnx.save(networks.float_model(kind), folder / NETWORK)
        torch.export.save(networks.exported(kind), folder / PROGRAM)
        return folder / NETWORK

    return export


@pytest.fixture(scope="session")
def deploy(float_file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Deploy:
    """Return a toy network's table, and the files that a target wrote from it."""

    def run(kind: str, target: str, bits: int = 8, **keys: Any) -> tuple[QuantTable, list[Path]]:
        table = QuantTable.of(networks.calibrated(kind, bits, target, **keys))
        written = Registry().target(target).load().write(float_file(kind), table, tmp_path_factory.mktemp(target))
        return table, list(written)

    return run


@pytest.fixture
def error_share() -> Callable[..., float]:
    """Measure the error of a runtime against the simulation, as a share of the error of quantization."""

    def measure(kind: str, table: QuantTable, runtime: Runtime, rules: Rules | None = None) -> float:
        plain, simulation = PreparedGraph.float_only(networks.graph(kind)), table.simulate(networks.graph(kind))
        simulation = use_fixed_point(simulation, rules) if rules else simulation
        wrong, quantization = 0.0, 0.0
        for seed, size in enumerate(SIZES):
            image = networks.images(*size, seed=seed)
            with torch.no_grad():
                simulated, exact = simulation(image).double(), plain(image).double()
            output = torch.from_numpy(np.asarray(runtime(image.numpy()))).double()
            wrong += float((output - simulated).square().sum())
            quantization += float((simulated - exact).square().sum())
        return (wrong / quantization) ** 0.5

    return measure
