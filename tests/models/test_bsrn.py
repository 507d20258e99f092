"""BSRN and BSRN-S against their paper's equations, on weights with the published names."""

import re
from pathlib import Path

import pytest
import torch
from helpers.reference_networks import State, conv, drawn, image, save
from torch import Tensor
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.bsrn import BSRN
from srptq_plugin.models.loading import load_model

NAMES = ((r"^c\.0\.", "c1."), (r"^LR_conv\.", "c2."), (r"^upsampler\.", "upsampler.upsampleOneStep."))
"""Our keys, and the published ones in their place."""


def published(*, small: bool) -> State:
    """Return random weights with the published keys: of convolutions, or of linear layers and factors."""
    state = drawn(BSRN(2, features=16, blocks=2, hidden=4, small=small).state_dict())
    for pattern, name in NAMES:
        state = {re.sub(pattern, name, key): value for key, value in state.items()}
    state["fea_conv.pw.weight"] = drawn({"": torch.empty(16, 12, 1, 1)})[""]
    if small:
        state = {key: value.squeeze((2, 3)) if value.shape[2:] == (1, 1) else value for key, value in state.items()}
        state |= {f"B{number}.cw": 1 + drawn({"": torch.empty(1, 16)}, number)[""] for number in (1, 2)}
    return state


def layer(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Compute a linear layer, a convolution, or a 1 x 1 convolution and one of each channel."""
    if f"{name}.pw.weight" in state:
        return conv(state, f"{name}.dw", layer(state, f"{name}.pw", x), stride)
    if state[f"{name}.weight"].ndim == 2:
        return functional.linear(x.movedim(1, -1), state[f"{name}.weight"], state[f"{name}.bias"]).movedim(-1, 1)
    return conv(state, name, x, stride)


def attend(state: State, name: str, x: Tensor) -> Tensor:
    reduced = layer(state, f"{name}.conv1", x)
    small = functional.max_pool2d(layer(state, f"{name}.conv2", reduced, 2), 7, 3)
    for step in ("conv_max", "conv3"):
        small = functional.gelu(layer(state, f"{name}.{step}", small))
    wide = functional.interpolate(layer(state, f"{name}.conv3_", small), [*x.shape[2:]], mode="bilinear")
    return x * layer(state, f"{name}.conv4", wide + layer(state, f"{name}.conv_f", reduced)).sigmoid()


def block(state: State, name: str, x: Tensor) -> Tensor:
    kept: list[Tensor] = []
    deep = x
    for step in (1, 2, 3):
        kept.append(functional.gelu(layer(state, f"{name}.c{step}_d", deep)))
        deep = functional.gelu(layer(state, f"{name}.c{step}_r", deep) + deep)
    kept.append(functional.gelu(layer(state, f"{name}.c4", deep)))
    fused = attend(state, f"{name}.esa", layer(state, f"{name}.c5", torch.cat(kept, 1)))
    if f"{name}.cw" in state:
        return x + layer(state, f"{name}.conv_out", fused * state[f"{name}.cw"].reshape(1, -1, 1, 1))
    contrast = fused.std((2, 3), correction=0, keepdim=True) + fused.mean((2, 3), keepdim=True)
    hidden = layer(state, f"{name}.cca.conv_du.0", contrast).relu()
    return x + fused * layer(state, f"{name}.cca.conv_du.2", hidden).sigmoid()


def bsrn(state: State, x: Tensor) -> Tensor:
    shallow = layer(state, "fea_conv", torch.cat([x, x, x, x], 1))
    first = block(state, "B1", shallow)
    fused = functional.gelu(layer(state, "c1", torch.cat([first, block(state, "B2", first)], 1)))
    deep = layer(state, "c2", fused) + shallow
    return functional.pixel_shuffle(layer(state, "upsampler.upsampleOneStep.0", deep), 2)


@pytest.mark.parametrize("small", [False, True])
def test_bsrn_computes_the_papers_equations(tmp_path: Path, *, small: bool) -> None:
    state = published(small=small)
    loaded = load_model(save(tmp_path, state))
    record = loaded.record
    assert (record.name, record.scale, record.input_range) == ("bsrn", 2, (0.0, 1.0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(image()), bsrn(state, image()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lost", ["B2.cca.conv_du.0.bias", "B1.esa.conv2.dw.weight", "c2.dw.bias"])
def test_truncated_checkpoints_are_refused(lost: str, tmp_path: Path) -> None:
    state = published(small=False)
    del state[lost]
    with pytest.raises(SrptqError, match="weights do not fit BSRN; 1 missing"):
        load_model(save(tmp_path, state))


def test_missing_layers_are_named(tmp_path: Path) -> None:
    state = published(small=True)
    del state["fea_conv.pw.weight"]
    with pytest.raises(SrptqError, match=r"bsrn: the weights lack fea_conv\.pw\.weight; give a checkpoint of xiaom233"):
        load_model("bsrn", save(tmp_path, state))


def test_sizes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match="bsrn: blocks=8 was given, but the weights have 2"):
        load_model(save(tmp_path, published(small=False)), args={"blocks": 8})
