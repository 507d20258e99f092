"""Even areas from black to white are within the bounds, also if no patch has them."""

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


def white_error(graph: PreparedGraph) -> float:
    """Return how far the middle of a white image is from the float network's, in shares of the whole range."""
    white = torch.ones(1, 3, 24, 26)
    with torch.no_grad():
        quantized = graph(white)
        with graph.mode(Mode.OFF):
            exact = graph(white)
    height, width = (side // 2 for side in exact.shape[2:])
    return float((quantized - exact)[..., height, width].abs().max() / exact.abs().max())


@pytest.mark.parametrize("kind", ["edsr", "imdn", "mixed"])
def test_white_areas_keep_their_brightness(kind: str) -> None:
    graph = prepared(kind)
    before = white_error(graph)
    hold_even_areas(graph, UNIT, DARK[0])
    assert white_error(graph) < 0.5 * before


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


def test_bounds_far_from_even_areas_stay() -> None:
    graph = prepared("edsr", images=0.05 * DARK)
    before = {group: quantizer.bounds.upper.clone() for group, quantizer in graph.of_role("activation").items()}
    hold_even_areas(graph, UNIT, DARK[0])
    widened = [g for g, quantizer in graph.of_role("activation").items() if quantizer.bounds.upper > before[g]]
    assert "head/conv" not in widened


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
    graph = prepared("edsr")
    hold_even_areas(graph, UNIT, DARK[0])
    first = {group: quantizer.bounds.upper.clone() for group, quantizer in graph.of_role("activation").items()}
    hold_even_areas(graph, UNIT, DARK[0])
    assert all(torch.equal(quantizer.bounds.upper, first[g]) for g, quantizer in graph.of_role("activation").items())
