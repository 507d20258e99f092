"""Networks from ONNX files through the whole pipeline, compared with the modules that they were exported from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import networks
from helpers.exporters import export
from helpers.toy_modules import NETWORKS, OTHERS

from srptq_plugin.pipeline import quantize
from srptq_plugin.runs.run import Run

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")

IMAGE = networks.images(1, 18, 22).numpy()


def recipe() -> Any:
    return networks.recipe(8, "onnxruntime", calibration={"patches": 4, "size": 24}, equalize=True)


@pytest.mark.parametrize("kind", ["edsr", "imdn", "esa"])
def test_a_file_becomes_the_integers_of_its_module(kind: str, tmp_path: Path) -> None:
    module = {**NETWORKS, **OTHERS}[kind]().eval()
    file = export(module, tmp_path / "net.onnx", "legacy")
    of_module = quantize(recipe(), model=module, out=tmp_path / "module", device="cpu")
    of_file = quantize(recipe(), model=file, out=tmp_path / "file", device="cpu")
    assert of_file.summary["verify"]["passed"]
    assert of_file.table.weights.keys() == of_module.table.weights.keys()
    np.testing.assert_array_equal(of_file.simulation()(IMAGE), of_module.simulation()(IMAGE))


def test_a_file_of_one_size_is_quantized(tmp_path: Path) -> None:
    file = export(OTHERS["esa"]().eval(), tmp_path / "net.onnx", "fixed", (28, 36))
    run = quantize(recipe(), model=file, out=tmp_path / "run", device="cpu")
    assert run.summary["verify"]["passed"]
    assert run.size == (28, 36)


def test_the_file_of_a_run_is_quantized(tmp_path: Path) -> None:
    first = quantize(recipe(), model=NETWORKS["edsr"]().eval(), out=tmp_path / "first", device="cpu")
    again = quantize(recipe(), model=first.folder / "model.onnx", out=tmp_path / "again", device="cpu")
    assert again.record.input_range == first.record.input_range
    np.testing.assert_allclose(again.float()(IMAGE), first.float()(IMAGE), atol=1e-5)
    assert Run.open(again.folder).summary["verify"]["passed"]
