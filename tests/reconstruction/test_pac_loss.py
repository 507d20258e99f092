"""The loss of PaC, compared with plain arithmetic."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.tunings import IMAGES, PLAIN, observed, paper_loss
from torch import Tensor, nn

from srptq_plugin.data.metrics import psnr
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import PreparedGraph, build_quantizer, insert_quantizers
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.reconstruction.color_augmentation import recolor
from srptq_plugin.reconstruction.pac import reconstruct


@pytest.fixture
def prepared() -> PreparedGraph:
    return observed()


def test_the_loss_is_the_papers(prepared: PreparedGraph) -> None:
    assert (IMAGES.min(), IMAGES.max()) == (0, 1)
    pixel, transfer = paper_loss(prepared, IMAGES)
    figures = reconstruct(prepared, IMAGES, epochs=1, output_loss="l1", **PLAIN)
    assert figures["loss_before"] == pytest.approx(pixel + 5 * transfer, rel=5e-3)
    assert figures["loss_after"] == pytest.approx(
        sum(w * t for w, t in zip((1, 5), paper_loss(prepared, IMAGES), strict=True)), rel=5e-3
    )


def test_the_rms_loss_is_the_noise_of_psnr(prepared: PreparedGraph) -> None:
    with torch.no_grad():
        pairs = list(zip(prepared(IMAGES), prepared.float_forward(IMAGES)[0], strict=True))
    expected = [255 * 10 ** (-psnr(image.numpy(), target.numpy(), 1.0) / 20) for image, target in pairs]
    figures = reconstruct(prepared, IMAGES, epochs=1, feature_weight=0.0, **PLAIN)
    assert figures["loss_before"] == pytest.approx(math.fsum(expected) / len(expected), rel=1e-5)


def test_errors_of_regions_count_on_top(prepared: PreparedGraph) -> None:
    images = networks.images(2, 20, 24, seed=3)
    with torch.no_grad():
        error = 255 * (prepared(images) - prepared.float_forward(images)[0]).double()
    height, width = (side // 16 for side in error.shape[2:])
    expected = 0.0
    for sample in error:
        regions = itertools.product(range(3), range(height), range(width))
        means = [sample[c, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16].mean().item() for c, y, x in regions]
        expected += math.sqrt(math.fsum(mean**2 for mean in means) / len(means)) / 2
    losses = [
        reconstruct(observed(), images, epochs=1, region_weight=w, recolor=False)["loss_before"] for w in (0.0, 0.7)
    ]
    assert losses[1] - losses[0] == pytest.approx(0.7 * expected, rel=1e-3)


def test_recolored_images_are_tuned_on(prepared: PreparedGraph) -> None:
    changed = recolor(IMAGES, 0.0, 1.0, seed=7)
    expected = reconstruct(prepared, changed, epochs=1, recolor=False)["loss_before"]
    actual = reconstruct(observed(), IMAGES, epochs=1, seed=7)["loss_before"]
    assert actual == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("known", "factor"), [(True, 1), (False, 2)])
def test_levels_follow_the_input_range(prepared: PreparedGraph, *, known: bool, factor: int) -> None:
    """Halve the images. Without a known range, as in a toolkit's graph, their extremes stand for it."""
    plan = prepared.plan if known else replace(prepared.plan, input_range=None)
    prepared = PreparedGraph(prepared.module, plan)
    pixel, transfer = paper_loss(prepared, 0.5 * IMAGES)
    figures = reconstruct(prepared, 0.5 * IMAGES, epochs=1, output_loss="l1", **PLAIN)
    assert figures["loss_before"] == pytest.approx(factor * pixel + 5 * transfer, rel=5e-3)


def test_the_literal_loss_is_equation_8_as_printed(prepared: PreparedGraph) -> None:
    """Check that the norm itself, not its square, is divided by H W C."""
    with torch.no_grad():
        maps, targets = prepared.features(IMAGES)[1], prepared.float_forward(IMAGES)[1]
    terms: list[float] = []
    for features, target in zip(maps, targets, strict=True):
        for student, teacher in zip(features.double(), target.double(), strict=True):
            distance = (student / student.norm() - teacher / teacher.norm()).norm()
            terms.append(float(distance) / student.numel())
    options: dict[str, Any] = {"feature_loss": "literal", "output_weight": 0.0, "feature_weight": 1.0, **PLAIN}
    figures = reconstruct(prepared, IMAGES, epochs=1, **options)
    assert figures["loss_before"] == pytest.approx(math.fsum(terms) / len(terms), rel=5e-3)


@pytest.mark.parametrize("kind", ["edsr", "mixed", "imdn", "esrgan", "rdn"])
def test_the_feature_loss_alone_lowers_itself(kind: str) -> None:
    """Check that features are not detached."""
    prepared = networks.calibrated(kind, 4)
    before = paper_loss(prepared, IMAGES)[1]
    reconstruct(
        prepared,
        IMAGES,
        output_weight=0.0,
        schedule="joint",
        epochs=8,
        weight_rate=1e-2,
        activation_rate=1e-2,
    )
    assert paper_loss(prepared, IMAGES)[1] < 0.9 * before


def test_the_feature_loss_weighs_blocks_by_sensitivity(prepared: PreparedGraph) -> None:
    _, transfer = paper_loss(prepared, IMAGES)
    plain = reconstruct(prepared, IMAGES, epochs=1, output_weight=0.0, **PLAIN)["loss_before"]
    prepared = observed()
    weighed = reconstruct(
        prepared, IMAGES, epochs=4, output_weight=0.0, blocks="sensitivity", activation_rate=5e-3, **PLAIN
    )
    assert plain == pytest.approx(5 * transfer, rel=5e-3)
    assert weighed["loss_before"] != pytest.approx(plain, rel=1e-3)
    assert weighed["loss_after"] < weighed["loss_before"]


def test_the_ratio_of_the_gradients_is_reported(prepared: PreparedGraph) -> None:
    usual = reconstruct(prepared, IMAGES, epochs=1)["gradient_ratio"]
    prepared = observed()
    weighted = reconstruct(prepared, IMAGES, epochs=1, feature_weight=0.1)["gradient_ratio"]
    assert usual > 0
    assert weighted == pytest.approx(usual / 50, rel=1e-3)


class Deviating(nn.Module):
    """A network that scales by a standard deviation, which has no derivative if a map is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = networks.conv(3, 4), networks.conv(4, 3)
        with torch.no_grad():
            self.first.weight[0] = 0

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(x)
        return self.second(features * features.var(dim=(2, 3), keepdim=True, correction=0).sqrt())


def test_constant_maps_under_a_deviation_stay_finite() -> None:
    torch.manual_seed(0)
    program = export_network(Deviating())
    recipe = networks.recipe(2, "openvino", placement="full")
    plan = BoundRecipe.of(recipe, Registry()).plan(Network(graph_of(program)), networks.UNIT)
    quantizers = {group: build_quantizer(plan, group) for group in plan.groups}
    prepared = PreparedGraph(insert_quantizers(graph_of(program), plan, quantizers), plan)
    images = networks.images(4)
    prepared.observe([images])
    figures = reconstruct(prepared, images, epochs=2)
    assert math.isfinite(figures["gradient_ratio"])


class ColorByColor(nn.Module):
    """A network that folds the colors into the batch, so that blocks see more maps than there are images."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = networks.conv(1, networks.FEATURES), nn.Sequential(*(networks.Residual() for _ in "ab"))
        self.tail = networks.conv(networks.FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(self.head(x.flatten(0, 1)[:, None]))).reshape(x.shape)


def test_blocks_with_larger_batches_match_by_image() -> None:
    torch.manual_seed(0)
    network, recipe = Network(graph_of(export_network(ColorByColor()))), networks.recipe(4, "paper")
    plan = BoundRecipe.of(recipe, Registry()).plan(network, networks.UNIT)
    prepared = PreparedGraph.from_plan(network.module, plan)
    images = networks.images(3)
    prepared.observe([images])
    assert [len(features) for features in prepared.features(images)[1]] == [3, 3]
    figures = reconstruct(prepared, images, epochs=1, batch=2, blocks="sensitivity")
    assert figures["loss_after"] <= figures["loss_before"]
