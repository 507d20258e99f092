"""Rules for a float file and its encodings: our own files keep them, and each planted fault is found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import ArgumentError, SrptqError
from srptq_plugin.runs.lint import lint

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
Change = Callable[[dict[str, Any]], None]


@pytest.mark.parametrize("kind", ["edsr", "imdn", "mixed", "rdn", "activations", "safm", "tokens"])
@pytest.mark.parametrize("preset", ["default", "dsp"])
def test_own_files_keep_every_rule(kind: str, preset: str, deploy: Deploy) -> None:
    _, files = deploy(kind, "snpe", preset=preset)
    assert [finding for finding in lint(files[0], "snpe") if finding.severe] == []


def remove(record: dict[str, Any]) -> None:
    record["activation_encodings"] = [e for e in record["activation_encodings"] if not e["name"].startswith("add")]


def rename(record: dict[str, Any]) -> None:
    record["activation_encodings"].append({**record["activation_encodings"][0], "name": "nowhere"})


def narrow(record: dict[str, Any]) -> None:
    record["activation_encodings"][1]["bw"] = 7


def shorten(record: dict[str, Any]) -> None:
    entry = record["param_encodings"][0]
    entry["scale"], entry["offset"] = entry["scale"][:-1], entry["offset"][:-1]


def split(record: dict[str, Any]) -> None:
    entry = next(e for e in record["activation_encodings"] if e["name"].startswith("cat"))
    entry["scale"] = [2 * entry["scale"][0]]


FAULTS: dict[str, tuple[str, Change]] = {
    "QEN001": ("edsr", remove),
    "QEN002": ("edsr", rename),
    "QEN003": ("edsr", narrow),
    "QEN004": ("edsr", shorten),
    "QEN005": ("imdn", split),
}


@pytest.mark.parametrize("rule", FAULTS)
def test_a_planted_fault_is_found(rule: str, deploy: Deploy, tmp_path: Path) -> None:
    kind, change = FAULTS[rule]
    _, (file, encodings) = deploy(kind, "snpe")
    record = json.loads(encodings.read_text())
    change(record)
    (tmp_path / "changed.encodings").write_text(json.dumps(record))
    findings = lint(file, "snpe", encodings=tmp_path / "changed.encodings")
    assert {finding.rule for finding in findings if finding.severe} == {rule[:6]}


def test_a_weight_without_encoding_is_not_severe(deploy: Deploy, tmp_path: Path) -> None:
    _, (file, encodings) = deploy("imdn", "snpe")
    record = json.loads(encodings.read_text())
    name = record["param_encodings"].pop(0)["name"]
    (tmp_path / "changed.encodings").write_text(json.dumps(record))
    (finding,) = lint(file, "snpe", encodings=tmp_path / "changed.encodings")
    assert (finding.rule, finding.node, finding.severe) == ("QEN001", name, False)


def test_tensors_that_are_floats_count_as_encoded(deploy: Deploy, tmp_path: Path) -> None:
    _, (file, encodings) = deploy("edsr", "snpe")
    record = json.loads(encodings.read_text())
    first = record["activation_encodings"][2]
    record["activation_encodings"][2] = {"name": first["name"], "dtype": "FLOAT", "bw": 16, "enc_type": "PER_TENSOR"}
    (tmp_path / "changed.encodings").write_text(json.dumps(record))
    assert [f for f in lint(file, "snpe", encodings=tmp_path / "changed.encodings") if f.severe] == []


def test_what_is_given_fits_the_target(deploy: Deploy, tmp_path: Path) -> None:
    _, (file, encodings) = deploy("edsr", "snpe")
    (tmp_path / "alone.onnx").write_bytes(file.read_bytes())
    with pytest.raises(ArgumentError, match="snpe checks a file and its encodings"):
        lint(tmp_path / "alone.onnx", "snpe")
    with pytest.raises(ArgumentError, match="tensorrt reads no encodings"):
        lint(file, "tensorrt", encodings=encodings)
    (tmp_path / "bad.encodings").write_text("{}")
    with pytest.raises(SrptqError, match="not an encodings file"):
        lint(file, "snpe", encodings=tmp_path / "bad.encodings")
