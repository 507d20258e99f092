"""A target and an observer of a plugin go through the whole pipeline without a change in the package."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import networks
from helpers.small_runs import read_strict, small
from torch import Tensor

from srptq_plugin.deploy.onnx_export import metadata_of
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array, Size
from srptq_plugin.pipeline import quantize
from srptq_plugin.plugins.entries import ObserverEntry, TargetEntry
from srptq_plugin.plugins.hookspecs import hookimpl
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.runs.run import Run
from srptq_plugin.runs.verify import verify
from srptq_plugin.utils.options import Options

pytest.importorskip("torchao")


class ShareOptions(Options):
    share: float = 0.5


class ShareObserver:
    """An observer whose bounds are a share of the extremes."""

    def __init__(self, grid: IntGrid, *, share: float, tensors_per_batch: int = 1) -> None:  # noqa: ARG002
        self.share, self.lower, self.upper = share, torch.tensor(0.0), torch.tensor(0.0)

    def update(self, values: Tensor) -> None:
        self.lower, self.upper = torch.minimum(self.lower, values.min()), torch.maximum(self.upper, values.max())

    def merge(self, other: Any) -> None:
        self.lower, self.upper = torch.minimum(self.lower, other.lower), torch.maximum(self.upper, other.upper)

    def bounds(self) -> Bounds:
        return Bounds.of(self.share * self.lower, self.share * self.upper)


class Npu:
    """A target with 5 bits and scales that are powers of two, written as JSON."""

    presets: Mapping[str, Rules] = {
        "default": Rules(
            weights=IntGrid(8, signed=True, symmetric=True, channel_axis=0, power_of_two=True),
            activations=IntGrid(8, power_of_two=True),
            weight_bits=frozenset({5}),
            activation_bits=frozenset({5}),
            placements=("convs",),
            integer_bits=frozenset({5}),
        )
    }

    def require(self) -> None:
        """Require nothing."""

    def write(self, network: Path, table: QuantTable, folder: Path) -> Sequence[Path]:
        assert metadata_of(onnx.load(network))["scale"] == 2
        scales = {name: qparams.scale.tolist() for name, qparams in table.qparams.items()}
        (folder / "npu.json").write_text(json.dumps(scales))
        return (folder / "npu.json",)

    def load(self, artifact: Path) -> "NpuModel":
        return NpuModel(artifact)

    def command(self, artifact: Path, size: Size, *, fixed: bool) -> str:
        return f"npu-run {artifact.name} {size} {fixed}"


class NpuModel:
    """A runtime that computes the simulation."""

    name = "npu 1"

    def __init__(self, artifact: Path) -> None:
        self.simulation = Run(artifact.parent, Registry([PLUGIN])).simulation(double=True)

    def __call__(self, image: Array) -> Array:
        return self.simulation(image)

    def integer_convs(self) -> int:
        return 8


class Plugin:
    @hookimpl
    def srptq_targets(self) -> Iterable[TargetEntry]:
        return [TargetEntry("npu", "powers of two", Npu)]

    @hookimpl
    def srptq_observers(self) -> Iterable[ObserverEntry]:
        return [ObserverEntry("share", "a share of the extremes", lambda: ShareObserver, options=ShareOptions)]


PLUGIN = Plugin()


def quantize_npu(name: str, registry: Registry, images: Path, folder: Path, **activations: Any) -> Run:
    ends = {"head": {"weights": 5, "activations": 5}, "tail": {"weights": 5, "activations": 5}}
    recipe = small("npu", 5, activations=activations, stages=ends)
    return quantize(recipe, model=networks.network("edsr"), images=images, out=folder / name, registry=registry)


def observed(run: Run) -> dict[str, float]:
    """Return the upper bound of every activation that was observed."""
    sites = run.summary["sites"]
    return {site["name"]: site["observed"][1] for site in sites if site["role"] == "activation" and site["observed"]}


def test_a_plugin_s_target_and_observer_work(photographs: Path, tmp_path: Path) -> None:
    registry = Registry([PLUGIN])
    run = quantize_npu("run", registry, photographs, tmp_path, observer="share", options={"share": 0.25})
    extremes = observed(quantize_npu("minmax", registry, photographs, tmp_path, observer="minmax"))
    assert observed(run) == pytest.approx({name: 0.25 * upper for name, upper in extremes.items()})
    assert (run.summary["target"], run.summary["artifacts"]) == ("npu", ["npu.json"])
    report = run.summary["verify"]
    assert (report["runtime"], report["convs_int8"], report["convs_planned"]) == ("npu 1", 8, 8)
    assert (report["passed"], report["psnr"], report["max_levels"]) == (True, None, 0.0)
    assert run.summary["command"] == "npu-run npu.json (1, 3, 320, 512) False"
    scales = read_strict(run.folder / "npu.json")
    assert all(np.log2(np.array(scale)) % 1 == pytest.approx(0) for scale in scales.values())
    assert verify(Run.open(run.folder, registry))["passed"]
    with pytest.raises(SrptqError, match="unknown target 'npu'"):
        verify(Run.open(run.folder))


def test_a_plugin_s_target_refuses_other_bits(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match=r"weights\.bits: npu has no 8 bits here; choices: 5; the nearest is 5"):
        quantize(small("npu"), out=tmp_path / "run", registry=Registry([PLUGIN]))
    assert list(tmp_path.iterdir()) == []
