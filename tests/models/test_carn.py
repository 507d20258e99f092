"""CARN and CARN-M against their paper's equations, on weights with the published names."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.reference_networks import State, conv, drawn, image, save
from torch import Tensor
from torch.nn import functional

from srptq_plugin.errors import ArgumentError, SrptqError
from srptq_plugin.models.carn import CARN
from srptq_plugin.models.loading import load_model

MEAN = torch.tensor([0.4488, 0.4371, 0.4040])


def published(upscale: int, *, light: bool = False, white: float = 1.0, up: str = "up") -> State:
    """Return random weights with the published keys."""
    state = drawn(CARN(upscale, 8, groups=4 if light else 1, light=light).state_dict())
    for name, sign in (("sub", -1), ("add", 1)):
        del state[f"{name}_mean.weight"], state[f"{name}_mean.bias"]
        state[f"{name}_mean.shifter.weight"] = torch.eye(3).reshape(3, 3, 1, 1)
        state[f"{name}_mean.shifter.bias"] = sign * white * MEAN
    return {re.sub(r"^upsample\.", f"upsample.{up}.body.", key): value for key, value in state.items()}


def several(*, light: bool) -> State:
    """Return random weights with an upsampler for each of three scales."""
    states = [published(upscale, light=light, up=f"up{upscale}") for upscale in (2, 3, 4)]
    return states[0] | states[1] | states[2]


def cascade(state: State, name: str, x: Tensor, block: Callable[[str, Tensor], Tensor], *, shared: bool) -> Tensor:
    maps = x
    for step in (1, 2, 3):
        maps = torch.cat([maps, block(f"{name}b{1 if shared else step}", x)], 1)
        x = conv(state, f"{name}c{step}.body.0", maps).relu()
    return x


def carn(state: State, x: Tensor, upscale: int, *, light: bool, up: str = "up") -> Tensor:
    def residual(name: str, x: Tensor) -> Tensor:
        deep = conv(state, f"{name}.body.2", conv(state, f"{name}.body.0", x).relu())
        return ((conv(state, f"{name}.body.4", deep.relu()) if light else deep) + x).relu()

    def inner(name: str, x: Tensor) -> Tensor:
        return cascade(state, f"{name}.", x, residual, shared=light)

    x = cascade(state, "", conv(state, "entry", x - MEAN.reshape(3, 1, 1)), inner, shared=False)
    for step, factor in enumerate([2, 2] if upscale == 4 else [upscale]):
        x = functional.pixel_shuffle(conv(state, f"upsample.{up}.body.{3 * step}", x).relu(), factor)
    return conv(state, "exit", x) + MEAN.reshape(3, 1, 1)


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("light", [False, True])
def test_carn_computes_the_papers_equations(upscale: int, tmp_path: Path, *, light: bool) -> None:
    state = published(upscale, light=light)
    loaded = load_model(save(tmp_path, state))
    record = loaded.record
    assert (record.name, record.scale, record.input_range) == ("carn", upscale, (0.0, 1.0))
    assert record.mean == (0.4488, 0.4371, 0.4040)
    expected = carn(state, image(), upscale, light=light)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(image()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_one_of_several_scales_is_chosen(upscale: int, tmp_path: Path) -> None:
    state = several(light=True)
    loaded = load_model(save(tmp_path, state), args={"upscale": upscale})
    assert loaded.record.scale == upscale
    expected = carn(state, image(), upscale, light=True, up=f"up{upscale}")
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(image()), expected, rtol=1e-4, atol=1e-5)


def test_the_largest_of_several_scales_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_model(save(tmp_path, several(light=True))).record.scale == 4
    assert "for scales 2, 3, 4, and 4 is taken; `model_args=upscale=2` takes another" in caplog.text


def test_a_scale_of_no_upsampler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="carn: upscale=8 is none of the scales of the weights: 2, 3, 4"):
        load_model(save(tmp_path, several(light=False)), args={"upscale": 8})


def test_the_features_keep_their_range(tmp_path: Path) -> None:
    unit = load_model(save(tmp_path, published(2)))
    changed = load_model(save(tmp_path, published(2)), input_range=(0.0, 255.0))
    with torch.no_grad():
        torch.testing.assert_close(changed.module(255 * image()) / 255, unit.module(image()), rtol=1e-4, atol=1e-5)
    assert load_model(save(tmp_path, published(2, white=255.0))).record.input_range == (0.0, 255.0)


def test_other_scales_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match="carn: upscale=4 was given, but the weights have 2"):
        load_model(save(tmp_path, published(2)), args={"upscale": 4})


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (r"b2\.c1\..*", r"weights do not fit CARN; 2 missing: b2\.c1\.body\.0\.weight"),
        (r"b1\.b2\..*", "weights do not fit CARN"),
        (r"upsample\..*", "carn: the weights lack an upsampler, upsample.up; give a complete checkpoint"),
    ],
)
def test_truncated_checkpoints_are_refused(lost: str, message: str, tmp_path: Path) -> None:
    state = {key: value for key, value in published(2).items() if re.fullmatch(lost, key) is None}
    with pytest.raises(SrptqError, match=message):
        load_model(save(tmp_path, state))
