"""Every shipped recipe writes a whole run folder with each toolkit, and trainings start from it."""

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.small_runs import read_strict, require_runtime
from helpers.starting import psnr, simulated
from safetensors.torch import load_file, save_file

import srptq_plugin
from srptq_plugin.graph.stages import Stage
from srptq_plugin.models import edsr
from srptq_plugin.models.loading import load_model
from srptq_plugin.pipeline import DEFAULT_RECIPE, quantize
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import NETWORK, PROGRAM, RECIPE, SUMMARY, TABLE, Run
from srptq_plugin.runs.verify import FOREIGN

pytest.importorskip("torchao")

from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from srptq_adapters.torchao import SRQuantizer

OWN = {RECIPE, NETWORK, PROGRAM, TABLE, SUMMARY}
KEYS = {"schema", "versions", "toolkit", "target", "recipe", "model", "sites", "seconds", "verify"}
SITE_KEYS = {"name", "role", "stage", "bits", "scale", "zero_point", "lower", "upper"}
CONVS: Mapping[Stage, int] = {"head": 1, "body": 5, "upsample": 2, "tail": 1}
VERIFY_KEYS = {"runtime", "psnr", "max_levels", "convs_planned", "convs_int8", "speedup"}
SAME_GRIDS = [
    name for name in Recipe.names() if name.startswith(("onnxruntime", "tensorrt", "snpe-w8a8")) and "edges" not in name
]
"""Recipes whose grids MQBench's backend has as well."""
BLOCKS, LAST = 2, 16
"""How many blocks of the bundled network are kept, and the number of the convolution behind all of them."""
KEPT = frozenset((*range(BLOCKS), LAST))
ON_TOYS = tuple(name for name in Recipe.names() if name.startswith("executorch"))
"""Recipes that run on a toy, in tests/adapters/targets: compiling takes longest."""
PHASES = {"load", "observe", "reconstruct", "export", "verify"}


@pytest.fixture(scope="module")
def first_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the weights of the bundled network with its first two blocks, which runs in a quarter of the time."""
    state = load_file(edsr.MINI["4"])
    kept = {key.replace(f"body.{LAST}.", f"body.{BLOCKS}."): state[key] for key in state if block_of(key) in KEPT}
    path = tmp_path_factory.mktemp("weights") / "edsr_x4.safetensors"
    save_file(kept, path)
    return path


def block_of(key: str) -> int:
    return int(key.split(".")[1]) if key.startswith("body.") else 0


def require_toolkit(toolkit: str) -> None:
    spec = find_spec(toolkit)
    if spec is None or "standins" in str(spec.origin):
        pytest.skip(f"needs {toolkit}")


def shortened(recipe: Recipe) -> list[str]:
    """Return overrides of a recipe that make it fast."""
    overrides = ["calibration.patches=4", "calibration.size=24"]
    if tunes(recipe):
        overrides.append("reconstruction.epochs=1")
    if recipe.target in ("tensorrt", "ncnn"):
        # Four smaller patches clip long tails so much that a symmetric grid, which is wider, gains several dB.
        overrides.append("calibration.size=48")
    return overrides


def tunes(recipe: Recipe) -> bool:
    return recipe.reconstruction is not None and recipe.reconstruction.name == "pac"


def keeps_better(recipe: Recipe) -> bool:
    """Tell whether PaC returns to its start if the loss did not fall."""
    return recipe.reconstruction is not None and tunes(recipe) and recipe.reconstruction.options.get("keep") != "last"


@pytest.mark.parametrize("toolkit", ["torchao", "mqbench"])
@pytest.mark.parametrize("name", [name for name in Recipe.names() if name not in ON_TOYS])
def test_a_shipped_recipe_makes_a_whole_run_folder(
    name: str, toolkit: str, tmp_path: Path, first_blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = Recipe.load(name)
    require_runtime(shipped.target)
    require_toolkit(toolkit)
    monkeypatch.setattr(edsr, "MINI", {"4": first_blocks})
    steps: list[str] = []
    run = quantize(
        name,
        overrides=shortened(shipped),
        out=tmp_path / "run",
        toolkit=toolkit,
        device="cpu",
        progress=lambda step, _n, _all: steps.append(step),
    )
    assert {"observing", "writing files"} <= set(steps)
    summary = read_strict(run.folder / SUMMARY)
    assert {path.name for path in run.folder.iterdir()} == OWN | set(summary["artifacts"])
    assert (summary["toolkit"], summary["recipe"]["name"]) == (toolkit, name)
    assert_summary(summary, shipped.target)
    assert_sites(summary["sites"], run.recipe)
    assert_verified(summary["verify"], run)
    assert bool(summary["reconstruction"]) == bool(shipped.reconstruction)
    if keeps_better(shipped):
        assert summary["reconstruction"]["loss_after"] <= summary["reconstruction"]["loss_before"]
    if name == DEFAULT_RECIPE:
        assert summary["verify"]["passed"], summary["verify"]["problems"]
        assert summary["command"].startswith("benchmark_app -m model_openvino.xml")
    assert Recipe.load(run.folder / RECIPE) == run.recipe
    assert run.recipe.model_dump(mode="json") == summary["recipe"]
    assert_starts(run)
    if toolkit == "mqbench" and name in SAME_GRIDS:
        assert_starts_in_mqbench(run)


def assert_summary(summary: Mapping[str, Any], target: str) -> None:
    assert summary.keys() >= KEYS
    assert summary["schema"] == 1
    assert summary["versions"].keys() >= {"srptq-plugin", "torch", "torchao", "python"}
    assert summary["target"] == target
    model = summary["model"]
    assert (model["name"], model["parameters"], model["scale"]) == ("edsr-mini", 122011, 4)
    assert summary["seconds"].keys() >= PHASES
    assert all(isinstance(seconds, float) and seconds >= 0 for seconds in summary["seconds"].values())
    assert bool(summary["artifacts"]) == (target != "paper")
    assert all(name.startswith(f"model_{target}.") for name in summary["artifacts"])


def planned_convs(recipe: Recipe) -> Mapping[Stage, int]:
    """Return how many convolutions of each stage a run's recipe plans: the head stays float on coarse grids."""
    left_float = {override.sites for override in recipe.overrides if override.quantize is False}
    assert left_float <= {"head.0/conv", "sub_mean/conv"}
    return {stage: count for stage, count in CONVS.items() if stage != "head" or not left_float}


def assert_sites(sites: Sequence[Mapping[str, Any]], recipe: Recipe) -> None:
    assert all(site.keys() >= SITE_KEYS for site in sites)
    assert {site["role"] for site in sites} == {"weight", "activation"}
    quantized = {stage: count for stage, count in planned_convs(recipe).items() if recipe.stages[stage].quantize}
    assert Counter(site["stage"] for site in sites if site["role"] == "weight") == quantized
    assert {site["stage"] for site in sites} == set(quantized)
    for site in sites:
        kind = "weights" if site["role"] == "weight" else "activations"
        own = getattr(recipe.stages[site["stage"]], kind)
        sign = recipe.preset == "fqsr" and min(site["lower"]) < 0
        skips = {recipe.skips.bits} if site["role"] == "activation" else set[int | None]()
        assert site["bits"] - sign in {own or getattr(recipe, kind).bits} | skips
        cost = site["projection"]
        assert cost is None or (cost["cost_db"] > -3 and cost["tuned_db"] > 0)
        assert len(site["scale"]) == len(site["zero_point"]) == len(site["lower"]) == len(site["upper"]) >= 1
        assert all(scale > 0 for scale in site["scale"])
        assert all(low <= high for low, high in zip(site["lower"], site["upper"], strict=True))


def assert_verified(report: Mapping[str, Any], run: Run) -> None:
    assert report.keys() >= VERIFY_KEYS
    target, planned = run.recipe.target, sum(planned_convs(run.recipe).values())
    if target == "paper":
        assert (report["runtime"], report["passed"], report["problems"]) == (None, True, [])
        assert "simulation only" in report["note"]
        return
    # Another runtime reads the files of a target whose own runtime cannot be here: no kernels, and no speed.
    foreign = FOREIGN in report["note"]
    assert report["runtime"].startswith("onnxruntime" if foreign else target)
    assert report["convs_planned"] == len(run.table.plan.convs) == planned
    assert report["convs_int8"] == (None if foreign else planned)
    odd = [(size["height"] % 2, size["width"] % 2) for size in report["sizes"]]
    assert odd == [(0, 0), (1, 1), (1, 1), (0, 1), *[(0, 0)] * 3]
    assert [size["image"] for size in report["sizes"]][-3:] == ["white", "checkers", "noise"]
    assert report["psnr"] is None or report["psnr"] > 40
    assert foreign or isinstance(report["speedup"], float)
    assert not report["lint"]
    assert not [problem for problem in report["problems"] if "int8" in problem]


def assert_starts(run: Run) -> None:
    """Check that a training starts at the run's simulation, to the bit."""
    image = 255 * networks.images(2, 24, 24)
    exported = torch.export.export(load_model().module.eval(), (image,)).module()
    model = prepare_pt2e(exported, SRQuantizer.from_recipe(run.recipe, input_range=run.input_range))
    assert not srptq_plugin.initialize(model, run.folder).left
    with torch.no_grad():
        # Not `run.simulation()`, which rounds sums as the target's kernels do.
        assert torch.equal(model(image), run.table.simulate(run.network)(image))


def assert_starts_in_mqbench(run: Run) -> None:
    """Check the same at the tensors that MQBench's own placement quantizes, up to the rounding of folded weights."""
    srptq_plugin.activate("mqbench")
    try:
        platform = importlib.import_module("mqbench.prepare_by_platform")
        config_from = importlib.import_module("srptq_adapters.mqbench").config_from
        settings, network = config_from(run.recipe), load_model().module.eval()
        model = platform.prepare_by_platform(network, settings.backend, settings.prepare_custom_config_dict).eval()
        started = srptq_plugin.initialize(model, run.folder)
    finally:
        srptq_plugin.deactivate("mqbench")
    image = 255 * networks.images(2, 24, 24)
    with torch.no_grad():
        assert psnr(model(image), simulated(run, model, started.sites)(image), peak=255) > 60
