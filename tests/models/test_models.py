from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkpoints import basicsr_state
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import srptq_adapters.plugin
from srptq_plugin.data.images import list_images, read_image, to_pixels, to_tensor
from srptq_plugin.data.metrics import psnr_y
from srptq_plugin.errors import SrptqError, UnknownNameError
from srptq_plugin.models.edsr import EDSR
from srptq_plugin.models.loading import load_model
from srptq_plugin.models.model_record import LoadedModel
from srptq_plugin.models.rdn import RDN
from srptq_plugin.models.rrdb import RRDB
from srptq_plugin.models.srgan import SRGANGenerator
from srptq_plugin.models.srresnet import SRResNet
from srptq_plugin.plugins.registry import Registry

IMDN = "examples.imdn:imdn"
MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).reshape(3, 1, 1)
IMAGE = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(0))


def save(path: Path, state: Mapping[str, Tensor]) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    return path


def run(module: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return module(image)


def set5(data: Path, model: LoadedModel) -> float:
    """Return the mean PSNR on Y over the images of Set5."""
    scale, ends = model.record.scale, model.record.input_range
    scores: list[float] = []
    for path in list_images(data / "Set5" / f"LR_x{scale}"):
        output = run(model.module, to_tensor(read_image(path)[None], ends))
        reference = read_image(data / "Set5" / "HR" / path.name)
        scores.append(psnr_y(to_pixels(output, ends)[0], reference, scale))
    return float(np.mean(scores))


@pytest.mark.parametrize(
    ("name", "file", "scale", "expected"),
    [
        (None, None, 4, 31.419),
        ("edsr-mini", None, 2, 37.475),
        ("edsr", "EDSR_mini_x4", 4, 31.38),
        ("srgan", "SRGAN_netG_x4", 4, 30.657),
        ("srgan", "SRGAN_netG_x2", 2, 35.477),
        (IMDN, "IMDN_x4", 4, 32.211),
        (IMDN, "IMDN_x2", 2, 37.997),
    ],
)
@pytest.mark.usefixtures("root")
def test_published_weights_reach_their_psnr(
    data: Path, name: str | None, file: str | None, scale: int, expected: float
) -> None:
    weights = data / "weights" / f"{file}.safetensors" if file else None
    model = load_model(name, weights, {"upscale": scale} if name in (IMDN, "edsr-mini") else None)
    assert model.record.scale == scale
    assert set5(data, model) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(
    "module",
    [
        EDSR(features=8, blocks=2, residual_scale=0.1),
        EDSR(upscale=3, features=8, blocks=2, input_range=(0.0, 1.0)),
        SRResNet(features=8, blocks=2),
        SRResNet(upscale=2, features=8, blocks=2),
        SRGANGenerator(features=8, blocks=2),
        RDN(upscale=4, features=8, growth=4, blocks=2, layers=2),
        RRDB(upscale=4, features=8, growth=4, blocks=1),
        RRDB(upscale=2, features=8, growth=4, blocks=1),
    ],
    ids=lambda module: type(module).__name__,
)
def test_networks_export_with_any_size(module: nn.Module) -> None:
    check_export(module.eval())


@pytest.mark.usefixtures("root")
def test_the_example_exports_with_any_size() -> None:
    model = load_model(IMDN, args={"upscale": "2"})
    assert model.record.scale == 2
    check_export(model.module)


def check_export(module: nn.Module) -> None:
    sizes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(module, (torch.rand(1, 3, 16, 20),), dynamic_shapes=(sizes,))
    torch.testing.assert_close(run(program.module(), IMAGE), run(module, IMAGE))


def conv(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)


def basicsr_body(state: Mapping[str, Tensor], x: Tensor, blocks: int, scale: float = 1.0) -> Tensor:
    for block in range(blocks):
        hidden = conv(state, f"body.{block}.conv1", x).relu()
        x = x + scale * conv(state, f"body.{block}.conv2", hidden)
    return x


def basicsr_edsr(state: Mapping[str, Tensor], image: Tensor, scale: float) -> Tensor:
    """Compute BasicSR's forward pass, for x4 and 3 blocks."""
    x = conv(state, "conv_first", (image - MEAN) * 255)
    x = x + conv(state, "conv_after_body", basicsr_body(state, x, 3, scale))
    for name in ("upsample.0", "upsample.2"):
        x = functional.pixel_shuffle(conv(state, name, x), 2)
    return conv(state, "conv_last", x) / 255 + MEAN


@pytest.mark.parametrize("residual_scale", [1.0, 0.1])
def test_edsr_loads_basicsr(tmp_path: Path, residual_scale: float) -> None:
    convs = {"conv_first": 8, "conv_after_body": 8, "upsample.0": 32, "upsample.2": 32, "conv_last": 3}
    state = basicsr_state(3, convs, 8)
    weights = save(tmp_path / "a.safetensors", state)
    model = load_model("edsr", weights, {"residual_scale": residual_scale})
    assert model.record.input_range == (0.0, 1.0)
    assert model.record.mean == (0.4488, 0.4371, 0.404)
    torch.testing.assert_close(run(model.module, IMAGE), basicsr_edsr(state, IMAGE, residual_scale))
    levels = load_model("edsr", weights, {"residual_scale": residual_scale}, (0.0, 255.0))
    torch.testing.assert_close(run(levels.module, IMAGE * 255) / 255, run(model.module, IMAGE))


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_srresnet_loads_basicsr(tmp_path: Path, upscale: int) -> None:
    factor = 3 if upscale == 3 else 2
    convs = {"conv_first": 8, "upconv1": 8 * factor**2, "conv_hr": 8, "conv_last": 3}
    state = basicsr_state(2, convs | ({"upconv2": 32} if upscale == 4 else {}), 8)
    model = load_model("srresnet", save(tmp_path / "a.safetensors", state))
    x = basicsr_body(state, functional.leaky_relu(conv(state, "conv_first", IMAGE), 0.1), 2)
    for name in ("upconv1", "upconv2")[: 1 + (upscale == 4)]:
        x = functional.leaky_relu(functional.pixel_shuffle(conv(state, name, x), factor), 0.1)
    x = conv(state, "conv_last", functional.leaky_relu(conv(state, "conv_hr", x), 0.1))
    x = x + functional.interpolate(IMAGE, scale_factor=upscale, mode="bilinear", align_corners=False)
    assert model.record.scale == upscale
    torch.testing.assert_close(run(model.module, IMAGE), x)


def test_srresnet_reads_its_blocks_from_the_weights(tmp_path: Path) -> None:
    weights = save(tmp_path / "a.safetensors", SRResNet(2, features=4, blocks=10).state_dict())
    lite = load_model("srresnet", weights, {"blocks": "10"})
    assert len(lite.module.get_submodule("body")._modules) == 10  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(SrptqError, match="blocks=16 was given, but the weights have 10"):
        load_model("srresnet", weights, {"blocks": "16"})


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0)])
def test_the_range_is_folded_into_the_mean_shifts(ends: tuple[float, float]) -> None:
    low, high = ends
    plain, folded = load_model(), load_model(input_range=ends)
    assert folded.record.input_range == ends
    output = run(folded.module, IMAGE * (high - low) + low)
    torch.testing.assert_close((output - low) / (high - low), run(plain.module, IMAGE * 255) / 255)


def test_edsr_trained_on_0_to_1_is_recognized(tmp_path: Path) -> None:
    state = EDSR(features=8, blocks=1).state_dict()
    unit = {key: value / 255 if key.endswith("mean.bias") else value for key, value in state.items()}
    record = load_model("edsr", save(tmp_path / "a.safetensors", unit)).record
    assert record.input_range == (0.0, 1.0)
    assert record.mean == (0.4488, 0.4371, 0.404)


def test_wide_edsr_scales_its_residuals(tmp_path: Path) -> None:
    weights = save(tmp_path / "a.safetensors", EDSR(upscale=2, features=256, blocks=1).state_dict())
    module = load_model("edsr", weights).module
    assert module.get_submodule("body.0").residual_scale == 0.1


@pytest.mark.parametrize("upscale", [2, 3, 4, 8])
def test_sizes_are_read_from_the_weights(tmp_path: Path, upscale: int) -> None:
    weights = save(tmp_path / "a.safetensors", EDSR(upscale=upscale, features=8, blocks=2).state_dict())
    assert load_model("edsr", weights, {"blocks": 2, "features": "8"}).record.scale == upscale


def test_mean_shifts_are_frozen() -> None:
    frozen = {name for name, parameter in EDSR().named_parameters() if not parameter.requires_grad}
    assert frozen == {f"{shift}_mean.{kind}" for shift in ("sub", "add") for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"upscale": 3}, "upscale=3; give 2 or 4, or the weights of another network"),
        ({"blocks": "many"}, r"edsr-mini\.blocks: 'many' is not allowed; give a whole number from 1"),
        ({"blocks": [2]}, r"blocks: \[2\] is not allowed; give a whole number from 1"),
        ({"blocks": True}, "blocks: True is not allowed; give a whole number from 1"),
        ({"blocks": 0}, "blocks: 0 is not allowed; give a whole number from 1"),
        ({"features": "0.5"}, "features: 0.5 is not allowed; give a whole number from 1"),
        ({"residual_scale": -1}, "residual_scale: -1 is not allowed; give a number above 0"),
        ({"residual_scale": "inf"}, "residual_scale: inf is not allowed; give a number above 0"),
        ({"block": 3}, r"edsr-mini\.block: unknown key; did you mean 'blocks'\? keys: blocks, features"),
    ],
)
def test_wrong_arguments_are_refused(args: dict[str, str | int | float], message: str) -> None:
    with pytest.raises(SrptqError, match=message):
        load_model("edsr-mini", args=args)


FAMILIES = [entry.name for entry in Registry([srptq_adapters.plugin], entry_points=False).entries("model")]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("edsr-mini", "spandrel")])
def test_networks_without_fitting_weights_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SrptqError, match=f"{name}: no weights"):
        load_model(name)
    with pytest.raises(SrptqError, match=f"{name}: the weights"):
        load_model(name, save(tmp_path / "a.safetensors", {"strange": torch.zeros(1)}))


def test_upscaling_factors_that_do_not_exist_are_refused() -> None:
    with pytest.raises(SrptqError, match="give 2, 3 or 4"):
        SRResNet(upscale=8)
    with pytest.raises(SrptqError, match="give 2, 4 or 8"):
        SRGANGenerator(upscale=3)
    with pytest.raises(SrptqError, match="give 2, 3 or 4"):
        RDN(upscale=8)
    with pytest.raises(SrptqError, match="give 2 or 4"):
        RRDB(upscale=3)


def test_wrong_ranges_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match="input_range"):
        load_model(input_range=(1.0, 1.0))
    weights = save(tmp_path / "a.safetensors", SRGANGenerator(features=4, blocks=1).state_dict())
    with pytest.raises(SrptqError, match="output is in 0 to 1"):
        load_model("srgan", weights, input_range=(0.0, 255.0))


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'edsr'"):
        load_model("edrs")


def test_families_come_from_the_registry() -> None:
    with pytest.raises(UnknownNameError, match=r"choices: FILE\.onnx, FILE\.safetensors, package\.module:factory"):
        load_model("edsr", registry=Registry(entry_points=False))


@pytest.mark.parametrize(("residual_scale", "expected"), [("0.1", 0.1), (0.5, 0.5), (2, 2.0), (None, 1.0)])
def test_the_residual_scale_is_read_from_text(tmp_path: Path, residual_scale: object, expected: float) -> None:
    weights = save(tmp_path / "a.safetensors", EDSR(upscale=2, features=4, blocks=1).state_dict())
    module = load_model("edsr", weights, {"residual_scale": residual_scale, "upscale": 2.0}).module
    assert module.get_submodule("body.0").residual_scale == expected
