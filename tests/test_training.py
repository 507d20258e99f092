"""The script that trains the reference networks: it resumes to the bit, and its weights load."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers.photographs import pixels, save
from safetensors.torch import load_file

from srptq_plugin.models.loading import load_model

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "edsr_mini" / "train.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the script with a job of six steps."""
    spec = importlib.util.spec_from_file_location("training_script", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "training_script", module)
    spec.loader.exec_module(module)
    tiny = module.Job(scale=2, features=4, blocks=1, steps=6, rate=1e-3, patch=8, batch=2)
    monkeypatch.setattr(module, "JOBS", {"tiny": tiny})
    monkeypatch.setattr(module, "EVERY", 2)
    monkeypatch.setattr(module, "HELD_OUT", 1)
    return module


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(4):
        save(pixels(36, 44, number), tmp_path / "photographs" / f"{number}.png")
    return tmp_path / "photographs"


def train(script: ModuleType, images: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Path:
    arguments = ["train.py", "tiny", "--images", str(images), "--out", str(out), "--threads", "1", *more]
    monkeypatch.setattr(sys, "argv", arguments)
    script.main()
    return out / "tiny.safetensors"


def test_an_interrupted_training_resumes_to_the_bit(
    script: ModuleType, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_file(train(script, images, tmp_path / "whole", monkeypatch))
    records = script.train

    def interrupted(*arguments: object) -> Iterator[dict[str, float]]:
        yield next(records(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(script, images, tmp_path / "parts", monkeypatch)
    assert not (tmp_path / "parts" / "tiny.safetensors").exists()
    monkeypatch.setattr(script, "train", records)
    parts = load_file(train(script, images, tmp_path / "parts", monkeypatch))
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    log = [json.loads(line) for line in (tmp_path / "parts" / "tiny.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [2, 4, 6]


def test_the_weights_are_float16_trained_and_load(
    script: ModuleType, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = train(script, images, tmp_path / "out", monkeypatch)
    assert {value.dtype for value in load_file(written).values()} == {torch.float16}
    loaded = load_model("edsr", written)
    assert (loaded.record.scale, loaded.record.input_range) == (2, (0.0, 255.0))
    start, end = script.JOBS["tiny"].network().state_dict(), loaded.module.state_dict()
    assert not torch.equal(end["head.0.weight"], start["head.0.weight"].half().float())


def test_training_starts_from_another_network_s_body(
    script: ModuleType, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(script, images, tmp_path / "first", monkeypatch)
    other = script.Training(script.Job(scale=4, features=4, blocks=1, steps=1, rate=0.0), first, "cpu", bf16=False)
    state, start = other.network.state_dict(), load_file(first)
    assert torch.equal(state["head.0.weight"], start["head.0.weight"].float())
    assert state["tail.0.0.weight"].shape == start["tail.0.0.weight"].shape
    assert {"tail.0.2.weight"} <= state.keys() - start.keys()
