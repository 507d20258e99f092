"""Even areas from black to white are within the bounds, also if no patch has them."""

from functools import partial

import pytest
import torch
from helpers import networks
from torch import Tensor

from srptq_plugin.calibration.even_areas import hold_even_areas
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.quantizer import Mode

UNIT = 0.0, 1.0
DARK = 0.85 * networks.images(4, 24, 26)


def prepared(kind: str, target: str = "openvino", images: Tensor = DARK) -> PreparedGraph:
    graph = networks.realize(kind, networks.plan(kind, networks.recipe(8, target)))
    graph.observe([images])
    return graph


def middles(graph: PreparedGraph, color: float | Tensor) -> dict[str, Tensor]:
    """Return the values that an even image gives in the middle of each feature map, by group."""
    values: dict[str, Tensor] = {}

    def keep(group: str, _module: object, _inputs: object, output: Tensor) -> None:
        row, column = (side // 2 for side in output.shape[2:])
        values[group] = output[..., row, column]

    quantizers = graph.of_role("activation").items()
    handles = [quantizer.register_forward_hook(partial(keep, group)) for group, quantizer in quantizers]
    with torch.no_grad(), graph.mode(Mode.OFF):
        graph(torch.as_tensor(color).expand(3)[None, :, None, None].expand(1, 3, 24, 26))
    for handle in handles:
        handle.remove()
    return values


def ends(graph: PreparedGraph) -> dict[str, tuple[float, float]]:
    quantizers = graph.of_role("activation").items()
    return {group: (float(quantizer.bounds.lower), float(quantizer.bounds.upper)) for group, quantizer in quantizers}


@pytest.mark.parametrize("kind", networks.NETWORKS)
def test_even_areas_are_within_the_bounds(kind: str) -> None:
    graph = prepared(kind, "onnxruntime")
    before = ends(graph)
    hold_even_areas(graph, UNIT, DARK[0])
    for level in (0.0, 0.5, 1.0):
        for group, values in middles(graph, level).items():
            (old_low, old_high), (low, high) = before[group], ends(graph)[group]
            slack = 1.01 * float(graph.quantizers[group].qparams().scale.max())
            needed = max(old_high, float(values.max())) - min(old_low, float(values.min()))
            held = low - slack <= float(values.min()) and float(values.max()) <= high + slack
            assert held or needed > 1.2 * (old_high - old_low)


def test_some_bounds_widen() -> None:
    graph = prepared("mixed")
    before = ends(graph)
    hold_even_areas(graph, UNIT, DARK[0])
    assert before != ends(graph)


@pytest.mark.parametrize("kind", networks.NETWORKS)
def test_bounds_only_widen(kind: str) -> None:
    graph = prepared(kind, "onnxruntime")
    before = {group: quantizer.bounds for group, quantizer in graph.of_role("activation").items()}
    hold_even_areas(graph, UNIT, DARK[0])
    for group, quantizer in graph.of_role("activation").items():
        # Bounds are projected again, which moves them by a rounding of the zero point at most.
        slack = float(quantizer.qparams().scale.max())
        assert quantizer.bounds.lower <= before[group].lower + slack
        assert quantizer.bounds.upper >= before[group].upper - slack


def test_no_range_widens_by_more_than_a_quarter() -> None:
    graph = prepared("edsr", images=0.05 * DARK)
    before = ends(graph)
    hold_even_areas(graph, UNIT, DARK[0])
    for group, (low, high) in ends(graph).items():
        step = float(graph.quantizers[group].qparams().scale.max())
        assert high - low <= 1.25 * (before[group][1] - before[group][0]) + step


def test_limits_of_activations_hold() -> None:
    graph = prepared("espcn", "onnxruntime")
    hold_even_areas(graph, (0.0, 1000.0), DARK[0])
    limited = [quantizer for quantizer in graph.of_role("activation").values() if quantizer.limits]
    assert limited
    for quantizer in limited:
        low, high = quantizer.limits or (None, None)
        slack = 1.01 * float(quantizer.qparams().scale.max())
        assert low is None or quantizer.bounds.lower >= low - slack
        assert high is None or quantizer.bounds.upper <= high + slack


def test_the_same_bounds_every_time() -> None:
    graphs = [prepared("edsr"), prepared("edsr")]
    for graph in graphs:
        hold_even_areas(graph, UNIT, DARK[0])
    assert ends(graphs[0]) == ends(graphs[1])


def test_vivid_colors_are_within_the_bounds() -> None:
    gray = DARK.mean(1, keepdim=True).expand_as(DARK)
    graph = prepared("edsr", "onnxruntime", gray)
    before = ends(graph)
    hold_even_areas(graph, UNIT, DARK[0])
    for color in ((0.25, 0.75, 0.25), (0.75, 0.25, 0.75)):
        for group, values in middles(graph, torch.tensor(color)).items():
            (old_low, old_high), (low, high) = before[group], ends(graph)[group]
            slack = 1.01 * float(graph.quantizers[group].qparams().scale.max())
            needed = max(high, float(values.max())) - min(low, float(values.min()))
            held = low - slack <= float(values.min()) and float(values.max()) <= high + slack
            assert held or needed > 1.2 * (old_high - old_low)
    assert any(ends(graph)[group] != before[group] for group in before)
