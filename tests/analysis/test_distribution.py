import json
from functools import cache
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import skimage.data
import torch
from helpers import networks
from torch import Tensor

from srptq_plugin.analysis.distribution import Distribution, distribution
from srptq_plugin.calibration.inputs import Inputs
from srptq_plugin.errors import UnknownNameError
from srptq_plugin.pipeline import quantize
from srptq_plugin.planning.plan import Site
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.runs.run import SUMMARY, Run

pytest.importorskip("torchao")
RUNS = (("edsr", 8, "onnxruntime", True), ("mixed", 4, "paper", False))


def quantized(folder: Path, network: str, bits: int, target: str, **keys: Any) -> Run:
    """Quantize a toy network on crops of a photograph."""
    (folder / "images").mkdir()
    PIL.Image.fromarray(skimage.data.astronaut()[:40, :60]).save(folder / "images" / "a.png")
    calibration = {"images": str(folder / "images"), "patches": 5, "size": 16, "batch": 2}
    recipe = networks.recipe(bits, target, calibration=calibration, **keys)
    return quantize(recipe, model=networks.network(network), out=folder / "run", device="cpu")


@pytest.fixture(scope="module", params=RUNS, ids=lambda run: "-".join(map(str, run)))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Quantize each of the toy networks. Tests do not change the folders."""
    pytest.importorskip("onnxruntime")
    *what, tuned = request.param
    reconstruction = {"name": "pac", "epochs": 1} if tuned else None
    return quantized(tmp_path_factory.mktemp("runs"), *what, reconstruction=reconstruction)


def measure(run: Run, name: str) -> Distribution:
    return _at(str(run.folder), name)


@cache
def _at(folder: str, name: str) -> Distribution:
    return distribution(Run.open(folder), name, device="cpu")


def sample_sites(run: Run) -> list[Site]:
    """Pick the sites of the image, of a weight, of a shared encoding, and of the tail."""
    sites = run.table.plan.sites
    image = next(site for site in sites if site.bounds is not None)
    return [image, run.table.plan.weights[1], shared(run)[0], *(site for site in sites if site.stage == "tail")]


def shared(run: Run) -> tuple[Site, ...]:
    """Return the sites of the first encoding that several share."""
    return next(sites for sites in run.table.plan.groups.values() if len(sites) > 1)


def observed_values(run: Run, group: str) -> Tensor:
    """Return all values of a group of sites."""
    values: list[Tensor] = []
    prepared = PreparedGraph.from_plan(run.network, run.table.plan)
    prepared.quantizers[group].register_forward_pre_hook(lambda _, inputs: values.append(inputs[0].detach().flatten()))
    weight = run.table.plan.groups[group][0].role == "weight"
    batches = Inputs.of_run(run, device="cpu").shuffled.split(2)
    for batch in batches[:1] if weight else batches:
        prepared(batch)
    return torch.cat(values)


def test_counts_cover_all_values_between_the_extremes(run: Run) -> None:
    for site in sample_sites(run):
        histogram, values = measure(run, site.name), observed_values(run, site.group)
        assert sum(histogram.counts) == values.numel()
        assert histogram.bounds["raw"] == (float(values.min()), float(values.max()))
        assert histogram.edges[0] <= float(values.min())
        assert histogram.edges[-1] >= float(values.max())
        inner = torch.tensor(histogram.edges[1:-1]).double()
        below = [int((values.double() < edge).sum()) for edge in inner]
        assert torch.tensor(histogram.counts).cumsum(0)[:-1].tolist() == below


def test_observing_again_gives_the_same_bounds(run: Run) -> None:
    recorded = {site["name"]: site["observed"] for site in run.summary["sites"]}
    for site in sample_sites(run):
        bounds = measure(run, site.name).bounds
        assert recorded[site.name] == (list(bounds["observed"]) if "observed" in bounds else None)


def test_bounds_agree_with_table_and_tuning(run: Run) -> None:
    tuned = run.recipe.reconstruction is not None
    assert any(site["tuned"] for site in run.summary["sites"]) == tuned
    for site in sample_sites(run):
        histogram, qparams = measure(run, site.name), run.table.qparams[site.name]
        assert histogram.bounds["projected"] == qparams.bounds.outermost
        assert (histogram.role, histogram.bits, histogram.channels) == (
            site.role,
            site.grid.bits,
            qparams.scale.numel(),
        )
        if "tuned" in histogram.bounds and site.grid.channel_axis is None:
            assert (
                project(Bounds.of(*histogram.bounds["tuned"]), site.grid).bounds.outermost
                == histogram.bounds["projected"]
            )


def test_image_bounds_are_known_and_not_observed(run: Run) -> None:
    site = sample_sites(run)[0]
    assert site.bounds is not None
    bounds = measure(run, site.name).bounds
    assert set(bounds) == {"raw", "projected"}
    assert bounds["projected"] == project(Bounds.of(*site.bounds), site.grid).bounds.outermost
    low, high = site.bounds
    assert low - 1e-6 <= bounds["raw"][0] < bounds["raw"][1] <= high + 1e-6


def test_sites_of_one_encoding_are_counted_together(run: Run) -> None:
    sites = shared(run)
    first, last = (measure(run, site.name) for site in (sites[0], sites[-1]))
    assert (first.counts, first.bounds) == (last.counts, last.bounds)
    assert {first.site, *first.sharing} == {site.name for site in sites} == {last.site, *last.sharing}
    assert measure(run, sites[0].group).bounds == first.bounds


def test_other_images_change_values_but_no_weights(run: Run, tmp_path: Path) -> None:
    PIL.Image.fromarray(skimage.data.coffee()[100:140, 100:160]).save(tmp_path / "a.png")
    for site, same in ((run.table.plan.weights[0], True), (run.table.plan.sites[-1], False)):
        histogram = distribution(run, site.name, images=tmp_path, device="cpu")
        assert (histogram == measure(run, site.name)) == same
        assert histogram.bounds["projected"] == measure(run, site.name).bounds["projected"]


def test_unknown_site_is_refused_with_a_suggestion(run: Run) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown site 'tail.wieght'; did you mean 'tail.weight'\?"):
        measure(run, "tail.wieght")


def test_old_runs_have_no_tuned_bounds(run: Run) -> None:
    summary = json.loads((run.folder / SUMMARY).read_text())
    for site in summary["sites"]:
        del site["tuned"], site["observed"]
    old = Run(run.folder, run.registry)
    old.__dict__["summary"] = summary
    assert set(distribution(old, run.table.plan.weights[0].name, device="cpu").bounds) == {
        "raw",
        "observed",
        "projected",
    }


def test_dynamic_quantizers_have_no_projected_bounds(tmp_path: Path) -> None:
    run = quantized(tmp_path, "shared", 4, "paper", reconstruction=None, activations={"quantizer": "daq"})
    dynamic = next(iter(run.table.states))
    assert set(distribution(run, dynamic, device="cpu").bounds) == {"raw"}
