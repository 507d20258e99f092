"""From a recipe to a whole run folder: every shipped recipe, every toy network, and what plugins add."""

import importlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import PIL.Image
import pytest
import torch
from helpers import networks
from helpers.starting import psnr, simulated
from onnx import numpy_helper
from torch import Tensor, nn
from torch.export import ExportedProgram

import srptq_plugin
from srptq_plugin import pipeline
from srptq_plugin.calibration import calibrator
from srptq_plugin.deploy.onnx_export import export_float, metadata_of
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import MissingRuntimeError, SrptqError
from srptq_plugin.graph.export import export_network
from srptq_plugin.graph.network import MOVEMENT, Network
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.stages import Stage
from srptq_plugin.graph.types import Array, Size
from srptq_plugin.models import load_model
from srptq_plugin.pipeline import DEFAULT_RECIPE, quantize
from srptq_plugin.plugins.entries import ObserverEntry, TargetEntry
from srptq_plugin.plugins.hookspecs import hookimpl
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import NETWORK, RECIPE, TABLE, Run
from srptq_plugin.runs.verify import verify

pytest.importorskip("torchao")

from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from srptq_adapters.torchao import SRQuantizer

OWN = {"recipe.yaml", "model.onnx", "model.pt2", "quant_table.safetensors", "summary.json"}
ARTIFACTS = {
    "openvino": ["model_openvino.xml", "model_openvino.bin", "model_openvino.onnx"],
    "onnxruntime": ["model_onnxruntime.onnx"],
    "tensorrt": ["model_tensorrt.onnx"],
    "snpe": ["model_snpe.onnx", "model_snpe.encodings"],
    "paper": [],
}
SMALL = {"patches": 4, "size": 24, "batch": 2}
KEYS = {"schema", "versions", "toolkit", "target", "recipe", "model", "sites", "seconds", "verify"}
SITE_KEYS = {"name", "role", "stage", "bits", "scale", "zero_point", "lower", "upper"}
CONVS: Mapping[Stage, int] = {"head": 1, "body": 33, "upsample": 2, "tail": 1}
VERIFY_KEYS = {"runtime", "psnr", "max_levels", "convs_planned", "convs_int8", "speedup"}
SAME_GRIDS = [
    name for name in Recipe.names() if name.startswith(("onnxruntime", "tensorrt", "snpe-w8a8")) and "edges" not in name
]
"""Recipes whose grids MQBench's backend has as well."""
BUNDLED = {"export_network": calibrator, "export_float": pipeline}
PHASES = {"load", "observe", "reconstruct", "export", "verify"}


@pytest.fixture(autouse=True)
def small_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs are compared on smaller images, odd ones too."""
    module = importlib.import_module("srptq_plugin.runs.verify")
    monkeypatch.setattr(module, "SIZES", ((24, 24), (17, 29), (31, 21), (20, 23)))


@pytest.fixture(autouse=True)
def programs_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a program back takes a third of a run."""
    monkeypatch.setattr(torch.export, "load", networks.loaded)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Stand-ins for the exporting functions, by name: exporting takes half the time, and equalizing changes values."""
    folder = tmp_path_factory.mktemp("bundled")
    program = export_network(load_model().module)

    def write(own: ExportedProgram, path: Path, metadata: Mapping[str, object]) -> None:
        if not (folder / NETWORK).exists():
            export_float(program, folder / NETWORK, metadata)
        model = onnx.load(folder / NETWORK)
        for each in model.graph.initializer:
            each.CopyFrom(numpy_helper.from_array(own.state_dict[each.name].detach().numpy(), each.name))
        onnx.save(model, path)

    def answer(_: nn.Module, size: Size | None = None, multiple: int = 1) -> ExportedProgram:  # noqa: ARG001
        return networks.own(program)

    return {"export_network": answer, "export_float": write}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few small low-resolution images."""
    folder = tmp_path_factory.mktemp("photographs")
    for n, image in enumerate(networks.images(3, 40, 44)):
        pixels = (255 * image).round().byte().movedim(0, -1).numpy()
        PIL.Image.fromarray(pixels).save(folder / f"{n}.png")
    return folder


def small(target: str, bits: int = 8, **keys: Any) -> Recipe:
    return networks.recipe(bits, target, **{"calibration": SMALL, **keys})


def needs(target: str) -> None:
    if target != "paper":
        pytest.importorskip("openvino" if target == "openvino" else "onnxruntime")


def strict(path: Path) -> dict[str, Any]:
    """JSON as the standard has it: no NaN and no Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)


def needs_toolkit(toolkit: str) -> None:
    found = find_spec(toolkit)
    if found is None or "standins" in str(found.origin):
        pytest.skip(f"needs {toolkit}")


@pytest.mark.parametrize("toolkit", ["torchao", "mqbench"])
@pytest.mark.parametrize("name", Recipe.names())
def test_a_shipped_recipe_makes_a_whole_run_folder(
    name: str, toolkit: str, tmp_path: Path, bundled: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = Recipe.load(name)
    needs(shipped.target)
    needs_toolkit(toolkit)
    overrides = ["calibration.patches=4", "calibration.size=24"]
    tunes = shipped.reconstruction is not None and shipped.reconstruction.name == "pac"
    overrides += ["reconstruction.epochs=1"] if tunes else []
    # four such small patches clip long tails so much that a symmetric grid, which is wider, gains several dB at a site
    overrides += ["calibration.size=48"] if shipped.target == "tensorrt" else []
    for function in bundled if name != DEFAULT_RECIPE else ():
        monkeypatch.setattr(BUNDLED[function], function, bundled[function])
    seen: list[str] = []
    run = quantize(
        name,
        overrides=overrides,
        out=tmp_path / "run",
        toolkit=toolkit,
        device="cpu",
        progress=lambda what, _n, _all: seen.append(what),
    )
    artifacts = ARTIFACTS[shipped.target]
    assert {path.name for path in run.folder.iterdir()} == OWN | set(artifacts)
    assert {"observing", "writing files"} <= set(seen)

    summary = strict(run.folder / "summary.json")
    assert summary.keys() >= KEYS
    assert summary["schema"] == 1
    assert summary["versions"].keys() >= {"srptq-plugin", "torch", "torchao", "python"}
    assert (summary["toolkit"], summary["target"]) == (toolkit, shipped.target)
    assert summary["model"].keys() >= {"name", "parameters", "scale"}
    assert (summary["model"]["name"], summary["model"]["parameters"], summary["model"]["scale"]) == (
        "edsr-mini",
        380955,
        4,
    )
    assert summary["recipe"]["name"] == name
    assert summary["seconds"].keys() >= PHASES
    assert all(isinstance(seconds, float) and seconds >= 0 for seconds in summary["seconds"].values())
    assert summary["artifacts"] == artifacts
    assert_sites(summary["sites"], shipped)
    assert_verified(summary["verify"], shipped.target, run.table)
    assert bool(summary["reconstruction"]) == bool(shipped.reconstruction)
    if tunes:
        assert summary["reconstruction"]["loss_after"] <= summary["reconstruction"]["loss_before"]
    if name == DEFAULT_RECIPE:
        assert summary["verify"]["passed"], summary["verify"]["problems"]
        assert summary["command"].startswith("benchmark_app -m model_openvino.xml")
    assert Recipe.load(run.folder / RECIPE) == run.recipe
    assert run.recipe.model_dump(mode="json") == summary["recipe"]
    assert_starts(run)
    if toolkit == "mqbench" and name in SAME_GRIDS:
        assert_starts_in_mqbench(run)


def assert_starts(run: Run) -> None:
    """Training that starts from the run starts at what the run simulates, to the bit."""
    image = 255 * networks.images(2, 24, 24)
    exported = torch.export.export(load_model().module.eval(), (image,)).module()
    model = prepare_pt2e(exported, SRQuantizer.from_recipe(run.recipe, input_range=run.input_range))
    assert not srptq_plugin.initialize(model, run.folder).left
    with torch.no_grad():
        assert np.array_equal(model(image).numpy(), run.simulation()(image.numpy()))


def assert_starts_in_mqbench(run: Run) -> None:
    """The same at the tensors that MQBench's own placement quantizes as well, up to what folding rounds."""
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


def assert_sites(sites: Sequence[Mapping[str, Any]], recipe: Recipe) -> None:
    assert all(site.keys() >= SITE_KEYS for site in sites)
    assert {site["role"] for site in sites} == {"weight", "activation"}
    wanted = {stage: count for stage, count in CONVS.items() if recipe.stages[stage].quantize}
    assert Counter(site["stage"] for site in sites if site["role"] == "weight") == wanted
    assert {site["stage"] for site in sites} == set(wanted)
    for site in sites:
        kind = "weights" if site["role"] == "weight" else "activations"
        own = getattr(recipe.stages[site["stage"]], kind)
        sign = recipe.preset == "fqsr" and min(site["lower"]) < 0
        skips = {recipe.skips.bits} if site["role"] == "activation" else set[int | None]()
        assert site["bits"] - sign in {own or getattr(recipe, kind).bits} | skips
        found = site["projection"]
        assert found is None or (found["cost_db"] > -3 and found["tuned_db"] > 0)
        assert len(site["scale"]) == len(site["zero_point"]) == len(site["lower"]) == len(site["upper"]) >= 1
        assert all(scale > 0 for scale in site["scale"])
        assert all(low <= high for low, high in zip(site["lower"], site["upper"], strict=True))


def assert_verified(found: Mapping[str, Any], target: str, table: QuantTable) -> None:
    assert found.keys() >= VERIFY_KEYS
    if target == "paper":
        assert (found["runtime"], found["passed"], found["problems"]) == (None, True, [])
        assert "simulation only" in found["note"]
        return
    foreign = target in ("tensorrt", "snpe")
    assert found["runtime"].startswith("onnxruntime" if foreign else target)
    assert found["convs_planned"] == len(table.plan.convs) == 37
    assert found["convs_int8"] == (None if foreign else 37)
    odd = [(size["height"] % 2, size["width"] % 2) for size in found["sizes"]]
    assert odd == [(0, 0), (1, 1), (1, 1), (0, 1), *[(0, 0)] * 3]
    assert [size["image"] for size in found["sizes"]][-3:] == ["white", "checkers", "noise"]
    assert found["psnr"] > 40
    assert foreign or isinstance(found["speedup"], float)
    assert not found["lint"]
    assert not [problem for problem in found["problems"] if "int8" in problem]


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(target: str, photographs: Path, tmp_path: Path) -> None:
    """But for the names in OpenVINO's .xml, which it numbers as it makes them."""
    needs(target)
    reconstruction = {"name": "pac", "epochs": 2, "schedule": "joint"}

    def run(name: str, seed: int) -> Path:
        torch.manual_seed(len(name))
        recipe = small(target, 4, reconstruction=reconstruction, calibration={**SMALL, "seed": seed})
        return quantize(recipe, model=networks.network("shared"), images=photographs, out=tmp_path / name).folder

    one, two, other = run("one", 0), run("again", 0), run("other", 1)
    names = [name for name in ARTIFACTS[target] if name != "model_openvino.xml"]
    for name in (TABLE, NETWORK, *names):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert (one / TABLE).read_bytes() != (other / TABLE).read_bytes()
    assert (one / f"model_{target}.onnx").read_bytes() != (other / f"model_{target}.onnx").read_bytes()


TOYS = [
    *((kind, "openvino", {}) for kind in (*networks.NETWORKS, "normed", "rdn")),
    *((kind, "onnxruntime", {}) for kind in ("edsr", "mixed", "imdn", "shared", "rdn")),
    ("mixed", "openvino", {"preset": "performance"}),
    ("imdn", "openvino", {"preset": "performance", "placement": "convs"}),
]


@pytest.mark.parametrize(("kind", "target", "keys"), TOYS, ids=lambda part: part if isinstance(part, str) else "")
def test_a_toy_network_runs_in_integers_and_every_float_has_a_reason(
    kind: str, target: str, keys: Mapping[str, Any], photographs: Path, tmp_path: Path
) -> None:
    """A quantizer at fault gave less than 50 dB of the whole range here; a tie alone leaves a small image 54."""
    needs(target)
    run = quantize(small(target, **keys), model=networks.network(kind), images=photographs, out=tmp_path / "run")
    found = run.summary["verify"]
    assert found["passed"], found["problems"]
    assert found["convs_planned"] == found["convs_int8"] == len(run.table.plan.convs) == run.summary["convs"]
    assert len(found["sizes"]) == 7
    assert all(size["psnr"] is None or size["psnr"] > 52 for size in found["sizes"])
    assert found["psnr"] is None or found["psnr"] > 55
    assert_floats_have_reasons(run)


def assert_floats_have_reasons(run: Run) -> None:
    """An operation reads integers, only moves them, is computed with the one before, or is named with a reason."""
    network = Network(run.network)
    floats = run.summary["floats"]
    readers = {edge.consumer for site in run.table.plan.sites for edge in site.consumers}
    for node in network.varying:
        op, name = network.ops[node], network.name(node)
        if op not in MOVEMENT and op not in ("relu", "input", "output") and name not in readers:
            assert floats.get(name), f"{name} is neither quantized nor named"
    assert set(floats) <= set(network.nodes)
    assert not set(floats) & set(run.table.plan.convs)


def test_floats_name_what_the_recipe_and_the_target_leave_out(photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    recipe = small("openvino", overrides=[{"sites": "right", "quantize": False}])
    run = quantize(recipe, model=networks.network("mixed"), images=photographs, out=tmp_path / "run")
    floats = run.summary["floats"]
    assert floats["right/conv"] == "the recipe leaves it float"
    assert floats["attention.squeeze/conv"].startswith("works on pooled 1 x 1 maps")
    assert floats["/tanh"] == "no integer kernel on this target"
    assert run.summary["verify"]["convs_int8"] == run.summary["verify"]["convs_planned"] == 5


def test_a_static_size_is_in_the_file_and_in_the_verification(photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    run = quantize(
        small("onnxruntime"),
        model=networks.network("shared"),
        images=photographs,
        out=tmp_path / "run",
        input_size=(1, 3, 19, 26),
    )
    assert run.size == (19, 26)
    assert run.summary["model"]["input_size"] == [1, 3, 19, 26]
    assert [(size["height"], size["width"]) for size in run.summary["verify"]["sizes"]] == [(19, 26)] * 4
    assert run.summary["verify"]["passed"]
    for name in (NETWORK, *run.summary["artifacts"]):
        graph = onnx.load(run.folder / name).graph
        assert [each.dim_value for each in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 19, 26]
        assert [each.dim_value for each in graph.output[0].type.tensor_type.shape.dim] == [1, 3, 38, 52]
    image = networks.images(1, 19, 26).numpy()
    simulated, plain = run.simulation()(image), run.float()(image)
    found = run.target.load(run.artifacts[0])(image)
    assert np.square(found - simulated).mean() < 0.04 * np.square(simulated - plain).mean()


def test_a_static_size_in_openvino(photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    run = quantize(
        small("openvino"),
        model=networks.network("shared"),
        images=photographs,
        out=tmp_path / "run",
        input_size=(1, 3, 19, 26),
    )
    assert run.summary["verify"]["passed"]
    assert "-data_shape" not in run.summary["command"]


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_any_size_and_any_batch(target: str, photographs: Path, tmp_path: Path) -> None:
    needs(target)
    run = quantize(small(target), model=networks.network("shared"), images=photographs, out=tmp_path / "run")
    runtime, simulation, plain = run.target.load(run.artifacts[0]), run.simulation(), run.float()
    for batch, height, width in ((1, 7, 5), (3, 16, 31), (2, 33, 8)):
        image = networks.images(batch, height, width, seed=batch).numpy()
        found, wanted, exact = runtime(image), simulation(image), plain(image)
        assert found.shape == wanted.shape == exact.shape == (batch, 3, 2 * height, 2 * width)
        assert np.square(found - wanted).mean() < 0.04 * np.square(wanted - exact).mean()


def test_metadata_says_what_the_network_takes(photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = networks.network("shared")
    run = quantize(small("onnxruntime"), model=model, images=photographs, out=tmp_path / "run", input_range=(-1.0, 1.0))
    for name in (NETWORK, *run.summary["artifacts"]):
        assert metadata_of(onnx.load(run.folder / name)) == {
            "scale": 2,
            "input_range": [-1.0, 1.0],
            "mean": None,
            "name": "Shared",
        }
    assert run.input_range == (-1.0, 1.0)
    image = next(site for site in run.summary["sites"] if site["name"] == "/input")
    assert (image["lower"][0], image["upper"][0]) == pytest.approx((-1, 1), abs=0.01)


def test_the_size_of_a_folder_of_photographs_is_reduced_by_the_scale_given(photographs: Path, tmp_path: Path) -> None:
    calibration = {**SMALL, "size": 16}
    run = quantize(
        small("paper", calibration=calibration),
        model=networks.network("shared"),
        images=photographs,
        scale=2,
        out=tmp_path / "run",
    )
    assert run.recipe.calibration.scale == 2
    assert run.recipe.calibration.images == str(photographs)
    with pytest.raises(SrptqError, match="smaller than the patches of 24x24"):
        quantize(small("paper"), model=networks.network("shared"), images=photographs, scale=2, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_summary_tells_what_safe_and_compensated_weights_do(photographs: Path, tmp_path: Path) -> None:
    weights = {"rounding": "compensated"}
    safe = quantize(
        small("openvino", weights=weights), model=networks.network("edsr"), images=photographs, out=tmp_path / "safe"
    )
    found = safe.summary["overflow"]
    assert 0 < found["raised"] <= found["channels"] == sum(len(each) for each in safe.table.weights.values())
    assert safe.summary["rounding_db"] > 0
    assert "round" in safe.summary["seconds"]
    unsafe = small("openvino", weights={"overflow_safe": False})
    plain = quantize(unsafe, model=networks.network("edsr"), images=photographs, out=tmp_path / "plain")
    assert plain.summary["overflow"] is plain.summary["rounding_db"] is None
    name = next(iter(safe.table.weights))
    assert bool((safe.table.qparams[name].scale >= plain.table.qparams[name].scale).all())


def test_noise_takes_no_photographs(monkeypatch: pytest.MonkeyPatch, photographs: Path, tmp_path: Path) -> None:
    for name in ("sample_images", "load_images"):
        monkeypatch.delattr(calibrator, name)
    chosen = Recipe.load("paper-w4a4-dfq", [f"calibration.{key}={value}" for key, value in SMALL.items()])
    run = quantize(chosen, model=networks.network("edsr"), out=tmp_path / "run")
    assert run.table.biases
    assert run.summary["reconstruction"]["corrected"] == len(run.table.plan.convs)
    assert run.summary["equalized_db"] is not None
    both: tuple[dict[str, Any], ...] = ({"images": photographs}, {"scale": 2})
    for given in both:
        with pytest.raises(SrptqError, match=r"choose: noise takes no images; leave them out, or choose random"):
            quantize(chosen, **given, model=networks.network("edsr"), out=tmp_path / "other")


def test_a_recipe_by_path_with_keys_changed(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: paper-w4a4\nreconstruction: null\n")
    changes = ["calibration.patches=2", "calibration.size=16", "activations.observer=minmax"]
    run = quantize(
        tmp_path / "mine.yaml",
        model=networks.network("shared"),
        images=photographs,
        out=tmp_path / "run",
        overrides=changes,
    )
    assert (run.recipe.name, run.recipe.activations.observer, run.recipe.activations.bits) == ("mine", "minmax", 4)
    assert run.summary["reconstruction"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "edsr-mni"}, "unknown model 'edsr-mni'"),
        ({"images": Path("nowhere")}, "nowhere does not exist"),
        ({"device": "tpu9"}, "--device tpu9: not there"),
        ({"toolkit": "mqbnch"}, "unknown toolkit 'mqbnch'"),
        ({"recipe": "openvino-w9a9"}, "unknown recipe 'openvino-w9a9'; did you mean"),
    ],
)
def test_a_mistake_leaves_no_folder(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"recipe": small("paper"), "model": networks.network("shared"), **arguments}
    with pytest.raises(SrptqError, match=message):
        quantize(**given, out=tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_writing_needs_is_asked_for_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingRuntimeError, match="openvino is not installed"):
        quantize(small("openvino"), images=tmp_path / "nowhere", out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


class Halves:
    """An observer of somebody else: a share of the extremes."""

    made: int = 0

    def __init__(self, grid: IntGrid, *, share: float = 0.5, tensors_per_batch: int = 1) -> None:  # noqa: ARG002
        type(self).made += 1
        self.share, self.lower, self.upper = share, torch.tensor(0.0), torch.tensor(0.0)

    def update(self, values: Tensor) -> None:
        self.lower, self.upper = torch.minimum(self.lower, values.min()), torch.maximum(self.upper, values.max())

    def merge(self, other: Any) -> None:
        self.lower, self.upper = torch.minimum(self.lower, other.lower), torch.maximum(self.upper, other.upper)

    def bounds(self) -> Bounds:
        return Bounds.of(self.share * self.lower, self.share * self.upper)


class Npu:
    """A target of somebody else: 5 bits with scales that are powers of two, written as JSON."""

    exports: Mapping[str, Sequence[object]] = MappingProxyType({})

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
        """Nothing."""

    def write(self, network: Path, table: QuantTable, folder: Path) -> Sequence[Path]:
        assert metadata_of(onnx.load(network))["scale"] == 2
        scales = {name: found.scale.tolist() for name, found in table.qparams.items()}
        (folder / "npu.json").write_text(json.dumps(scales))
        return (folder / "npu.json",)

    def load(self, artifact: Path) -> "NpuModel":
        return NpuModel(artifact)

    def command(self, artifact: Path, size: Size | None) -> str:
        return f"npu-run {artifact.name} {size}"


class NpuModel:
    """Answers with what the float network and a table of the run folder compute."""

    name = "npu 1"

    def __init__(self, artifact: Path) -> None:
        self.simulation = Run(artifact.parent, Registry([MINE])).simulation()

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
        return [ObserverEntry("halves", "a share of the extremes", lambda: Halves)]


MINE = Plugin()


def test_a_target_and_an_observer_of_others_need_no_change_here(photographs: Path, tmp_path: Path) -> None:
    registry = Registry([MINE])
    ends = {"head": {"weights": 5, "activations": 5}, "tail": {"weights": 5, "activations": 5}}
    recipe = small("npu", 5, activations={"observer": "halves", "options": {"share": 0.25}}, stages=ends)
    before = Halves.made
    run = quantize(recipe, model=networks.network("edsr"), images=photographs, out=tmp_path / "run", registry=registry)
    assert Halves.made > before
    assert (run.summary["target"], run.summary["artifacts"]) == ("npu", ["npu.json"])
    found = run.summary["verify"]
    assert (found["runtime"], found["convs_int8"], found["convs_planned"]) == ("npu 1", 8, 8)
    assert (found["passed"], found["psnr"], found["max_levels"]) == (True, None, 0.0)
    assert run.summary["command"] == "npu-run npu.json None"
    scales = strict(run.folder / "npu.json")
    assert all(np.log2(np.array(scale)) % 1 == pytest.approx(0) for scale in scales.values())
    assert verify(Run.open(run.folder, registry))["passed"]
    with pytest.raises(SrptqError, match="unknown target 'npu'"):
        verify(Run.open(run.folder))


def test_what_a_target_of_others_cannot_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match=r"weights\.bits: npu has no 8 bits here; choices: 5; the nearest is 5"):
        quantize(small("npu"), out=tmp_path / "run", registry=Registry([MINE]))
    assert list(tmp_path.iterdir()) == []


def branching(x: Tensor) -> Tensor:
    return x if x.mean() > 0 else -x


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = networks.conv(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return branching(self.conv(x))


class Plain(nn.Module):
    """Nothing to quantize."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branching(), "torch.export cannot trace Branching"),
        (Plain(), "nothing to quantize"),
        (nn.Flatten(), "its output must be one RGB image"),
    ],
    ids=["branching", "plain", "flatten"],
)
def test_a_network_that_cannot_be_quantized_leaves_no_folder(
    module: nn.Module, message: str, photographs: Path, tmp_path: Path
) -> None:
    with pytest.raises(SrptqError, match=message):
        quantize(small("paper"), model=module, images=photographs, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_users_network_is_left_as_it_was(photographs: Path, tmp_path: Path) -> None:
    model = networks.network("normed")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = quantize(small("paper"), model=model, images=photographs, out=tmp_path / "run")
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    image = networks.images(1, 11, 13)
    with torch.no_grad():
        assert np.allclose(run.float()(image.numpy()), model(image).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"input_size": (2, 3, 16, 16)}, "input_size.*one image of three colors"),
        ({"input_size": (1, 1, 16, 16)}, "input_size.*one image of three colors"),
        ({"input_range": (1.0, 0.0)}, "input_range.*black and white"),
    ],
)
def test_sizes_and_ranges_that_make_no_sense_are_refused_before_any_work(
    asked: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(SrptqError, match=said):
        quantize(small("paper"), model=networks.network("edsr"), out=tmp_path / "run", **asked)
    assert not list(tmp_path.iterdir())
