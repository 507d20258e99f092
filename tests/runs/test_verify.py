"""Verifying has to notice: a convolution in float, a wrong number in the file, a runtime that is not there."""

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL.Image
import pytest
import torch
from helpers import networks
from helpers.command_line import returning
from onnx import numpy_helper
from torch import Tensor, nn

from srptq_adapters.targets.onnxruntime import OnnxRuntimeTarget
from srptq_plugin.analysis.analyze import analyze
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.data.images import Image
from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.evaluate import evaluate
from srptq_plugin.evaluation.pairs import load_pairs
from srptq_plugin.graph.types import Array
from srptq_plugin.pipeline import quantize
from srptq_plugin.plugins.entries import TargetEntry
from srptq_plugin.plugins.hookspecs import hookimpl
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.binding import rules_of
from srptq_plugin.runs.run import NETWORK, Run
from srptq_plugin.runs.verify import LEAST_PSNR, SIZES, integer_convs, verify

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")

CALIBRATION = {"patches": 2, "size": 12}
QDQ = "model_onnxruntime.onnx"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """A run by target and bits, made once, not to be changed."""
    made: dict[tuple[str, int], Path] = {}
    root = tmp_path_factory.mktemp("runs")

    def run(target: str, bits: int) -> Path:
        if (target, bits) not in made:
            recipe = networks.recipe(bits, target, calibration=CALIBRATION)
            out = root / f"{target}-{bits}"
            made[target, bits] = quantize(recipe, model=networks.network("shared"), out=out).folder
        return made[target, bits]

    return run


@pytest.fixture
def copied(runs: Callable[[str, int], Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a run, to be changed."""

    def copy(target: str = "onnxruntime", bits: int = 8) -> Path:
        return shutil.copytree(runs(target, bits), tmp_path / "run")

    return copy


def tamper(folder: Path, site: str, factor: float) -> None:
    """Another scale in the file than in the table."""
    model = onnx.load(folder / QDQ)
    scale = next(each for each in model.graph.initializer if each.name == f"{site}_8bit_scale")
    scale.CopyFrom(numpy_helper.from_array(np.float32(factor) * numpy_helper.to_array(scale), scale.name))
    onnx.save(model, folder / QDQ)


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_a_run_as_written_passes_at_every_size(target: str, copied: Callable[..., Path]) -> None:
    pytest.importorskip(target)
    seen: list[tuple[int, int]] = []
    found = verify(Run.open(copied(target)), progress=lambda _, done, total: seen.append((done, total)))
    assert (found["passed"], found["problems"], found["note"]) == (True, [], "")
    assert found["convs_planned"] == found["convs_int8"] == 6
    photographs, worst = found["sizes"][: len(SIZES)], found["sizes"][len(SIZES) :]
    assert [(size["height"], size["width"]) for size in photographs] == list(SIZES)
    assert [size["image"] for size in worst] == ["white", "checkers", "noise"]
    assert sum(found["kernels"].values()) == 6
    assert found["runtime"].startswith(f"{target} ")
    assert 0 <= found["p99_9_levels"] <= found["max_levels"]
    assert seen == [(done, 7) for done in range(8)]


def test_a_float_file_in_place_of_the_integers_fails(copied: Callable[..., Path]) -> None:
    folder = copied()
    shutil.copy(folder / NETWORK, folder / QDQ)
    found = verify(Run.open(folder))
    assert not found["passed"]
    assert (found["convs_planned"], found["convs_int8"]) == (6, 0)
    assert "6 of 6 convolutions planned as int8 run in float" in found["problems"]


def test_a_float_file_in_openvino_fails(copied: Callable[..., Path]) -> None:
    openvino = pytest.importorskip("openvino")
    folder = copied("openvino")
    openvino.save_model(openvino.Core().read_model(folder / NETWORK), folder / "model_openvino.xml")
    found = verify(Run.open(folder))
    assert not found["passed"]
    assert "6 of 6 convolutions planned as int8 run in float" in found["problems"]


def test_another_scale_in_the_file_than_in_the_table_fails(copied: Callable[..., Path]) -> None:
    folder = copied()
    tamper(folder, "head_conv", 1.3)
    found = verify(Run.open(folder))
    assert found["psnr"] < LEAST_PSNR
    assert not found["passed"]
    assert f"simulation and runtime differ: {found['psnr']:.1f} dB, at 8 bits at least 50 dB" in found["problems"]
    assert found["own_psnr"] is None or found["own_psnr"] > LEAST_PSNR


def test_what_is_too_far_is_told_beside_how_far_the_simulation_is_from_itself(
    copied: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied()
    tamper(folder, "head_conv", 1.3)
    monkeypatch.setattr("srptq_plugin.runs.verify.own_psnr", returning(37.25))
    found = verify(Run.open(folder))
    assert found["own_psnr"] == 37.25
    assert "summed in another order the simulation differs from itself by 37.2 dB" in found["note"]
    assert not found["passed"]


class Stub:
    """ONNX Runtime, less some of its integer convolutions, and with something added to its output."""

    name = "stub 1"

    def __init__(self, inner: Any, missing: int, error: float, saturates: bool) -> None:  # noqa: FBT001
        self.inner, self.missing, self.error, self._saturates = inner, missing, error, saturates

    def __call__(self, image: Array) -> Array:
        return self.inner(image) + np.float32(self.error)

    def integer_convs(self) -> int:
        return (self.inner.integer_convs() or 0) - self.missing

    def kernels(self) -> Mapping[str, int]:
        return {"stub kernel": self.integer_convs()}

    def saturates(self) -> bool:
        return self._saturates


def registry(missing: int = 0, error: float = 0.0, *, saturates: bool = False) -> Registry:
    """With a target `stub` that is ONNX Runtime but for its runtime."""

    class StubTarget(OnnxRuntimeTarget):
        def load(self, artifact: Path) -> Any:
            return Stub(super().load(artifact), missing, error, saturates)

    class Plugin:
        @hookimpl
        def srptq_targets(self) -> Iterable[TargetEntry]:
            return [TargetEntry("stub", "for tests", StubTarget)]

    return Registry([Plugin()])


def stubbed(folder: Path, missing: int = 0, error: float = 0.0, *, saturates: bool = False) -> dict[str, Any]:
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("target: onnxruntime", "target: stub"))
    return verify(Run.open(folder, registry(missing, error, saturates=saturates)))


def test_one_convolution_in_float_is_enough_to_fail(copied: Callable[..., Path]) -> None:
    found = stubbed(copied(), missing=1)
    assert found["runtime"] == "stub 1"
    assert (found["passed"], found["problems"]) == (
        False,
        ["1 of 6 convolutions planned as int8 run in float"],
    )


@pytest.fixture(scope="module")
def unsafe_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose weights may overflow without VNNI, as its recipe asks."""
    recipe = networks.recipe(8, "onnxruntime", calibration=CALIBRATION, weights={"overflow_safe": False})
    out = tmp_path_factory.mktemp("unsafe") / "run"
    return quantize(recipe, model=networks.network("shared"), out=out).folder


def test_unsafe_weights_fail_only_where_kernels_saturate(unsafe_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(unsafe_run, tmp_path / "run")
    found = stubbed(folder)
    assert (found["passed"], found["lint"], found["saturates"]) == (True, [], False)
    found = stubbed(folder, saturates=True)
    assert not found["passed"]
    assert [problem.split(" at ")[0] for problem in found["problems"]] == ["VNNI001"]
    assert found["kernels"] == {"stub kernel": 6}


def test_unsafe_weights_fail_where_the_recipe_wants_safe_ones(unsafe_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(unsafe_run, tmp_path / "run")
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("overflow_safe: false", "overflow_safe: true"))
    assert "VNNI001" in stubbed(folder)["problems"][0]


@pytest.mark.parametrize(("decibels", "passed"), [(50.5, True), (49.5, False)])
def test_the_bar_is_50_decibels_of_the_whole_range(decibels: float, passed: bool, copied: Callable[..., Path]) -> None:  # noqa: FBT001
    error = 10 ** (-decibels / 20)
    found = stubbed(copied(), error=error)
    assert found["psnr"] == pytest.approx(decibels, abs=0.1)
    assert found["max_levels"] >= 0.99 * 255 * error
    assert found["passed"] is passed


@pytest.mark.parametrize(("speedup", "said"), [(0.8, True), (1.0, False), (2.0, False)])
def test_slower_than_float_has_a_reason(
    speedup: float, copied: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, *, said: bool
) -> None:
    def measured(*_: object) -> float:
        return speedup

    monkeypatch.setattr("srptq_plugin.runs.verify._speedup", measured)
    folder = copied()
    found, floats = stubbed(folder), len(Run.open(folder).table.plan.floats)
    assert found["slower"].startswith(f"slower than float: {floats} operations stay float") is said
    assert bool(found["slower"]) is said


def test_below_8_bits_a_difference_is_reported_and_no_failure(copied: Callable[..., Path]) -> None:
    """A step is so large there that ties alone may cost more than 50 dB."""
    found = stubbed(copied(bits=4), error=0.02)
    assert found["psnr"] < 40
    assert (found["passed"], found["problems"]) == (True, [])
    assert "computed as 8 bits" in found["note"]


def test_a_runtime_that_is_not_installed_is_a_note_and_no_failure(
    copied: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = verify(Run.open(folder))
    assert (found["passed"], found["runtime"], found["problems"]) == (True, None, [])
    assert found["note"] == "onnxruntime is not installed; pip install 'srptq-plugin[onnxruntime]'"
    assert found["psnr"] is found["convs_int8"] is None


def test_quantizing_without_the_runtime_writes_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    recipe = networks.recipe(8, "onnxruntime", calibration=CALIBRATION)
    run = quantize(recipe, model=networks.network("shared"), out=tmp_path / "run")
    assert run.summary["verify"]["runtime"] is None
    assert "not installed" in run.summary["verify"]["note"]
    monkeypatch.undo()
    assert verify(Run.open(tmp_path / "run"))["passed"]


def crops(folder: Path, images: Sequence[Image]) -> dict[str, Any]:
    return verify(Run.open(folder), images=images)


def test_images_smaller_than_the_sizes_are_mirrored(copied: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    tiny = [Image("tiny", rng.integers(0, 256, (40, 38, 3), dtype=np.uint8))]
    found = crops(copied(), tiny)
    assert [(size["height"], size["width"]) for size in found["sizes"][: len(SIZES)]] == list(SIZES)
    assert found["passed"]


def test_the_plan_of_integers_follows_what_the_target_computes_in(runs: Callable[[str, int], Path]) -> None:
    run = Run.open(runs("onnxruntime", 8))
    rules = rules_of(run.recipe, run.registry)
    assert integer_convs(run.table.plan, rules) == list(run.table.plan.convs)
    narrow = Run.open(runs("onnxruntime", 4))
    assert len(integer_convs(narrow.table.plan, rules)) == 6
    paper = rules_of(networks.recipe(8, "paper"), run.registry)
    assert integer_convs(run.table.plan, paper) == []


def test_a_network_of_even_sizes_is_compared_and_scored_at_even_sizes(tmp_path: Path) -> None:
    layers = [nn.PixelUnshuffle(2), networks.conv(12, 12), nn.ReLU(), networks.conv(12, 12), nn.PixelShuffle(2)]
    recipe = networks.recipe(8, "onnxruntime", calibration={"patches": 2, "size": 11})
    run = quantize(recipe, model=nn.Sequential(*layers), out=tmp_path / "run")
    assert run.summary["model"]["multiple"] == run.record.multiple == 2
    sizes = [(size["height"], size["width"]) for size in run.summary["verify"]["sizes"][: len(SIZES)]]
    assert sizes == [(48, 48), (34, 58), (76, 64), (64, 72)]
    assert Subject.of_run(run).patches.shape[2:] == (12, 12)
    odd = np.random.default_rng(0).integers(0, 256, (31, 33, 3), dtype=np.uint8)
    PIL.Image.fromarray(odd).save(tmp_path / "odd.png")
    assert {score.output for score in evaluate(run, tmp_path).scores} == {"float", "simulated", "runtime", "bicubic"}
    pairs = load_pairs(tmp_path, run.scale).usable
    assert analyze(Subject.of_run(run, patches=1), pairs, ("stage",)).quantized.psnr_y is not None
    with pytest.raises(SrptqError, match=r"--tile 13.*multiples of 2 only; give 14"):
        evaluate(run, tmp_path, tile=13)


class OnePlace(nn.Module):
    """Adds a map of one size, and for a batch of one only."""

    def __init__(self, *, one_image: bool) -> None:
        super().__init__()
        self.head, self.tail, self.map = networks.conv(3, 6), networks.conv(6, 3), nn.Buffer(torch.rand(1, 6, 20, 26))
        self.batch = 1 if one_image else -1

    def forward(self, x: Tensor) -> Tensor:
        assert self.batch in (-1, len(x))
        return self.tail((self.head(x).flatten(2) + self.map.flatten(2)).relu().reshape(self.batch, 6, 20, 26))


@pytest.mark.parametrize("one_image", [False, True])
def test_a_network_of_one_size_is_calibrated_and_compared_at_it(*, one_image: bool, tmp_path: Path) -> None:
    keys = {"calibration": {"patches": 3, "size": 12}, "equalize": True, "reconstruction": {"name": "pac", "epochs": 1}}
    recipe, network = networks.recipe(8, "onnxruntime", **keys), OnePlace(one_image=one_image).eval()
    with pytest.raises(SrptqError, match="input-size"):
        quantize(recipe, model=network, out=tmp_path / "run")
    run = quantize(recipe, model=network, out=tmp_path / "run", input_size=(1, 3, 20, 26))
    assert run.summary["verify"]["passed"]
    assert {(size["height"], size["width"]) for size in run.summary["verify"]["sizes"]} == {(20, 26)}
    subject = Subject.of_run(run, patches=3)
    assert subject.patches.shape == (3, 3, 20, 26)
    assert analyze(subject, kinds=("stage",)).quantized.noise < 1


def test_a_size_that_is_no_multiple_is_refused_before_calibrating(tmp_path: Path) -> None:
    network = nn.Sequential(nn.PixelUnshuffle(4), nn.PixelShuffle(4))
    with pytest.raises(SrptqError, match="20 x 26, and Sequential takes multiples of 4; give 20 x 28"):
        quantize(networks.recipe(8, "onnxruntime"), model=network, out=tmp_path / "run", input_size=(1, 3, 20, 26))
