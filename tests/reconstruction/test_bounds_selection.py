"""Selection of bounds by how far their rounding moves the image."""

from typing import Any

import pytest
import torch
from helpers import networks
from torch import Tensor, nn

from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.quantization.quantizer import Mode, fake_quantize
from srptq_plugin.reconstruction.bounds_selection import choose_bounds
from srptq_plugin.reconstruction.pac import reconstruct

DBDC = {"activations": {"observer": "dbdc"}}


def linear() -> PreparedGraph:
    """Prepare a network without activation functions, of which the first order is exact."""
    torch.manual_seed(3)
    layers = [networks.conv(3, 6), networks.conv(6, 6), networks.conv(6, 6), networks.conv(6, 12), nn.PixelShuffle(2)]
    module = graph_of(export_network(nn.Sequential(*layers).eval()))
    recipe = networks.recipe(3, "paper", **DBDC)
    registry = Registry()
    network = Network(module)
    plan = BoundRecipe.of(recipe, registry).plan(network, (0.0, 1.0))
    prepared = PreparedGraph.from_plan(module, plan)
    prepared.observe([heavy(seed) for seed in (1, 2)])
    return prepared


def far_too_wide() -> PreparedGraph:
    """Prepare the same network with bounds that are worse than any on offer."""
    prepared = linear()
    for quantizer in prepared.of_role("activation").values():
        if not quantizer.fixed:
            quantizer.set_bounds(Bounds(4 * quantizer.lower, 4 * quantizer.upper))
    return prepared


def heavy(seed: int) -> Tensor:
    """Return images with long tails."""
    return networks.images(16, seed=seed) ** 6


def moved(prepared: PreparedGraph, group: str, bounds: Bounds, images: Tensor) -> float:
    """Measure how far the image moves if one site alone is rounded."""
    qparams = project(bounds, prepared.quantizers[group].grid)

    def round_it(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return fake_quantize(output, qparams)

    with prepared.mode(Mode.OFF), torch.no_grad():
        exact = prepared(images)
        hook = prepared.quantizers[group].register_forward_hook(round_it)
        rounded = prepared(images)
        hook.remove()
    return float((rounded - exact).double().square().sum())


def test_chosen_bounds_are_about_the_best_on_offer() -> None:
    prepared, images = linear(), heavy(1)
    observed = {group: q.bounds for group, q in prepared.of_role("activation").items() if not q.fixed}
    assert len(observed) == 3
    choose_bounds(prepared, images, draws=16)
    for group in observed:
        quantizer = prepared.quantizers[group]
        offers = quantizer.observer.offers()  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        errors = [moved(prepared, group, bounds, images) for bounds in offers]
        assert moved(prepared, group, quantizer.bounds, images) < 1.15 * min(errors) < 0.9 * max(errors)


def test_sites_without_several_offers_keep_their_bounds() -> None:
    prepared = networks.calibrated("edsr", 4)
    before = {group: q.bounds for group, q in prepared.quantizers.items()}
    choose_bounds(prepared, networks.images(4))
    for group, quantizer in prepared.quantizers.items():
        assert torch.equal(quantizer.bounds.lower, before[group].lower)
        assert torch.equal(quantizer.bounds.upper, before[group].upper)


@pytest.mark.parametrize(
    ("kind", "bits", "target"),
    [("edsr", 4, "openvino"), ("imdn", 8, "snpe"), ("esrgan", 4, "openvino"), ("mixed", 4, "openvino")],
)
def test_bounds_are_chosen_under_shared_encodings_too(kind: str, bits: int, target: str) -> None:
    prepared, images = networks.calibrated(kind, bits, target, **DBDC), networks.images(5)
    teacher = prepared.float_forward(images)[0]
    noise = prepared.noise(images, teacher)
    before = {group: q.bounds.upper.detach().clone() for group, q in prepared.of_role("activation").items()}
    choose_bounds(prepared, images)
    after = {group: q.bounds.upper for group, q in prepared.of_role("activation").items()}
    assert {quantizer.mode for quantizer in prepared.quantizers.values()} == {Mode.QUANTIZE}
    assert any(not torch.equal(before[group], after[group]) for group in before)
    assert prepared.noise(images, teacher) < 2 * noise  # near it: the first order of one site at a time is no promise


def test_pac_starts_from_chosen_bounds_if_better() -> None:
    images = heavy(1)
    still: dict[str, Any] = {"epochs": 1, "activation_rate": 0.0, "weight_rate": 0.0, "feature_weight": 0.0}
    plain, chosen = (reconstruct(far_too_wide(), images, start=start, **still) for start in ("observed", "image"))
    assert chosen["loss_before"] == plain["loss_before"]
    assert chosen["loss_after"] < 0.99 * plain["loss_after"]


def test_the_same_seed_chooses_the_same_bounds() -> None:
    chosen: list[list[float]] = []
    for _ in range(2):
        prepared = linear()
        choose_bounds(prepared, heavy(2), seed=4)
        chosen.append([float(q.upper) for q in prepared.of_role("activation").values()])
    assert chosen[0] == chosen[1]
