"""PAN against its paper's equations, on weights with the published names."""

from pathlib import Path

import pytest
import torch
from helpers.reference_networks import State, conv, drawn, image, save
from torch import Tensor
from torch.nn import functional

from srptq_plugin.errors import ArgumentError, SrptqError
from srptq_plugin.models.loading import load_model
from srptq_plugin.models.pan import PAN


def act(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


def pan(state: State, x: Tensor, upscale: int) -> Tensor:
    shallow = deep = conv(state, "conv_first", x)
    for name in ("SCPA_trunk.0", "SCPA_trunk.1"):
        plain = act(conv(state, f"{name}.k1.0", act(conv(state, f"{name}.conv1_a", deep))))
        right = act(conv(state, f"{name}.conv1_b", deep))
        gated = conv(state, f"{name}.PAConv.k3", right) * conv(state, f"{name}.PAConv.k2", right).sigmoid()
        right = act(conv(state, f"{name}.PAConv.k4", gated))
        deep = conv(state, f"{name}.conv3", torch.cat([plain, right], 1)) + deep
    deep = shallow + conv(state, "trunk_conv", deep)
    for step, factor in enumerate([2, 2] if upscale == 4 else [upscale], start=1):
        deep = conv(state, f"upconv{step}", deep.repeat_interleave(factor, 2).repeat_interleave(factor, 3))
        deep = act(deep * conv(state, f"att{step}.conv", deep).sigmoid())
        deep = act(conv(state, f"HRconv{step}", deep))
    return conv(state, "conv_last", deep) + functional.interpolate(x, scale_factor=upscale, mode="bilinear")


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_pan_computes_the_papers_equations(upscale: int, tmp_path: Path) -> None:
    state = drawn(PAN(upscale, features=6, blocks=2, inner=5, enlarged=4).state_dict())
    loaded = load_model(save(tmp_path, state), args=None if upscale == 4 else {"upscale": upscale})
    assert (loaded.record.name, loaded.record.scale, loaded.record.input_range) == ("pan", upscale, (0.0, 1.0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(image()), pan(state, image(), upscale), rtol=1e-4, atol=1e-5)


def test_the_caller_tells_two_from_three(tmp_path: Path) -> None:
    weights = save(tmp_path, PAN(3, features=4, blocks=1, inner=2, enlarged=2).state_dict())
    with pytest.raises(
        ArgumentError, match="pan: networks for x2 and x3 have the same weights; give the scale"
    ) as error:
        load_model(weights)
    assert "`model_args=upscale=2` or `model_args=upscale=3`" in str(error.value)


def test_wrong_scales_are_refused(tmp_path: Path) -> None:
    weights = save(tmp_path, PAN(4, features=4, blocks=1, inner=2, enlarged=2).state_dict())
    with pytest.raises(SrptqError, match="pan: upscale=2 was given, but the weights have 4"):
        load_model(weights, args={"upscale": 2})
    weights = save(tmp_path, PAN(2, features=4, blocks=1, inner=2, enlarged=2).state_dict())
    with pytest.raises(SrptqError, match="weights do not fit PAN; 6 missing: upconv2"):
        load_model(weights, args={"upscale": 4})
    with pytest.raises(SrptqError, match="pan: upscale=8; give 2, 3 or 4"):
        load_model(weights, args={"upscale": 8})


@pytest.mark.parametrize("lost", ["SCPA_trunk.0.PAConv.k2.bias", "HRconv2.weight", "conv_last.bias"])
def test_truncated_checkpoints_are_refused(lost: str, tmp_path: Path) -> None:
    state = PAN(4, features=4, blocks=1, inner=2, enlarged=2).state_dict()
    del state[lost]
    with pytest.raises(SrptqError, match=f"weights do not fit PAN; 1 missing: {lost}"):
        load_model(save(tmp_path, state))
