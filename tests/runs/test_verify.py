"""Verifying notices a convolution in float, a wrong number in the file, and a missing runtime."""

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import networks
from helpers.command_line import returning
from onnx import numpy_helper

from srptq_adapters.targets.onnxruntime import OnnxRuntimeTarget
from srptq_plugin.data.images import Image
from srptq_plugin.graph.types import Array
from srptq_plugin.pipeline import quantize
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.entries import TargetEntry
from srptq_plugin.plugins.hookspecs import hookimpl
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.runs.run import NETWORK, Run
from srptq_plugin.runs.verify import LEAST_PSNR, SIZES, integer_convs, verify

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")

CALIBRATION = {"patches": 2, "size": 12}
QDQ = "model_onnxruntime.onnx"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """Return a function that quantizes for a target and a number of bits, once each. Tests must not change the run."""
    folders: dict[tuple[str, int], Path] = {}
    root = tmp_path_factory.mktemp("runs")

    def run(target: str, bits: int) -> Path:
        if (target, bits) not in folders:
            recipe = networks.recipe(bits, target, calibration=CALIBRATION)
            out = root / f"{target}-{bits}"
            folders[target, bits] = quantize(recipe, model=networks.network("shared"), out=out).folder
        return folders[target, bits]

    return run


@pytest.fixture
def copied(runs: Callable[[str, int], Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies a run, so that it can be changed."""

    def copy(target: str = "onnxruntime", bits: int = 8) -> Path:
        return shutil.copytree(runs(target, bits), tmp_path / "run")

    return copy


def test_values_that_are_not_finite_fail(copied: Callable[..., Path]) -> None:
    folder = copied()
    model = onnx.load(folder / QDQ)
    output = model.graph.output[0].name
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    model.graph.initializer.append(zero)
    for node in model.graph.node:
        node.output[:] = ["finite" if name == output else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Div", ["finite", "zero"], [output]))
    onnx.save(model, folder / QDQ)
    report = verify(Run.open(folder))
    assert report["not_finite"] > 0
    assert any("are not finite: floats overflow in it" in problem for problem in report["problems"])
    json.dumps(report, allow_nan=False)


def tamper(folder: Path, site: str, factor: float) -> None:
    """Multiply the scale of a site in the file, but not in the quant table."""
    model = onnx.load(folder / QDQ)
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == f"{site}_8bit_scale")
    scale.CopyFrom(numpy_helper.from_array(np.float32(factor) * numpy_helper.to_array(scale), scale.name))
    onnx.save(model, folder / QDQ)


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_a_run_as_written_passes_at_every_size(target: str, copied: Callable[..., Path]) -> None:
    pytest.importorskip(target)
    seen: list[tuple[int, int]] = []
    report = verify(Run.open(copied(target)), progress=lambda _, done, total: seen.append((done, total)))
    assert (report["passed"], report["problems"], report["note"]) == (True, [], "")
    assert report["convs_planned"] == report["convs_int8"] == 6
    photographs, worst = report["sizes"][: len(SIZES)], report["sizes"][len(SIZES) :]
    assert [(size["height"], size["width"]) for size in photographs] == list(SIZES)
    assert [size["image"] for size in worst] == ["white", "checkers", "noise"]
    assert sum(report["kernels"].values()) == 6
    assert report["runtime"].startswith(f"{target} ")
    assert 0 <= report["p99_9_levels"] <= report["max_levels"]
    assert seen == [(done, 7) for done in range(8)]


def test_a_float_file_in_onnxruntime_fails(copied: Callable[..., Path]) -> None:
    folder = copied()
    shutil.copy(folder / NETWORK, folder / QDQ)
    report = verify(Run.open(folder))
    assert not report["passed"]
    assert (report["convs_planned"], report["convs_int8"]) == (6, 0)
    assert "6 of 6 convolutions planned as int8 run in float" in report["problems"]


def test_a_float_file_in_openvino_fails(copied: Callable[..., Path]) -> None:
    openvino = pytest.importorskip("openvino")
    folder = copied("openvino")
    openvino.save_model(openvino.Core().read_model(folder / NETWORK), folder / "model_openvino.xml")
    report = verify(Run.open(folder))
    assert not report["passed"]
    assert "6 of 6 convolutions planned as int8 run in float" in report["problems"]


def test_a_wrong_scale_in_the_file_fails(copied: Callable[..., Path]) -> None:
    folder = copied()
    tamper(folder, "head_conv", 1.3)
    report = verify(Run.open(folder))
    assert report["psnr"] < LEAST_PSNR
    assert not report["passed"]
    assert f"simulation and runtime differ: {report['psnr']:.1f} dB, at 8 bits at least 50 dB" in report["problems"]
    assert report["own_psnr"] is None or report["own_psnr"] > LEAST_PSNR


def test_a_note_says_the_simulation_s_own_spread(copied: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied()
    tamper(folder, "head_conv", 1.3)
    monkeypatch.setattr("srptq_plugin.runs.verify.own_psnr", returning(37.25))
    report = verify(Run.open(folder))
    assert report["own_psnr"] == 37.25
    assert "with other last bits the simulation differs from itself by 37.2 dB" in report["note"]
    assert not report["passed"]


class Stub:
    """ONNX Runtime with fewer integer convolutions and with an error in its output."""

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
    """Return a registry with a target `stub`, which is ONNX Runtime with another runtime."""

    class StubTarget(OnnxRuntimeTarget):
        def load(self, artifact: Path) -> Any:
            return Stub(super().load(artifact), missing, error, saturates)

    class Plugin:
        @hookimpl
        def srptq_targets(self) -> Iterable[TargetEntry]:
            return [TargetEntry("stub", "for tests", StubTarget)]

    return Registry([Plugin()])


def verify_stub(folder: Path, missing: int = 0, error: float = 0.0, *, saturates: bool = False) -> dict[str, Any]:
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("target: onnxruntime", "target: stub"))
    return verify(Run.open(folder, registry(missing, error, saturates=saturates)))


def test_one_convolution_in_float_is_enough_to_fail(copied: Callable[..., Path]) -> None:
    report = verify_stub(copied(), missing=1)
    assert report["runtime"] == "stub 1"
    assert not report["passed"]
    assert report["problems"] == ["1 of 6 convolutions planned as int8 run in float"]


@pytest.fixture(scope="module")
def unsafe_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quantize by a recipe that lets weights overflow without VNNI."""
    recipe = networks.recipe(8, "onnxruntime", calibration=CALIBRATION, weights={"overflow_safe": False})
    out = tmp_path_factory.mktemp("unsafe") / "run"
    return quantize(recipe, model=networks.network("shared"), out=out).folder


def test_unsafe_weights_fail_only_where_kernels_saturate(unsafe_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(unsafe_run, tmp_path / "run")
    report = verify_stub(folder)
    assert (report["passed"], report["lint"], report["saturates"]) == (True, [], False)
    report = verify_stub(folder, saturates=True)
    assert not report["passed"]
    assert [problem.split(" at ")[0] for problem in report["problems"]] == ["VNNI001"]
    assert report["kernels"] == {"stub kernel": 6}


def test_unsafe_weights_fail_a_safe_recipe(unsafe_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(unsafe_run, tmp_path / "run")
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("overflow_safe: false", "overflow_safe: true"))
    assert "VNNI001" in verify_stub(folder)["problems"][0]


@pytest.mark.parametrize(("decibels", "passed"), [(50.5, True), (49.5, False)])
def test_the_least_psnr_is_50_decibels(decibels: float, passed: bool, copied: Callable[..., Path]) -> None:  # noqa: FBT001
    error = 10 ** (-decibels / 20)
    report = verify_stub(copied(), error=error)
    assert report["psnr"] == pytest.approx(decibels, abs=0.1)
    assert report["max_levels"] >= 0.99 * 255 * error
    assert report["passed"] is passed


@pytest.mark.parametrize(("speedup", "slow"), [(0.8, True), (1.0, False), (2.0, False)])
def test_the_reason_for_slowness_is_reported(
    speedup: float, copied: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, *, slow: bool
) -> None:
    monkeypatch.setattr("srptq_plugin.runs.verify._speedup", returning(speedup))
    folder = copied()
    report, floats = verify_stub(folder), len(Run.open(folder).table.plan.floats)
    assert report["slower"].startswith(f"slower than float: {floats} operations stay float") is slow
    assert bool(report["slower"]) is slow


def test_a_difference_below_8_bits_passes(copied: Callable[..., Path]) -> None:
    # A step is so large there that ties alone may cost more than 50 dB.
    report = verify_stub(copied(bits=4), error=0.02)
    assert report["psnr"] < 40
    assert (report["passed"], report["problems"]) == (True, [])
    assert "computed as 8 bits" in report["note"]


def test_a_missing_runtime_passes_with_a_note(copied: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = verify(Run.open(folder))
    assert (report["passed"], report["runtime"], report["problems"]) == (True, None, [])
    assert report["note"] == "onnxruntime is not installed; pip install 'srptq-plugin[onnxruntime]'"
    assert report["psnr"] is report["convs_int8"] is None


def test_quantizing_without_the_runtime_writes_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    recipe = networks.recipe(8, "onnxruntime", calibration=CALIBRATION)
    run = quantize(recipe, model=networks.network("shared"), out=tmp_path / "run")
    assert run.summary["verify"]["runtime"] is None
    assert "not installed" in run.summary["verify"]["note"]
    monkeypatch.undo()
    assert verify(Run.open(tmp_path / "run"))["passed"]


def test_images_smaller_than_the_sizes_are_mirrored(copied: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    tiny = [Image("tiny", rng.integers(0, 256, (40, 38, 3), dtype=np.uint8))]
    report = verify(Run.open(copied()), images=tiny)
    assert [(size["height"], size["width"]) for size in report["sizes"][: len(SIZES)]] == list(SIZES)
    assert report["passed"]


def test_planned_integer_convolutions_follow_the_target(runs: Callable[[str, int], Path]) -> None:
    run = Run.open(runs("onnxruntime", 8))
    rules = run.rules
    assert integer_convs(run.table.plan, rules) == list(run.table.plan.convs)
    narrow = Run.open(runs("onnxruntime", 4))
    assert len(integer_convs(narrow.table.plan, rules)) == 6
    paper = BoundRecipe.of(networks.recipe(8, "paper"), run.registry).rules
    assert integer_convs(run.table.plan, paper) == []
