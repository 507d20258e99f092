"""RDN: checkpoints of EDSR-PyTorch, and refusals of others."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.loading import load_model
from srptq_plugin.models.model_record import LoadedModel
from srptq_plugin.models.rdn import RDN

FEATURES, GROWTH, BLOCKS, LAYERS = 6, 4, 3, 2
IMAGE = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(0))
State = dict[str, Tensor]


def shapes(upscale: int) -> dict[str, tuple[int, int, int]]:
    """Return the outputs, inputs and kernel size of each convolution by its name in EDSR-PyTorch."""
    sizes = {"SFENet1": (FEATURES, 3, 3), "SFENet2": (FEATURES, FEATURES, 3)}
    for block in range(BLOCKS):
        for layer in range(LAYERS):
            sizes[f"RDBs.{block}.convs.{layer}.conv.0"] = (GROWTH, FEATURES + layer * GROWTH, 3)
        sizes[f"RDBs.{block}.LFF"] = (FEATURES, FEATURES + LAYERS * GROWTH, 1)
    sizes |= {"GFF.0": (FEATURES, BLOCKS * FEATURES, 1), "GFF.1": (FEATURES, FEATURES, 3)}
    if upscale == 4:
        return sizes | {
            "UPNet.0": (4 * GROWTH, FEATURES, 3),
            "UPNet.2": (4 * GROWTH, GROWTH, 3),
            "UPNet.4": (3, GROWTH, 3),
        }
    return sizes | {"UPNet.0": (upscale**2 * GROWTH, FEATURES, 3), "UPNet.2": (3, GROWTH, 3)}


def published(upscale: int = 2) -> State:
    """Draw random weights with the names of EDSR-PyTorch."""
    generator = torch.Generator().manual_seed(upscale)
    state: State = {}
    for name, (outputs, inputs, size) in shapes(upscale).items():
        state[f"{name}.weight"] = torch.randn(outputs, inputs, size, size, generator=generator) / (size * inputs**0.5)
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator) / 10
    return state


def conv(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return functional.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def paper(state: Mapping[str, Tensor], image: Tensor, upscale: int) -> Tensor:
    """Compute the paper's equations 1 to 9."""
    shallow = conv(state, "SFENet1", image)
    block, blocks = conv(state, "SFENet2", shallow), list[Tensor]()
    for d in range(BLOCKS):
        dense = [block]
        for c in range(LAYERS):
            dense.append(conv(state, f"RDBs.{d}.convs.{c}.conv.0", torch.cat(dense, 1)).relu())
        block = block + conv(state, f"RDBs.{d}.LFF", torch.cat(dense, 1))
        blocks.append(block)
    x = shallow + conv(state, "GFF.1", conv(state, "GFF.0", torch.cat(blocks, 1)))
    factors = [2, 2] if upscale == 4 else [upscale]
    for n, factor in enumerate(factors):
        x = functional.pixel_shuffle(conv(state, f"UPNet.{2 * n}", x), factor)
    return conv(state, f"UPNet.{2 * len(factors)}", x)


def load(folder: Path, state: State, **arguments: int) -> LoadedModel:
    save_file(state, folder / "a.safetensors")
    return load_model("rdn", folder / "a.safetensors", arguments)


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_checkpoints_of_edsr_pytorch_follow_the_paper(upscale: int, tmp_path: Path) -> None:
    state = published(upscale)
    sizes = {"upscale": upscale, "features": FEATURES, "growth": GROWTH, "blocks": BLOCKS, "layers": LAYERS}
    model = load(tmp_path, state, **sizes)
    assert (model.record.scale, model.record.input_range, model.record.mean) == (upscale, (0.0, 1.0), None)
    assert model.record.parameters == sum(tensor.numel() for tensor in state.values())
    with torch.no_grad():
        torch.testing.assert_close(model.module(IMAGE), paper(state, IMAGE, upscale))


def test_the_input_range_can_be_chosen(tmp_path: Path) -> None:
    save_file(published(), tmp_path / "a.safetensors")
    assert load_model("rdn", tmp_path / "a.safetensors", input_range=(0.0, 255.0)).record.input_range == (0.0, 255.0)


@pytest.mark.parametrize(("upscale", "thousands"), [(2, 22123), (3, 22308), (4, 22271)])
def test_the_default_is_the_paper_s_configuration(upscale: int, thousands: int) -> None:
    """Compare the number of parameters with the tables of papers that compare with RDN."""
    with torch.device("meta"):
        module = RDN(upscale)
    assert sum(parameter.numel() for parameter in module.parameters()) // 1000 == thousands


def changed(**shapes: tuple[int, ...]) -> State:
    """Return the weights with some tensors of another shape."""
    return published() | {name.replace("_", "."): torch.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed(RDBs_1_LFF_weight=(6, 13, 1, 1)), r"RDBs\.1\.LFF\.weight is \[6, 13, 1, 1\], should be \[6, 14"),
        (changed(GFF_0_weight=(6, 12, 1, 1)), r"GFF\.0\.weight is \[6, 12, 1, 1\], should be \[6, 18, 1, 1\]"),
        (changed(UPNet_0_weight=(100, 6, 3, 3)), "rdn: upscale=5; give 2, 3 or 4"),
        (changed(RDBs_2_convs_2_conv_0_weight=(4, 14, 3, 3)), r"1 unexpected: RDBs\.2\.convs\.2\.conv\.0\.weight"),
        (changed(sub_mean_bias=(3,)), r"1 unexpected: sub\.mean\.bias"),
        ({"sfe1.weight": torch.zeros(6, 3, 3, 3)}, r"the weights lack RDBs\.0\..*, SFENet1\.weight, UPNet"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)  # fmt: skip
def test_weights_that_do_not_fit_are_named(state: State, message: str, tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match=message):
        load(tmp_path, state)


def test_arguments_against_the_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match="rdn: layers=8 was given, but the weights have 2"):
        load(tmp_path, published(), layers=8)
