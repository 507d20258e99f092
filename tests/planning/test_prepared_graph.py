"""The prepared graph: observing, the float network in it, and modes."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers import networks
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.observers.dbdc import DBDCObserver
from srptq_plugin.observers.minmax import MinMaxObserver
from srptq_plugin.planning.prepared_graph import PreparedGraph, build_quantizer, insert_quantizers
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode

KINDS = list(networks.NETWORKS)
CASES = [("openvino", 8), ("onnxruntime", 4)]
Hook = Callable[[nn.Module, object, Tensor], None]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def block_outputs(kind: str, names: tuple[str, ...], image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the output and the named maps of the untraced network, by hooks on modules."""
    module = networks.folded(kind)
    seen: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Hook:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            seen.setdefault(path, []).append(output.detach().clone())

        return hook

    for path in {name.rpartition("/")[0] for name in names}:
        module.get_submodule(path).register_forward_hook(keep(path))
    output = module(image)
    return output, [seen[name.rpartition("/")[0]].pop(0) for name in names]


def test_float_forward_is_exactly_the_float_network(kind: str) -> None:
    prepared = networks.calibrated(kind, 4)
    image = networks.images(seed=5)
    output, maps = prepared.float_forward(image)
    expected, expected_maps = block_outputs(kind, prepared.plan.blocks, image)
    assert torch.equal(output, expected)
    assert len(maps) == len(expected_maps)
    assert all(map(torch.equal, maps, expected_maps))


@pytest.mark.parametrize("size", [(1, 9, 17), (3, 12, 14), (2, 31, 8)])
def test_one_graph_runs_at_every_size(kind: str, size: tuple[int, int, int]) -> None:
    prepared = networks.calibrated(kind)
    image = networks.images(*size)
    assert torch.equal(prepared.float_forward(image)[0], networks.folded(kind)(image))
    assert prepared(image).shape == (size[0], 3, 2 * size[1], 2 * size[2])


def test_4_bits_are_farther_off_than_8(kind: str) -> None:
    image = networks.images(seed=5)
    float_output = networks.folded(kind)(image)
    errors = [(networks.calibrated(kind, bits)(image) - float_output).abs().mean() for bits in (8, 4)]
    assert 0 < errors[0] < 0.1 * float_output.std()
    assert errors[1] > 3 * errors[0]


def test_float_forward_stays_while_weights_learn() -> None:
    plan = networks.plan("edsr", networks.recipe(4))
    graph = graph_of(export_network(networks.network("edsr")))
    quantizers = {group: build_quantizer(plan, group) for group in plan.groups}
    prepared = PreparedGraph(insert_quantizers(graph, plan, quantizers), plan)
    image = networks.images()
    prepared.observe([image])
    before, quantized = prepared.float_forward(image)[0], prepared(image).detach()
    with torch.no_grad():
        prepared.module.get_parameter("tail.weight").mul_(2)
    assert torch.equal(prepared.float_forward(image)[0], before)
    assert not torch.equal(prepared(image), quantized)


def test_float_forward_keeps_modes_and_frozen_values() -> None:
    prepared = networks.calibrated("edsr")
    image = networks.images()
    for quantizer in prepared.quantizers.values():
        quantizer.freeze()
    quantized = prepared(image)
    for quantizer in prepared.quantizers.values():
        quantizer.upper.data *= 2
    prepared.float_forward(image)
    assert {quantizer.mode for quantizer in prepared.quantizers.values()} == {Mode.QUANTIZE}
    assert torch.equal(prepared(image), quantized)


def test_a_mode_is_restored_after_an_error() -> None:
    prepared = networks.calibrated("edsr")
    with pytest.raises(ZeroDivisionError), prepared.mode(Mode.OFF):
        raise ZeroDivisionError
    assert {quantizer.mode for quantizer in prepared.quantizers.values()} == {Mode.QUANTIZE}


@pytest.mark.parametrize(("target", "bits"), CASES)
def test_no_tensor_has_more_levels_than_its_bits(kind: str, target: str, bits: int) -> None:
    prepared = networks.calibrated(kind, bits, target)
    levels: dict[str, int] = {}

    def count(quantizer: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(quantizer, BoundedFakeQuantize)
        rows = [output] if quantizer.grid.channel_axis is None else list(output)
        most = max(torch.unique(row).numel() for row in rows)
        levels[quantizer.name] = max(most, levels.get(quantizer.name, 0))

    for quantizer in prepared.quantizers.values():
        quantizer.register_forward_hook(count)
    prepared(networks.images())
    assert set(levels) == set(prepared.plan.groups)
    assert all(most <= 2 ** prepared.quantizers[name].grid.bits for name, most in levels.items())
    assert max(levels.values()) > 2**bits // 2


def observed(prepared: PreparedGraph, site: str) -> MinMaxObserver | DBDCObserver:
    """Return the observer of a site's group."""
    group = next(candidate.group for candidate in prepared.plan.sites if candidate.name == site)
    observer = prepared.quantizers[group].observer
    assert isinstance(observer, (MinMaxObserver, DBDCObserver))
    return observer


def test_observed_bounds_are_the_extremes_of_the_tensors() -> None:
    prepared = networks.realize("edsr", networks.plan("edsr", networks.recipe()))
    batches = [networks.images(seed=seed) for seed in (1, 2, 3)]
    prepared.observe(batches)
    maps = torch.cat([block_outputs("edsr", ("head/conv",), batch)[1][0] for batch in batches])
    bounds = observed(prepared, "head/conv").bounds()
    assert (bounds.lower.item(), bounds.upper.item()) == (maps.min().item(), maps.max().item())
    rows = networks.network("edsr").get_parameter("head.weight").flatten(1)
    assert torch.equal(observed(prepared, "head.weight").bounds().upper, rows.amax(1).double())


@pytest.mark.parametrize("kind_of_observer", ["minmax", "dbdc"])
def test_tensors_of_one_group_are_observed_as_one(kind_of_observer: str) -> None:
    """Check that observers merge once per batch: joint extremes, and the same number of batches."""
    chosen = networks.recipe(activations={"observer": kind_of_observer})
    shared = replace(BoundRecipe.of(chosen, Registry()).rules, shared_scales=frozenset({"cat"}))
    together = networks.realize("imdn", networks.plan("imdn", chosen, rules=shared))
    apart = networks.realize("imdn", networks.plan("imdn", chosen))
    for prepared in (together, apart):
        prepared.observe([networks.images(seed=seed) for seed in (1, 2, 3)])
    joint = observed(together, "/cat")
    assert (joint.tensors_per_batch, joint.batches) == (3, 3)
    members = [observed(apart, name).bounds() for name in ("/cat", "block1/add", "block2/add")]
    lower, upper = min(bounds.lower for bounds in members), max(bounds.upper for bounds in members)
    if kind_of_observer == "minmax":
        assert (joint.bounds().lower, joint.bounds().upper) == (lower, upper)
    else:
        assert joint.bounds().upper.item() == pytest.approx(upper.item(), rel=0.3)


def test_the_image_site_is_never_observed() -> None:
    prepared = networks.realize("imdn", networks.plan("imdn", networks.recipe(), (0.0, 255.0)))
    prepared.observe([networks.images()])
    image = prepared.quantizers["/input"]
    assert image.observer is None
    assert (image.lower.item(), image.upper.item()) == pytest.approx((0.0, 255.0))
    assert not image.lower.requires_grad


def test_observing_reports_progress() -> None:
    prepared = networks.realize("edsr", networks.plan("edsr", networks.recipe()))
    reports: list[tuple[str, int, int]] = []

    def report(task: str, done: int, total: int) -> None:
        reports.append((task, done, total))

    prepared.observe([networks.images()] * 2, report)
    assert reports == [("observing", 0, 2), ("observing", 1, 2), ("observing", 2, 2)]


def test_nan_in_an_image_names_the_site() -> None:
    prepared = networks.realize("edsr", networks.plan("edsr", networks.recipe()))
    bad = networks.images()
    bad[0, 0, 3, 3] = torch.nan
    with pytest.raises(SrptqError, match=r"site head/conv: batch 2: NaN"):
        prepared.observe([networks.images(), bad])


def test_without_calibration_a_site_without_bounds_is_named() -> None:
    prepared = networks.realize("edsr", networks.plan("edsr", networks.recipe()))
    prepared.set_mode(Mode.QUANTIZE)
    with pytest.raises(SrptqError, match=r"site \w+\.weight: no bounds"):
        prepared(networks.images())


def test_a_graph_without_the_plans_quantizers_is_refused() -> None:
    plan = networks.plan("edsr", networks.recipe())
    with pytest.raises(SrptqError, match="no quantizer was placed for"):
        PreparedGraph(networks.graph("edsr"), plan)


def test_inserting_leaves_the_network_as_it_was() -> None:
    plan = networks.plan("edsr", networks.recipe(4))
    graph = networks.graph("edsr")
    image = networks.images()
    before = [str(node) for node in graph.graph.nodes]
    insert_quantizers(graph, plan, {group: build_quantizer(plan, group) for group in plan.groups})
    assert [str(node) for node in graph.graph.nodes] == before
    assert torch.equal(graph(image), networks.folded("edsr")(image))


def test_quantizers_are_found_by_role() -> None:
    prepared = networks.calibrated("shared")
    weights = prepared.of_role("weight")
    assert set(weights) == {"head.weight", "block.first.weight", "block.second.weight", "grow.weight"}
    assert set(weights) | set(prepared.of_role("activation")) == set(prepared.quantizers)
    site = next(site for site in prepared.plan.sites if site.name == "grow.weight")
    assert torch.equal(prepared.parameter(site).detach(), networks.network("shared").get_parameter("grow.weight"))


def test_every_site_has_the_parameters_of_its_group() -> None:
    prepared = networks.calibrated("imdn", target="onnxruntime")
    qparams = prepared.qparams()
    assert set(qparams) == {site.name for site in prepared.plan.sites}
    for site in prepared.plan.sites:
        assert qparams[site.name].grid == site.grid
        assert torch.equal(qparams[site.name].scale, prepared.quantizers[site.group].qparams().scale)


def test_a_graph_without_sites_is_the_float_network() -> None:
    image = networks.images()
    plain = PreparedGraph.float_only(networks.graph("edsr"))
    assert torch.equal(plain(image), networks.folded("edsr")(image))


def test_another_class_of_quantizer_can_be_built() -> None:
    class Other(BoundedFakeQuantize):
        pass

    plan = networks.plan("edsr", networks.recipe())
    built = {group: build_quantizer(plan, group, lambda _: Other) for group in plan.groups}
    assert all(isinstance(quantizer, Other) for quantizer in built.values())
    assert built["head.weight"].constant
    assert not built["head/conv"].constant
    assert built["head.weight"].grid == IntGrid(
        8, signed=True, symmetric=True, narrow_range=True, channel_axis=0, pair_limit=128
    )
    assert isinstance(nn.ModuleList(built.values())[0], Other)
