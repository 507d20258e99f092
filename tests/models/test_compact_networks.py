"""SRVGGNetCompact, IMDN, RFDN and RLFN against their papers' equations, on weights with the published names."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.imdn import IMDN
from srptq_plugin.models.loading import load_model
from srptq_plugin.models.rfdn import RFDN
from srptq_plugin.models.rlfn import RLFN
from srptq_plugin.models.srvgg import SRVGG

IMAGE = torch.rand(2, 3, 26, 31, generator=torch.Generator().manual_seed(0))
State = Mapping[str, Tensor]
NETWORKS = {
    "srvgg": SRVGG(3, features=5, blocks=2),
    "imdn": IMDN(3, features=32, blocks=3),
    "rfdn": RFDN(2, features=6, blocks=3, kept=4, hidden=3),
    "rlfn": RLFN(2, features=6, blocks=3, inner=5, hidden=3),
}


def conv(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    padding = 0 if stride > 1 else weight.shape[-1] // 2
    return functional.conv2d(x, weight, state[f"{name}.bias"], stride, padding)


def act(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.05)


def srvgg(state: State, x: Tensor) -> Tensor:
    deep = conv(state, "body.0", x)
    for number in (1, 3, 5):
        deep = conv(state, f"body.{number + 1}", functional.prelu(deep, state[f"body.{number}.weight"]))
    return functional.pixel_shuffle(deep, 3) + x.repeat_interleave(3, 2).repeat_interleave(3, 3)


def frame(state: State, x: Tensor, blocks: list[str], block: str, upscale: int) -> Tensor:
    """Compute what IMDN and RFDN have in common."""
    shallow = deep = conv(state, "fea_conv", x)
    outputs: list[Tensor] = []
    for name in blocks:
        deep = {"imdn": imdn_block, "rfdn": rfdn_block}[block](state, name, deep)
        outputs.append(deep)
    fused = act(conv(state, "c.0", torch.cat(outputs, 1)))
    return functional.pixel_shuffle(conv(state, "upsampler.0", conv(state, "LR_conv", fused) + shallow), upscale)


def imdn_block(state: State, name: str, x: Tensor) -> Tensor:
    first = act(conv(state, f"{name}.c1", x))
    second = act(conv(state, f"{name}.c2", first[:, 8:]))
    third = act(conv(state, f"{name}.c3", second[:, 8:]))
    joined = torch.cat([first[:, :8], second[:, :8], third[:, :8], conv(state, f"{name}.c4", third[:, 8:])], 1)
    contrast = joined.std((2, 3), correction=0, keepdim=True) + joined.mean((2, 3), keepdim=True)
    hidden = conv(state, f"{name}.cca.conv_du.0", contrast).relu()
    return conv(state, f"{name}.c5", joined * conv(state, f"{name}.cca.conv_du.2", hidden).sigmoid()) + x


def rfdn_block(state: State, name: str, x: Tensor) -> Tensor:
    kept: list[Tensor] = []
    for number in (1, 2, 3):
        kept.append(act(conv(state, f"{name}.c{number}_d", x)))
        x = act(conv(state, f"{name}.c{number}_r", x) + x)
    x = conv(state, f"{name}.c5", torch.cat([*kept, act(conv(state, f"{name}.c4", x))], 1))
    return gated(state, f"{name}.esa", x, ["conv_max", "conv3"], "conv3_")


def gated(state: State, name: str, x: Tensor, layers: list[str], last: str) -> Tensor:
    """Multiply by spatial attention, with ReLUs behind all layers at the small size but the last."""
    reduced = conv(state, f"{name}.conv1", x)
    small = functional.max_pool2d(conv(state, f"{name}.conv2", reduced, 2), 7, 3)
    for layer in layers:
        small = conv(state, f"{name}.{layer}", small).relu()
    wide = functional.interpolate(conv(state, f"{name}.{last}", small), [*x.shape[2:]], mode="bilinear")
    return x * conv(state, f"{name}.conv4", wide + conv(state, f"{name}.conv_f", reduced)).sigmoid()


def rlfn(state: State, x: Tensor) -> Tensor:
    shallow = deep = conv(state, "fea_conv", x)
    for name in ("B1", "B2", "B3"):
        inner = deep
        for layer in ("c1_r", "c2_r", "c3_r"):
            inner = act(conv(state, f"{name}.{layer}", inner))
        deep = gated(state, f"{name}.esa", conv(state, f"{name}.c5", inner + deep), [], "conv3")
    return functional.pixel_shuffle(conv(state, "upsampler.0", conv(state, "LR_conv", deep) + shallow), 2)


def paper(name: str, state: State) -> Tensor:
    if name == "srvgg":
        return srvgg(state, IMAGE)
    if name == "rlfn":
        return rlfn(state, IMAGE)
    if name == "imdn":
        return frame(state, IMAGE, ["IMDB1", "IMDB2", "IMDB3"], name, 3)
    return frame(state, IMAGE, ["B1", "B2", "B3"], name, 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_computes_the_papers_equations(name: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    state = {
        key: torch.randn(value.shape, generator=generator) / max(value[0].numel(), 1) ** 0.5
        for key, value in NETWORKS[name].state_dict().items()
    }
    save_file(state, tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors")
    assert (loaded.record.name, loaded.record.scale) == (name, 2 if name in ("rfdn", "rlfn") else 3)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(IMAGE), paper(name, state), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "white"), [("srvgg", 1.0), ("imdn", 1.0), ("rfdn", 255.0), ("rlfn", 255.0)])
def test_the_usual_range_can_be_changed(name: str, white: float, tmp_path: Path) -> None:
    save_file(NETWORKS[name].state_dict(), tmp_path / "a.safetensors")
    assert load_model(tmp_path / "a.safetensors").record.input_range == (0.0, white)
    assert load_model(tmp_path / "a.safetensors", input_range=(-1.0, 1.0)).record.input_range == (-1.0, 1.0)


def test_layers_between_the_convolutions_are_needed(tmp_path: Path) -> None:
    state = {key: value for key, value in NETWORKS["srvgg"].state_dict().items() if not key.startswith("body.3.")}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(SrptqError, match="srvgg: the weights are no chain of convolutions and PReLUs"):
        load_model("srvgg", tmp_path / "a.safetensors")
