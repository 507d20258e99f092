"""DDTB's options, and recipes that refuse it."""

import re
from pathlib import Path
from typing import Any

import pytest
from helpers.gated import BATCHES, IMAGES, gates, prepared_by, recipe

from srptq_plugin.errors import SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.qat.ddtb import DdtbFakeQuantize
from srptq_plugin.qat.training import Training
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.schema import TrainingSettings


def optioned(options: dict[str, Any]) -> Recipe:
    return recipe(activations={"quantizer": "ddtb", "observer": "dbdc", "quantizer_options": options})


@pytest.mark.parametrize("toolkit", ["torchao", "mqbench"])
@pytest.mark.parametrize("gated", [0, 0.1, 0.5, 1.0])
def test_gated_is_the_share_with_gates(gated: float, toolkit: str) -> None:
    pytest.importorskip(toolkit)
    prepared = prepared_by(toolkit, chosen=optioned({"gated": gated}))
    members = [member for member in prepared.quantizers.values() if isinstance(member, DdtbFakeQuantize)]
    prepared.on_train_begin(IMAGES)
    assert len(gates(prepared)) == (max(1, round(gated * len(members))) if gated else 0)
    assert {member.options.bypassed for member in members} == {0.1}


@pytest.mark.parametrize(("bypassed", "steps"), [(0.0, 0), (0.5, 10), (0.85, 17)])
def test_bypassed_is_the_share_without_acting(bypassed: float, steps: int) -> None:
    prepared = prepared_by("torchao", chosen=optioned({"bypassed": bypassed}))
    prepared.on_train_begin(IMAGES)
    (gate, *_) = gates(prepared).values()
    training = Training(prepared, TrainingSettings(steps=20), peak=1.0)
    with training.learning:
        training.learning.take_turns(("weight", "activation"))
        for step in range(steps):
            training.step(BATCHES(step))
        assert not gate.acts
        training.step(BATCHES(steps))
    assert gate.acts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gaetd": 0.1}, "gaetd: unknown key; did you mean 'gated'? keys: bypassed, gated"),
        ({"gated": 1.5}, "gated: 1.5 is not allowed; give a number from 0 to 1"),
        ({"bypassed": "all"}, "bypassed: 'all' is not allowed; give a number from 0 to 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match=re.escape(f"activations.quantizer_options.{message}")):
        quantize(optioned(options), images=tmp_path / "nowhere", out=tmp_path / "run")


def test_quantizers_without_options_say_so(tmp_path: Path) -> None:
    chosen = recipe(activations={"quantizer_options": {"gated": 0.1}})
    with pytest.raises(SrptqError, match=r"quantizer_options\.gated: unknown key; there are none here"):
        quantize(chosen, images=tmp_path / "nowhere", out=tmp_path / "run")


@pytest.mark.parametrize("target", ["openvino", "onnxruntime", "tensorrt", "snpe", "ncnn", "executorch"])
def test_integer_targets_refuse_it(target: str, tmp_path: Path) -> None:
    chosen = Recipe.model_validate({"target": target, "activations": {"quantizer": "ddtb"}})
    with pytest.raises(SrptqError, match=r"activations\.quantizer: ddtb computes its levels .*; set it to bounded"):
        quantize(chosen, images=tmp_path / "nowhere", out=tmp_path / "run")


def test_weights_are_refused(tmp_path: Path) -> None:
    chosen = Recipe.model_validate({"target": "paper", "weights": {"quantizer": "ddtb"}})
    with pytest.raises(
        SrptqError, match=r"weights\.quantizer: ddtb: its bounds go by the image, .*; set it to bounded"
    ):
        quantize(chosen, images=tmp_path / "nowhere", out=tmp_path / "run")
