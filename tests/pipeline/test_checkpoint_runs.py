"""Checkpoints that their keys alone identify run in integers as they are simulated."""

from pathlib import Path

import pytest
from helpers.family_checkpoints import CHECKPOINTS
from helpers.reference_networks import save
from helpers.small_runs import require_runtime, small

from srptq_plugin.pipeline import quantize

pytest.importorskip("torchao")

LIGHT = ("SPAN", "PAN", "BSRN", "CARN-M", "ESPCN", "FSRCNN", "EDSR of MLPerf")


@pytest.mark.parametrize("name", LIGHT)
def test_a_checkpoint_alone_runs_in_integers(name: str, photographs: Path, tmp_path: Path) -> None:
    require_runtime("onnxruntime")
    family, weights = CHECKPOINTS[name]
    run = quantize(small("onnxruntime"), model=save(tmp_path, weights()), images=photographs, out=tmp_path / "run")
    report = run.summary["verify"]
    assert report["passed"], report["problems"]
    assert (run.record.name, run.record.channels) == (family, 1 if name in {"ESPCN", "FSRCNN"} else 3)
    assert report["convs_planned"] == report["convs_int8"] == run.summary["convs"] > 0


def test_the_published_mlperf_edsr_runs_in_integers(data: Path, photographs: Path, tmp_path: Path) -> None:
    require_runtime("onnxruntime")
    weights = data / "weights" / "MLPerf_EDSR_f32b5_x2.safetensors"
    run = quantize(small("onnxruntime"), model=weights, images=photographs, out=tmp_path / "run")
    assert (run.record.name, run.record.scale, run.record.input_range) == ("edsr-mlperf", 2, (0.0, 255.0))
    assert run.summary["verify"]["passed"], run.summary["verify"]["problems"]
    assert run.summary["verify"]["convs_int8"] == 13
