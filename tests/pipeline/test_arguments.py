"""Arguments and recipes of `quantize`: images, seeds, weights, noise, and a model that is left as it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import networks
from helpers.small_runs import CALIBRATION, require_runtime, small

from srptq_plugin.errors import SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import NETWORK, TABLE

pytest.importorskip("torchao")


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_the_same_seed_gives_the_same_bits(target: str, photographs: Path, tmp_path: Path) -> None:
    """Compare all files but OpenVINO's .xml, whose names are numbered as they are made."""
    require_runtime(target)
    reconstruction = {"name": "pac", "epochs": 2, "schedule": "joint"}

    def run(name: str, seed: int) -> Path:
        torch.manual_seed(len(name))
        recipe = small(target, 4, reconstruction=reconstruction, calibration={**CALIBRATION, "seed": seed})
        out = tmp_path / name
        artifacts = quantize(recipe, model=networks.network("shared"), images=photographs, out=out).artifacts
        names.update(path.name for path in artifacts if path.suffix != ".xml")
        return out

    names = {TABLE, NETWORK, f"model_{target}.onnx"}
    first, again, other = run("first", 0), run("again and again", 0), run("other", 1)
    for name in names:
        assert (first / name).read_bytes() == (again / name).read_bytes(), name
    assert (first / TABLE).read_bytes() != (other / TABLE).read_bytes()
    assert (first / f"model_{target}.onnx").read_bytes() != (other / f"model_{target}.onnx").read_bytes()


def test_photographs_are_shrunk_by_the_scale(photographs: Path, tmp_path: Path) -> None:
    calibration = {**CALIBRATION, "size": 16}
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


def test_the_summary_counts_safe_and_compensated_weights(photographs: Path, tmp_path: Path) -> None:
    weights = {"rounding": "compensated"}
    safe = quantize(
        small("openvino", weights=weights), model=networks.network("edsr"), images=photographs, out=tmp_path / "safe"
    )
    overflow = safe.summary["overflow"]
    channels = sum(len(weight) for weight in safe.table.weights.values())
    assert 0 < overflow["raised"] <= overflow["channels"] == channels
    assert safe.summary["rounding_db"] > 0
    assert "round" in safe.summary["seconds"]
    unsafe = small("openvino", weights={"overflow_safe": False})
    plain = quantize(unsafe, model=networks.network("edsr"), images=photographs, out=tmp_path / "plain")
    assert plain.summary["overflow"] is plain.summary["rounding_db"] is None
    name = next(iter(safe.table.weights))
    assert bool((safe.table.qparams[name].scale >= plain.table.qparams[name].scale).all())


def test_noise_takes_no_photographs(monkeypatch: pytest.MonkeyPatch, photographs: Path, tmp_path: Path) -> None:
    for name in ("sample_images", "load_images"):
        monkeypatch.delattr(f"srptq_plugin.calibration.inputs.{name}")
    recipe = Recipe.load("paper-w4a4-dfq", [f"calibration.{key}={value}" for key, value in CALIBRATION.items()])
    run = quantize(recipe, model=networks.network("edsr"), out=tmp_path / "run")
    assert run.table.biases
    assert run.summary["reconstruction"]["corrected"] == len(run.table.plan.convs)
    assert run.summary["equalized_db"] is not None
    image_arguments: tuple[dict[str, Any], ...] = ({"images": photographs}, {"scale": 2})
    for arguments in image_arguments:
        with pytest.raises(SrptqError, match=r"choose: noise takes no images; leave them out, or choose random"):
            quantize(recipe, **arguments, model=networks.network("edsr"), out=tmp_path / "other")


def test_a_recipe_file_with_overrides(photographs: Path, tmp_path: Path) -> None:
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


def test_the_users_network_is_not_changed(photographs: Path, tmp_path: Path) -> None:
    model = networks.network("normed")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = quantize(small("paper"), model=model, images=photographs, out=tmp_path / "run")
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    image = networks.images(1, 11, 13)
    with torch.no_grad():
        assert np.allclose(run.float()(image.numpy()), model(image).numpy(), atol=1e-5)
