"""RRDB: checkpoints of ESRGAN, of its older code and of Real-ESRGAN, and refusals of others."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import BLOCKS, FEATURES, GROWTH, LAYOUTS, State
from helpers.checkpoints import esrgan_state as published
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.loading import load_model
from srptq_plugin.models.model_record import LoadedModel
from srptq_plugin.models.rrdb import RRDB

IMAGE = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(0))


def conv(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)


def dense(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    features = [x]
    for n in range(1, 5):
        features.append(functional.leaky_relu(conv(state, f"{name}.conv{n}", torch.cat(features, 1)), 0.2))
    return x + 0.2 * conv(state, f"{name}.conv5", torch.cat(features, 1))


def paper(state: Mapping[str, Tensor], image: Tensor) -> Tensor:
    """Compute the network of the paper's figures 3 and 4, which upscales by 4."""
    shallow = conv(state, "conv_first", image)
    deep = shallow
    for block in range(BLOCKS):
        inner = deep
        for n in (1, 2, 3):
            inner = dense(state, f"body.{block}.rdb{n}", inner)
        deep = deep + 0.2 * inner
    x = shallow + conv(state, "conv_body", deep)
    for name in ("conv_up1", "conv_up2"):
        x = functional.leaky_relu(conv(state, name, x.repeat_interleave(2, 2).repeat_interleave(2, 3)), 0.2)
    return conv(state, "conv_last", functional.leaky_relu(conv(state, "conv_hr", x), 0.2))


def load(folder: Path, state: State, **arguments: int) -> LoadedModel:
    save_file(state, folder / "a.safetensors")
    return load_model("rrdb", folder / "a.safetensors", arguments)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoints_of_every_layout_follow_the_paper(layout: str, tmp_path: Path) -> None:
    state = published()
    renamed = {LAYOUTS[layout](key): value for key, value in state.items()}
    model = load(tmp_path, renamed, upscale=4, features=FEATURES, growth=GROWTH, blocks=BLOCKS)
    assert (model.record.scale, model.record.input_range, model.record.mean) == (4, (0.0, 1.0), None)
    assert model.record.parameters == sum(tensor.numel() for tensor in state.values())
    with torch.no_grad():
        torch.testing.assert_close(model.module(IMAGE), paper(state, IMAGE))


@pytest.mark.parametrize(("height", "width"), [(8, 12), (9, 12), (8, 11), (9, 11)])
def test_x2_unshuffles_pixels_first(height: int, width: int, tmp_path: Path) -> None:
    """Compare with the paper's network, where the last line of an odd side is repeated and cut off again."""
    state = published(channels=12)
    model = load(tmp_path, state)
    image = IMAGE[..., :height, :width]
    even = torch.cat([image, image[..., -1:, :]], 2) if height % 2 else image
    even = torch.cat([even, even[..., -1:]], 3) if width % 2 else even
    with torch.no_grad():
        expected = paper(state, functional.pixel_unshuffle(even, 2))[..., : 2 * height, : 2 * width]
        torch.testing.assert_close(model.module(image), expected)
    assert model.record.scale == 2


def test_the_input_range_can_be_chosen(tmp_path: Path) -> None:
    save_file(published(), tmp_path / "a.safetensors")
    assert load_model("rrdb", tmp_path / "a.safetensors", input_range=(0.0, 255.0)).record.input_range == (0.0, 255.0)


def test_the_default_is_the_published_configuration() -> None:
    """Compare the number of parameters with the 16.7 million in papers that compare with ESRGAN."""
    with torch.device("meta"):
        module = RRDB()
    assert sum(parameter.numel() for parameter in module.parameters()) == 16_697_987


def changed(**shapes: tuple[int, ...]) -> State:
    """Return the weights with some tensors of another shape."""
    return published() | {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


def without(name: str) -> State:
    return {key: value for key, value in published().items() if not key.startswith(name)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed(body__1__rdb2__conv5__weight=(6, 20, 3, 3)), r"conv5\.weight is \[6, 20, 3, 3\], should be \[6, 22"),
        (changed(conv_hr__weight=(8, 6, 3, 3)), r"conv_hr\.weight is \[8, 6, 3, 3\], should be \[6, 6, 3, 3\]"),
        (changed(conv_first__weight=(6, 48, 3, 3)), "rrdb: upscale=1; give 2 or 4"),
        (changed(conv_first__weight=(6, 4, 3, 3)), "rrdb: conv_first reads 4 channels; .* 3, or 12 for x2"),
        (changed(body__0__rdb1__conv1x1__weight=(4, 6, 1, 1)), r"1 unexpected: body\.0\.rdb1\.conv1x1\.weight"),
        (without("conv_up2"), r"the weights lack conv_up2\.weight"),
        ({"model.0.weight": torch.zeros(6, 3, 3, 3)}, r"the weights lack body\.0\.rdb1\..*, conv_up1"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)  # fmt: skip
def test_weights_that_do_not_fit_are_named(state: State, message: str, tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match=message):
        load(tmp_path, state)


def test_arguments_against_the_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match="rrdb: blocks=23 was given, but the weights have 2"):
        load(tmp_path, published(), blocks=23)
