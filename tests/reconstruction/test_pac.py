"""Pixel-aware calibration: what it tunes, what it leaves alone, and that it helps."""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from torch import Tensor, fx, nn

from srptq_plugin.data.metrics import psnr
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.planner import make_plan
from srptq_plugin.planning.prepared_graph import PreparedGraph, build_quantizer, insert_quantizers
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import Bounds, QParams
from srptq_plugin.quantization.quantizer import Mode, fake_quantize
from srptq_plugin.reconstruction.color_augmentation import recolored
from srptq_plugin.reconstruction.pac import PacOptions, reconstruct
from srptq_plugin.reconstruction.sensitivity import block_shares
from srptq_plugin.reconstruction.teacher import Teacher, normalized

Bits = dict[str, tuple[Tensor, Tensor]]
IMAGES = networks.images(6, seed=3)
PLAIN: dict[str, Any] = {"region_weight": 0.0, "recolor": False}
"""Without what is not the paper's."""


@pytest.fixture
def prepared() -> PreparedGraph:
    return networks.calibrated("edsr", 4, "onnxruntime")


def bits(prepared: PreparedGraph) -> Bits:
    """Every bound as it stands."""
    each = prepared.quantizers.items()
    return {name: (q.lower.detach().clone(), q.upper.detach().clone()) for name, q in each}


def moved(before: Bits, after: Bits) -> set[str]:
    return {name for name in before if not all(map(torch.equal, before[name], after[name]))}


def track(prepared: PreparedGraph, **options: Any) -> tuple[list[Bits], dict[str, float]]:
    """The bounds before each step, and after the last."""
    seen: list[Bits] = []

    def progress(what: str, _done: int, _total: int) -> None:
        if what == "tuning":
            seen.append(bits(prepared))

    return seen, dict(reconstruct(prepared, IMAGES, progress=progress, **options))


def tuned(prepared: PreparedGraph, **options: Any) -> Mapping[str, float]:
    """Reconstructed on the images of this file."""
    return reconstruct(prepared, IMAGES, **options)


def loss(prepared: PreparedGraph, images: Tensor) -> tuple[float, float]:
    """Equations 6 to 8 in float64, in 8-bit levels, and map by map, sample by sample, undivided by H W C."""
    with torch.no_grad():
        output, maps = prepared.features(images)
        wanted, targets = prepared.float_forward(images)
    pixel = 255 * (output - wanted).abs().double().mean().item()
    distances: list[float] = []
    for found, target in zip(maps, targets, strict=True):
        for one, other in zip(found.double(), target.double(), strict=True):
            distances.append(((one / one.norm() - other / other.norm()) ** 2).sum().item())
    return pixel, math.fsum(distances) / len(distances)


def test_the_loss_is_that_of_the_paper(prepared: PreparedGraph) -> None:
    assert (IMAGES.min(), IMAGES.max()) == (0, 1)
    pixel, transfer = loss(prepared, IMAGES)
    found = reconstruct(prepared, IMAGES, epochs=1, output_loss="l1", **PLAIN)
    assert found["loss_before"] == pytest.approx(pixel + 5 * transfer, rel=5e-3)
    assert found["loss_after"] == pytest.approx(
        sum(w * t for w, t in zip((1, 5), loss(prepared, IMAGES), strict=True)), rel=5e-3
    )


def test_the_root_mean_square_of_each_sample_is_what_its_psnr_sees(prepared: PreparedGraph) -> None:
    with torch.no_grad():
        pairs = list(zip(prepared(IMAGES), prepared.float_forward(IMAGES)[0], strict=True))
    wanted = [255 * 10 ** (-psnr(one.numpy(), other.numpy(), 1.0) / 20) for one, other in pairs]
    found = reconstruct(prepared, IMAGES, epochs=1, feature_weight=0.0, **PLAIN)
    assert found["loss_before"] == pytest.approx(math.fsum(wanted) / len(wanted), rel=1e-5)


def test_what_regions_are_off_by_counts_on_top(prepared: PreparedGraph) -> None:
    images = networks.images(2, 20, 24, seed=3)
    with torch.no_grad():
        error = 255 * (prepared(images) - prepared.float_forward(images)[0]).double() / (images.max() - images.min())
    height, width = (side // 16 for side in error.shape[2:])
    wanted = 0.0
    for sample in error:
        places = itertools.product(range(3), range(height), range(width))
        means = [sample[c, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16].mean().item() for c, y, x in places]
        wanted += math.sqrt(math.fsum(mean**2 for mean in means) / len(means)) / 2
    found = [
        reconstruct(networks.calibrated("edsr", 4, "onnxruntime"), images, epochs=1, region_weight=w, recolor=False)
        for w in (0.0, 0.7)
    ]
    assert found[1]["loss_before"] - found[0]["loss_before"] == pytest.approx(0.7 * wanted, rel=1e-3)


def test_it_tunes_on_recolored_images_where_asked(prepared: PreparedGraph) -> None:
    changed = recolored(IMAGES, 0.0, 1.0, seed=7)
    wanted = reconstruct(prepared, changed, epochs=1, recolor=False)["loss_before"]
    found = reconstruct(networks.calibrated("edsr", 4, "onnxruntime"), IMAGES, epochs=1, seed=7)["loss_before"]
    assert found == pytest.approx(wanted, rel=1e-6)


def test_levels_are_counted_by_the_range_of_the_images(prepared: PreparedGraph) -> None:
    pixel, transfer = loss(prepared, 0.5 * IMAGES)
    found = reconstruct(prepared, 0.5 * IMAGES, epochs=1, output_loss="l1", **PLAIN)
    assert found["loss_before"] == pytest.approx(2 * pixel + 5 * transfer, rel=5e-3)


def test_the_literal_loss_is_equation_8_as_printed(prepared: PreparedGraph) -> None:
    """The norm itself, not its square, over H W C."""
    with torch.no_grad():
        maps, targets = prepared.features(IMAGES)[1], prepared.float_forward(IMAGES)[1]
    pairs = [pair for two in zip(maps, targets, strict=True) for pair in zip(*(m.double() for m in two), strict=True)]
    terms = [float((one / one.norm() - other / other.norm()).norm()) / one.numel() for one, other in pairs]
    options: dict[str, Any] = {"feature_loss": "literal", "output_weight": 0.0, "feature_weight": 1.0, **PLAIN}
    found = reconstruct(prepared, IMAGES, epochs=1, **options)
    assert found["loss_before"] == pytest.approx(math.fsum(terms) / len(terms), rel=5e-3)


@pytest.mark.parametrize("kind", ["edsr", "mixed", "imdn", "esrgan", "rdn"])
def test_the_feature_loss_alone_lowers_itself(kind: str) -> None:
    """Which it cannot where the features are detached."""
    prepared = networks.calibrated(kind, 4)
    before = loss(prepared, IMAGES)[1]
    reconstruct(
        prepared,
        IMAGES,
        output_weight=0.0,
        schedule="joint",
        epochs=4,
        weight_rate=1e-2,
        activation_rate=1e-2,
    )
    assert loss(prepared, IMAGES)[1] < 0.97 * before


@pytest.mark.parametrize("schedule", ["joint", "alternating"])
@pytest.mark.parametrize("gradient", ["full", "pact"])
@pytest.mark.parametrize("feature_loss", ["sum", "literal"])
def test_the_loss_falls(schedule: str, gradient: str, feature_loss: str) -> None:
    """From bounds that clip, as `pact` learns from clipped values only; so may those of the 8-bit weights."""
    prepared = networks.calibrated("edsr", 4, "onnxruntime", weights={"bits": 4, "overflow_safe": False})
    for quantizer in prepared.quantizers.values():
        if not quantizer.fixed:
            quantizer.set_bounds(Bounds(0.6 * quantizer.lower, 0.6 * quantizer.upper))
    options = {"schedule": schedule, "gradient": gradient, "feature_loss": feature_loss}
    found = tuned(prepared, epochs=4, weight_rate=1e-2, activation_rate=1e-2, **options)
    assert found["loss_after"] < 0.97 * found["loss_before"]


def test_absolute_rates_also_lower_the_loss(prepared: PreparedGraph) -> None:
    rates = {"rates": "absolute", "weight_rate": 1e-3, "activation_rate": 1e-2}
    found = tuned(prepared, epochs=4, schedule="joint", **rates)
    assert found["loss_after"] < 0.99 * found["loss_before"]


def test_bounds_take_turns_weights_first(prepared: PreparedGraph) -> None:
    seen, found = track(prepared, epochs=4, batch=2, schedule="alternating")
    weights, activations = (set(prepared.of_role(role)) for role in ("weight", "activation"))
    assert found["steps"] == 12
    assert len(seen) == 13
    for epoch in range(4):
        for step in range(3 * epoch, 3 * epoch + 3):
            changed = moved(seen[step], seen[step + 1])
            turn = weights if epoch % 2 == 0 else activations
            assert changed, f"step {step}: nothing learned"
            assert changed <= turn


def test_weights_that_do_not_learn_are_quantized_once_an_epoch(
    prepared: PreparedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    marks: list[int] = []

    def counting(values: Tensor, qparams: QParams) -> Tensor:
        calls.extend([1] * (qparams.grid.channel_axis == 0))
        return fake_quantize(values, qparams)

    def mark(what: str, _done: int, _total: int) -> None:
        if what == "tuning":
            marks.append(len(calls))

    monkeypatch.setattr("srptq_plugin.quantization.quantizer.fake_quantize", counting)
    reconstruct(prepared, IMAGES, progress=mark, epochs=2, batch=2, schedule="alternating")
    weights = len(prepared.of_role("weight"))
    assert [after - before for before, after in pairwise(marks)] == [weights] * 4 + [0, 0]


def test_jointly_both_learn_at_every_step(prepared: PreparedGraph) -> None:
    seen, _ = track(prepared, epochs=1, schedule="joint")
    for before, after in pairwise(seen):
        changed = moved(before, after)
        assert all(changed & set(prepared.of_role(role)) for role in ("weight", "activation"))


def test_the_range_of_the_image_never_moves(prepared: PreparedGraph) -> None:
    before = bits(prepared)
    reconstruct(prepared, IMAGES, schedule="joint", epochs=2, activation_rate=1e-2)
    assert "sub_mean/conv" not in moved(before, bits(prepared))
    assert len(moved(before, bits(prepared))) > len(before) / 2


@pytest.mark.parametrize("rates", ["relative", "absolute"])
def test_the_first_step_is_as_long_as_the_rate_says(prepared: PreparedGraph, rates: str) -> None:
    """Adam's first step has the length of its rate, wherever there is a gradient."""
    given = {"weight": 3e-3, "activation": 2e-3}
    rated: dict[str, Any] = {f"{role}_rate": rate for role, rate in given.items()}
    seen, _ = track(prepared, epochs=1, schedule="joint", rates=rates, **rated)
    whole = 0
    for role, rate in given.items():
        for name in prepared.of_role(role):  # pyright: ignore[reportArgumentType]
            lower, upper = seen[0][name]
            wanted = rate * ((upper - lower).mean().item() if rates == "relative" else 1.0)
            steps = [(after - before).abs() for before, after in zip(seen[0][name], seen[1][name], strict=True)]
            longest = torch.cat([each.flatten() for each in steps]).max().item()
            assert longest <= 1.01 * wanted, name
            whole += longest > 0.99 * wanted
    assert whole > len(prepared.quantizers) / 2


def test_rates_fade_to_nothing(prepared: PreparedGraph) -> None:
    seen, _ = track(prepared, epochs=10, schedule="joint")
    first, last = (
        max((after[name][1] - before[name][1]).abs().max().item() for name in before)
        for before, after in ((seen[0], seen[1]), (seen[-2], seen[-1]))
    )
    assert last < 0.1 * first


def test_float_parameters_stay_and_may_learn_again_afterwards(prepared: PreparedGraph) -> None:
    frozen = {name: p.detach().clone() for name, p in prepared.module.named_parameters() if "srptq_site" not in name}
    learns = {name: p.requires_grad for name, p in prepared.module.named_parameters() if name in frozen}
    assert any(learns.values())
    reconstruct(prepared, IMAGES, schedule="joint", epochs=2)
    for name, p in prepared.module.named_parameters():
        if name in frozen:
            assert torch.equal(p, frozen[name])
            assert p.grad is None
            assert p.requires_grad == learns[name]


def test_the_same_seed_gives_the_same_bits_and_another_gives_others() -> None:
    results = [networks.calibrated("edsr", 4) for _ in range(3)]
    for prepared, seed in zip(results, (1, 1, 2), strict=True):
        reconstruct(prepared, IMAGES, seed=seed, epochs=3, weight_rate=1e-2, activation_rate=1e-2)
    one, same, other = (bits(prepared) for prepared in results)
    assert not moved(one, same)
    assert moved(one, other)


def test_the_state_of_other_random_numbers_changes_nothing() -> None:
    results: list[Bits] = []
    for seed in (1, 2):
        prepared = networks.calibrated("edsr", 4)
        torch.manual_seed(seed)
        reconstruct(prepared, IMAGES, epochs=2)
        results.append(bits(prepared))
    assert not moved(*results)


@pytest.mark.parametrize("rate", [0.3, 1e3])
def test_it_never_ends_worse_than_it_began(prepared: PreparedGraph, rate: float) -> None:
    before, kept = sum(loss(prepared, IMAGES)), bits(prepared)
    options = {"feature_weight": 1.0, "weight_rate": rate, "activation_rate": rate}
    found = tuned(prepared, schedule="joint", epochs=2, **options)
    assert found["loss_after"] <= found["loss_before"]
    assert sum(loss(prepared, IMAGES)) <= before * 1.001
    assert not moved(kept, bits(prepared))


def test_a_loss_that_explodes_goes_back_to_the_start(prepared: PreparedGraph) -> None:
    kept = bits(prepared)
    found = reconstruct(prepared, IMAGES, epochs=1, weight_rate=1e300)
    assert not moved(kept, bits(prepared))
    assert math.isfinite(found["loss_after"])


def test_afterwards_it_quantizes_with_what_was_tuned(prepared: PreparedGraph) -> None:
    reconstruct(prepared, IMAGES, schedule="joint", epochs=2)
    before = prepared(IMAGES)
    assert {each.mode for each in prepared.quantizers.values()} == {Mode.QUANTIZE}
    for quantizer in prepared.quantizers.values():
        quantizer.upper.data *= 3
    assert not torch.equal(prepared(IMAGES), before)


def test_an_interruption_leaves_nothing_held(prepared: PreparedGraph) -> None:
    def interrupt(_what: str, done: int, _total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct(prepared, IMAGES, progress=interrupt, epochs=4)
    assert all(not each._hold for each in prepared.quantizers.values())  # pyright: ignore[reportPrivateUsage]
    assert prepared.module.get_parameter("head.weight").requires_grad


def test_progress_counts_the_steps(prepared: PreparedGraph) -> None:
    told: list[tuple[str, int, int]] = []

    def tell(what: str, done: int, total: int) -> None:
        told.append((what, done, total))

    found = reconstruct(prepared, IMAGES[:5], progress=tell, epochs=2, batch=2)
    assert [each for each in told if each[0] == "tuning"] == [("tuning", step, 6) for step in range(7)]
    assert found["steps"] == 6


def test_the_ratio_of_the_gradients_is_reported(prepared: PreparedGraph) -> None:
    plain = reconstruct(prepared, IMAGES, epochs=1)["gradient_ratio"]
    prepared = networks.calibrated("edsr", 4, "onnxruntime")
    weighted = reconstruct(prepared, IMAGES, epochs=1, feature_weight=0.1)["gradient_ratio"]
    assert plain > 0
    assert weighted == pytest.approx(plain / 50, rel=1e-3)


def test_an_unknown_option_lists_the_choices(prepared: PreparedGraph) -> None:
    with pytest.raises(SrptqError, match=r"reconstruction\.epoch: unknown key; did you mean 'epochs'"):
        reconstruct(prepared, IMAGES, epoch=3)


def test_turns_begin_with_weights() -> None:
    alternating, joint = PacOptions(schedule="alternating"), PacOptions(schedule="joint")
    assert [alternating.turn(epoch) for epoch in range(3)] == [("weight",), ("activation",), ("weight",)]
    assert joint.turn(0) == ("weight", "activation")


def test_with_one_role_quantized_it_is_always_its_turn() -> None:
    assert [PacOptions(schedule="alternating").turn(epoch, ("activation",)) for epoch in range(2)] == [
        ("activation",),
        ("activation",),
    ]
    for off in ("weights", "activations"):
        prepared = networks.calibrated("edsr", 4, "paper", **{off: {"bits": 4, "quantize": False}})
        start = bits(prepared)
        found = tuned(prepared, epochs=6, weight_rate=5e-3, activation_rate=5e-3)
        assert found["loss_after"] < found["loss_before"]
        assert len(moved(start, bits(prepared))) > 1


def test_a_block_that_the_image_hangs_on_counts_for_more() -> None:
    prepared = networks.calibrated("imdn", 4, "onnxruntime")
    shares = block_shares(prepared, IMAGES)
    assert shares.mean() == pytest.approx(1)
    with prepared.mode(Mode.OFF), torch.no_grad():
        exact = prepared(IMAGES)
        errors = [image_moved_by(prepared, block, exact) for block in prepared.plan.blocks]
    ratios = shares / torch.tensor(errors)
    assert ratios.max() / ratios.min() < 1.5
    assert max(errors) / min(errors) > 1.1


def image_moved_by(prepared: PreparedGraph, block: str, exact: Tensor) -> float:
    """The squared change of the image by small random errors of one block, a share of its norm."""
    network = Network(prepared.module)
    node = network.nodes[block]
    total = 0.0
    for seed in range(16):
        disturbed = Disturbed(prepared.module, node, seed).run(IMAGES)[0]
        total += float((disturbed - exact).square().sum())
    return total


class Disturbed(fx.Interpreter):
    """Adds noise of a thousandth of each sample's norm to one map."""

    def __init__(self, module: fx.GraphModule, node: fx.Node, seed: int) -> None:
        super().__init__(module)
        self.node, self.generator = node, torch.Generator().manual_seed(seed)

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        if n is not self.node:
            return output
        noise = torch.randn(output.shape, generator=self.generator)
        sizes = [each.flatten(1).norm(dim=1)[:, None, None, None] for each in (output, noise)]
        return output + 1e-3 * noise * sizes[0] / sizes[1]


def test_the_feature_loss_weighs_blocks_where_asked(prepared: PreparedGraph) -> None:
    _, transfer = loss(prepared, IMAGES)
    plain = tuned(prepared, epochs=1, output_weight=0.0, **PLAIN)["loss_before"]
    prepared = networks.calibrated("edsr", 4, "onnxruntime")
    weighed = tuned(prepared, epochs=4, output_weight=0.0, blocks="sensitivity", activation_rate=5e-3, **PLAIN)
    assert plain == pytest.approx(5 * transfer, rel=5e-3)
    assert weighed["loss_before"] != pytest.approx(plain, rel=1e-3)
    assert weighed["loss_after"] < weighed["loss_before"]


@pytest.fixture
def filed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Switches the teacher to its file, under `tmp_path`."""

    def switch() -> None:
        monkeypatch.setattr("srptq_plugin.reconstruction.teacher.IN_MEMORY", 1)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    return switch


def answers(prepared: PreparedGraph) -> Iterator[Tensor]:
    with Teacher(prepared, IMAGES, 4) as teacher:
        for chosen in (torch.tensor([5, 0]), torch.tensor([3])):
            output, maps = teacher(chosen)
            yield output.clone()
            yield from (each.clone() for each in maps)


def test_a_teacher_says_the_same_from_its_file_and_leaves_none(
    prepared: PreparedGraph, filed: Callable[[], None], tmp_path: Path
) -> None:
    in_memory = list(answers(prepared))
    filed()
    assert all(map(torch.equal, in_memory, answers(prepared)))
    assert not list(tmp_path.iterdir())


def test_a_teacher_without_room_says_how_much_it_needs(
    prepared: PreparedGraph, filed: Callable[[], None], tmp_path: Path
) -> None:
    filed()
    tmp_path.rmdir()
    with pytest.raises(SrptqError, match=rf"answers, \d+ MiB in .* \(.*{re.escape(str(tmp_path))}.*set TMPDIR"):
        reconstruct(prepared, IMAGES, epochs=1)


def test_tuning_by_answers_in_a_file_ends_with_the_same_bits(filed: Callable[[], None]) -> None:
    results: list[Bits] = []
    for switch in (lambda: None, filed):
        switch()
        prepared = networks.calibrated("edsr", 4)
        reconstruct(prepared, IMAGES, epochs=2, schedule="joint")
        results.append(bits(prepared))
    assert not moved(*results)


def test_the_teacher_keeps_what_the_float_network_answers(prepared: PreparedGraph) -> None:
    """Its outputs to the bit, its maps to float16."""
    chosen = torch.tensor([4, 1, 3])
    with Teacher(prepared, IMAGES, 2) as teacher:
        output, maps = teacher(chosen)
    wanted, targets = prepared.float_forward(IMAGES[chosen])
    assert torch.equal(output, wanted)
    for found, target in zip(maps, targets, strict=True):
        torch.testing.assert_close(found, normalized(target).half())
        torch.testing.assert_close(found.float().square().mean(1), torch.ones(3), rtol=1e-3, atol=0)


def test_a_dead_block_gives_no_nan() -> None:
    zeros = torch.zeros(2, 3, 4, 4)
    assert torch.equal(normalized(zeros), torch.zeros(2, 48))


class Deviating(nn.Module):
    """Scales by a standard deviation, which has no derivative where quantization made a map constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = networks.conv(3, 4), networks.conv(4, 3)
        with torch.no_grad():
            self.first.weight[0] = 0

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(x)
        return self.second(features * features.var(dim=(2, 3), keepdim=True, correction=0).sqrt())


def test_a_constant_map_under_a_deviation_stops_no_bound_from_learning() -> None:
    torch.manual_seed(0)
    program = export_network(Deviating())
    recipe = networks.recipe(2, "openvino", placement="full")
    rules = BoundRecipe.of(recipe, Registry()).rules
    made = make_plan(
        Network(graph_of(program)), rules, recipe, networks.UNIT, BoundRecipe.of(recipe, Registry()).qconfigs
    )
    quantizers = {group: build_quantizer(made, group) for group in made.groups}
    prepared = PreparedGraph(insert_quantizers(graph_of(program), made, quantizers), made)
    images = networks.images(4)
    prepared.observe([images])
    figures = reconstruct(prepared, images, epochs=2)
    assert math.isfinite(figures["gradient_ratio"])


def test_frozen_weights_learn_where_they_are_free_to() -> None:
    prepared = networks.calibrated("edsr", 4)
    images = networks.images(4)
    frozen = networks.calibrated("edsr", 4)
    frozen.module.requires_grad_(requires_grad=False)
    figures = [reconstruct(each, images, epochs=1, weights="free") for each in (prepared, frozen)]
    assert figures[0] == figures[1]
    assert figures[1]["loss_after"] < figures[1]["loss_before"]


class ColorByColor(nn.Module):
    """Folds the colors into the batch, so that blocks see more maps than there are images."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = networks.conv(1, networks.FEATURES), nn.Sequential(*(networks.Residual() for _ in "ab"))
        self.tail = networks.conv(networks.FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(self.head(x.flatten(0, 1)[:, None]))).reshape(x.shape)


def test_blocks_of_a_larger_batch_than_the_images_are_matched_image_by_image() -> None:
    torch.manual_seed(0)
    network, recipe = Network(graph_of(export_network(ColorByColor()))), networks.recipe(4, "paper")
    rules, qconfigs = BoundRecipe.of(recipe, Registry()).rules, BoundRecipe.of(recipe, Registry()).qconfigs
    prepared = PreparedGraph.from_plan(network.module, make_plan(network, rules, recipe, networks.UNIT, qconfigs))
    images = networks.images(3)
    prepared.observe([images])
    assert [len(each) for each in prepared.features(images)[1]] == [3, 3]
    figures = reconstruct(prepared, images, epochs=1, batch=2, blocks="sensitivity")
    assert figures["loss_after"] <= figures["loss_before"]
