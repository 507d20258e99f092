"""SPAN against its paper's equations, with the branches of training, folded, with a mean shift and without."""

from pathlib import Path

import pytest
import torch
from helpers.reference_networks import State, conv, drawn, image, save
from torch import Tensor
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.loading import load_model
from srptq_plugin.models.span import BRANCHES, SPAN

MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).reshape(3, 1, 1)
BLOCKS = ("block_1", "block_2", "block_3")
LAYERS = ("conv_1", *(f"{block}.c{number}_r" for block in BLOCKS for number in (1, 2, 3)), "conv_2")
"""The layers that have branches in training."""


def trained(upscale: int = 2) -> State:
    """Return the weights of a SPAN as training saves them, with stale folded convolutions."""
    plain = SPAN(upscale, features=6, blocks=3, normalized=False).state_dict()
    shapes = {key: value for key, value in plain.items() if key.rpartition(".")[0] not in LAYERS}
    for layer in LAYERS:
        outputs, inputs = plain[f"{layer}.weight"].shape[:2]
        sides = {"sk": (outputs, inputs, 1), "conv.0": (2 * inputs, inputs, 1), "eval_conv": (outputs, inputs, 3)}
        sides |= {"conv.1": (2 * outputs, 2 * inputs, 3), "conv.2": (outputs, 2 * outputs, 1)}
        for name, (wide, narrow, side) in sides.items():
            shapes[f"{layer}.{name}.weight"] = torch.empty(wide, narrow, side, side)
            shapes[f"{layer}.{name}.bias"] = torch.empty(wide)
    state = drawn(shapes)
    # Levels of 0 to 255 would make random maps so large that rounding errors show.
    return {
        key: value / 255 if key.startswith(("conv_1.sk", "conv_1.conv.2")) else value for key, value in state.items()
    }


def branches(state: State, layer: str, x: Tensor) -> Tensor:
    """Compute the branches of a layer in training, one after the other."""
    deep = conv(state, f"{layer}.conv.0", functional.pad(x, (1, 1, 1, 1)))
    deep = functional.conv2d(deep, state[f"{layer}.conv.1.weight"], state[f"{layer}.conv.1.bias"])
    return conv(state, f"{layer}.conv.2", deep) + conv(state, f"{layer}.sk", x)


def span(state: State, x: Tensor, upscale: int = 2) -> Tensor:
    """Compute the paper's equations on shifted images."""
    shallow = deep = branches(state, "conv_1", x)
    maps: list[Tensor] = []
    for block in BLOCKS:
        first = functional.silu(branches(state, f"{block}.c1_r", deep))
        residual = branches(state, f"{block}.c3_r", functional.silu(branches(state, f"{block}.c2_r", first)))
        deep = (residual + deep) * (residual.sigmoid() - 0.5)
        maps += [deep, first]
    fused = conv(state, "conv_cat", torch.cat([shallow, branches(state, "conv_2", deep), maps[0], maps[-1]], 1))
    return functional.pixel_shuffle(conv(state, "upsampler.0", fused), upscale)


def test_folded_branches_compute_the_papers_equations(tmp_path: Path) -> None:
    state = trained()
    loaded = load_model(save(tmp_path, state))
    record = loaded.record
    assert (record.name, record.scale, record.input_range) == ("span", 2, (0.0, 1.0))
    assert record.mean == (0.4488, 0.4371, 0.4040)
    expected = span({key: value.double() for key, value in state.items()}, 255 * (image().double() - MEAN))
    assert not any(name in key for key in loaded.module.state_dict() for name in ("sk", "eval_conv"))
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(image()).double(), expected, rtol=1e-4, atol=1e-3)


def test_networks_without_a_mean_shift_are_marked(tmp_path: Path) -> None:
    state = trained(upscale=3)
    weights = save(tmp_path, {**state, "no_norm": torch.zeros(1)})
    loaded = load_model(weights)
    assert (loaded.record.scale, loaded.record.mean) == (3, None)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(image()), span(state, image(), 3), rtol=1e-4, atol=1e-5)
    assert load_model(weights, input_range=(0.0, 255.0)).record.input_range == (0.0, 255.0)


@pytest.mark.parametrize("folded", ["eval_conv.", ""])
def test_folded_checkpoints_are_read(folded: str, tmp_path: Path) -> None:
    plain = drawn(SPAN(2, features=6, blocks=3, normalized=False).state_dict())
    expected = SPAN(2, features=6, blocks=3, normalized=False)
    expected.load_state_dict(plain)
    split = {key: key.rpartition(".") for key in plain}
    keys = {key: f"{layer}.{folded}{kind}" if layer in LAYERS else key for key, (layer, _, kind) in split.items()}
    loaded = load_model(save(tmp_path, {keys[key]: value for key, value in plain.items()}))
    assert loaded.record.mean is not None
    with torch.no_grad():
        shifted = 255 * (image() - MEAN)
        torch.testing.assert_close(loaded.module(image()), expected(shifted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("branch", BRANCHES)
def test_missing_branches_are_named(branch: str, tmp_path: Path) -> None:
    state = trained()
    del state[f"block_2.c1_r.{branch}"]
    with pytest.raises(
        SrptqError, match=rf"span: the weights lack block_2\.c1_r\.{branch}; give a complete checkpoint"
    ):
        load_model(save(tmp_path, state))


def test_missing_layers_are_named(tmp_path: Path) -> None:
    state = {key: value for key, value in trained().items() if not key.startswith("block_2.c3_r.")}
    with pytest.raises(SrptqError, match=r"weights do not fit SPAN; 2 missing: block_2\.c3_r\.weight"):
        load_model(save(tmp_path, state))
    state = {key: value for key, value in trained().items() if not key.startswith("conv_cat.")}
    with pytest.raises(SrptqError, match=r"span: the weights lack conv_cat\.weight; give a checkpoint of hongyuanyu"):
        load_model("span", save(tmp_path, state))


def test_the_mean_shift_has_one_range(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match=r"span: input range \(0\.0, 255\.0\); its mean shift is for images of 0 to 1"):
        load_model(save(tmp_path, trained()), input_range=(0.0, 255.0))
