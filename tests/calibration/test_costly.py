"""Operations that stay float, as their rounding costs the image much and their integers save little."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from torch import Tensor, nn

from srptq_plugin.calibration.costly import MOST_MACS, activation_noises, leave_costly_float
from srptq_plugin.calibration.equalization.rounding_noise import RoundingNoise
from srptq_plugin.costs.cost import Costs
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.pipeline import quantize
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry

pytest.importorskip("onnxruntime")
FEATURES = 16
IMAGES = networks.images(4, 24, 26, seed=3)
UNIT = 0.0, 1.0
LARGE = {"head/conv", "last/conv", "tail/conv"}
"""The convolutions that multiply more than may stay float."""


class Gated(nn.Module):
    """A body whose gate is steep in the map that it is computed from."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.head, self.last = networks.conv(3, FEATURES), networks.conv(FEATURES, FEATURES)
        self.tail = networks.conv(FEATURES, 12)
        self.squeeze, self.excite = nn.Conv2d(FEATURES, 1, 1), nn.Conv2d(1, FEATURES, 1)
        self.shuffle = nn.PixelShuffle(2)
        self.excite.weight.data *= steepness
        self.last.weight.data *= 8

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)
        gate = torch.sigmoid(self.excite(self.squeeze(features)))
        return self.shuffle(self.tail(features + self.last(features * gate)))


def network_of(steepness: float = 30) -> Network:
    torch.manual_seed(1)
    return Network(graph_of(export_network(Gated(steepness).eval())))


def bound_of(**keys: Any) -> BoundRecipe:
    return BoundRecipe.of(networks.recipe(8, "onnxruntime", **keys), Registry())


def leave_costly(network: Network, bound: BoundRecipe, share: float) -> tuple[BoundRecipe, float]:
    noise = RoundingNoise(network, bound.plan(network, UNIT), IMAGES, bound.recipe.calibration.seed)
    return leave_costly_float(noise, bound, share, UNIT)


def left_float(bound: BoundRecipe) -> set[str]:
    return {str(override.sites) for override in bound.recipe.overrides}


def error(network: Network, bound: BoundRecipe) -> float:
    """Measure the squared error of the image by quantization."""
    prepared = PreparedGraph.from_plan(network.module, bound.plan(network, UNIT))
    prepared.observe([IMAGES])
    with torch.no_grad():
        return prepared.noise(IMAGES, prepared.float_forward(IMAGES)[0])


def test_a_steep_gate_stays_float() -> None:
    network = network_of()
    bound, fall = leave_costly(network, bound_of(), 0.1)
    assert {"excite/conv", "/sigmoid"} <= left_float(bound)
    assert fall > 0.4
    assert error(network, bound) < error(network, bound_of())


@pytest.mark.parametrize("equalize", [False, True])
def test_what_stays_float_multiplies_little(equalize: bool) -> None:  # noqa: FBT001
    network = network_of()
    bound, _ = leave_costly(network, bound_of(equalize=equalize), 0.0)
    planned = set(bound_of().plan(network, UNIT).convs) - set(bound.plan(network, UNIT).convs)
    costs = Costs.of(network, (1, 3, 24, 26))
    multiplied = sum(layer.macs for layer in costs.layers if layer.name in planned)
    assert 0 < multiplied <= MOST_MACS * costs.macs


def test_no_share_above_the_limit_is_left() -> None:
    network, limit = network_of(), 0.05
    bound, _ = leave_costly(network, bound_of(), limit)
    plan = bound.plan(network, UNIT)
    noises = activation_noises(RoundingNoise(network, plan, IMAGES, seed=0), UNIT, equalized=False)
    for group, noise in noises.items():
        edges = [edge for site in plan.groups[group] for edge in site.consumers]
        around = {edge.consumer for edge in edges} | {site.source for site in plan.groups[group]}
        assert noise <= limit * sum(noises.values()) or around & LARGE


def test_a_high_limit_changes_nothing() -> None:
    bound, fall = leave_costly(network_of(), bound_of(), 0.99)
    assert left_float(bound) == set()
    assert fall == 0


def test_a_run_records_its_choice(tmp_path: Path) -> None:
    settings = networks.recipe(8, "onnxruntime", float_above=0.02, calibration={"patches": 4, "size": 24})
    torch.manual_seed(1)
    module = Gated(30).eval()
    run = quantize(settings, model=module, out=tmp_path / "run", device="cpu")
    assert run.recipe.float_above is None
    assert run.summary["left_float_db"] > 0
    assert run.summary["verify"]["convs_int8"] == run.summary["verify"]["convs_planned"] < 5
    again = quantize(run.recipe, model=module, out=tmp_path / "again", device="cpu")
    assert again.table.plan == run.table.plan


def test_targets_with_integers_everywhere_refuse_it() -> None:
    with pytest.raises(SrptqError, match="float_above: snpe needs an encoding for every tensor"):
        BoundRecipe.of(networks.recipe(8, "snpe", float_above=0.1), Registry())


@pytest.mark.parametrize(("target", "reads"), [("ncnn", False), ("onnxruntime", True)])
def test_a_coarsened_image_is_read_as_floats(target: str, reads: bool) -> None:  # noqa: FBT001
    network = Network(graph_of(export_network(Residual().eval())))
    bound = BoundRecipe.of(networks.recipe(8, target), Registry())
    bound, _ = leave_costly(network, bound, 0.05)
    # ncnn's 127 levels of an image lose every other one. ONNX Runtime's 255 are the image's own.
    assert ("head/conv" in bound.plan(network, UNIT).convs) == reads


class Residual(nn.Module):
    """A head whose features are little changed by a body, which multiplies a hundred times as much."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.head, self.tail = networks.conv(3, 32), networks.conv(32, 12)
        self.body = nn.ModuleList(networks.conv(32, 32) for _ in range(11))
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)
        for conv in self.body:
            features = features + 0.1 * conv(features)
        return self.shuffle(self.tail(features))
