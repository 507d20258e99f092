"""The example of a third party's target: one file, which its entry point registers."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import networks
from helpers.command_line import raising

from srptq_plugin import Recipe, Registry, SrptqError, quantize
from srptq_plugin.errors import MissingRuntimeError
from srptq_plugin.plugins.registry import PluginInfo
from srptq_plugin.recipes.recipe_files import RecipeLayer

pytest.importorskip("onnxruntime")
EXAMPLE = Path(__file__).parents[2] / "examples" / "third_party_target"


def recipe(**keys: object) -> Recipe:
    calibration = {"patches": 4, "size": 24}
    return Recipe.from_layers([RecipeLayer("test", {"target": "tiny-npu", "calibration": calibration, **keys})])


def test_a_run_for_the_example_passes(tiny_npu: ModuleType, tmp_path: Path) -> None:
    registry = Registry([tiny_npu])
    run = quantize(recipe(), model=networks.network("edsr"), out=tmp_path / "run", registry=registry)
    report = run.summary["verify"]
    assert (report["runtime"], report["passed"]) == ("tiny-npu emulator", True)
    assert run.summary["artifacts"] == ["model_tiny_npu.onnx", "shifts.json"]
    assert run.summary["command"] == "tiny-npu-compile model_tiny_npu.onnx"
    assert not run.summary["versions"].keys() & {"tiny-npu emulator", "openvino", "onnxruntime"}
    shifts = json.loads((run.folder / "shifts.json").read_text())
    scales = {name: qparams.scale.numpy() for name, qparams in run.table.qparams.items()}
    assert all(np.array_equal(np.exp2(shifts[name]), scale) for name, scale in scales.items())


def test_versions_include_its_distribution_and_runtime(
    tiny_npu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry([tiny_npu])
    info = PluginInfo("tiny-npu", "srptq-tiny-npu", "0.3")
    monkeypatch.setattr(registry, "plugins", lambda: (info,))
    monkeypatch.setattr(tiny_npu.Emulator, "name", "npu-runtime 2.5")
    run = quantize(recipe(), model=networks.network("edsr"), out=tmp_path / "run", registry=registry)
    assert run.summary["versions"].items() >= {"srptq-tiny-npu": "0.3", "npu-runtime": "2.5"}.items()


def test_a_missing_runtime_names_its_command(
    tiny_npu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = MissingRuntimeError("npu-runtime", "pip install npu-runtime")
    monkeypatch.setattr(tiny_npu.TinyNpu, "require", raising(missing))
    with pytest.raises(SrptqError, match="npu-runtime is not installed; pip install npu-runtime"):
        quantize(recipe(), out=tmp_path / "run", registry=Registry([tiny_npu]))


def test_its_export_options_are_checked(tiny_npu: ModuleType, tmp_path: Path) -> None:
    registry = Registry([tiny_npu])
    with pytest.raises(SrptqError, match=r"export\.shifts: 'yaml' is not allowed; give 'json' or 'none'"):
        quantize(recipe(export={"shifts": "yaml"}), out=tmp_path / "run", registry=registry)
    with pytest.raises(SrptqError, match=r"export\.shift: unknown key; did you mean 'shifts'"):
        quantize(recipe(export={"shift": "json"}), out=tmp_path / "run", registry=registry)
    assert not (tmp_path / "run").exists()


def test_its_pyproject_names_the_entry_point() -> None:
    text = (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points.srptq]\ntiny-npu = "tiny_npu"' in text
