"""MLPerf's EDSR, ESPCN and FSRCNN against their papers' equations, on weights with the published names."""

import math
from pathlib import Path

import pytest
import torch
from helpers.fsrcnn_layouts import LORNATANG, SIZES, YJN870, fsrcnn_layout, keeps_gray
from helpers.reference_networks import conv, drawn, image, save
from torch.nn import functional

from srptq_plugin.errors import ArgumentError, SrptqError
from srptq_plugin.evaluation.pairs import load_pairs
from srptq_plugin.evaluation.scoring import mean_scores
from srptq_plugin.models.edsr_mlperf import MLPerfEDSR
from srptq_plugin.models.espcn import ESPCN
from srptq_plugin.models.fsrcnn import FSRCNN
from srptq_plugin.models.loading import load_model


def test_mlperf_edsr_computes_the_equations(tmp_path: Path) -> None:
    state = drawn(MLPerfEDSR(3, features=6, blocks=2).state_dict())
    state["tail.weight"] *= 20
    x = image(3, 255.0)
    shallow = deep = conv(state, "head", x)
    for block in ("body.0", "body.1"):
        deep = deep + conv(state, f"{block}.2", conv(state, f"{block}.0", deep).relu())
    expected = functional.pixel_shuffle(conv(state, "tail", conv(state, "body.2", deep) + shallow), 3)
    assert expected.min() < 0
    assert expected.max() > 255
    loaded = load_model(save(tmp_path, state))
    record = loaded.record
    assert (record.name, record.scale, record.input_range) == ("edsr-mlperf", 3, (0.0, 255.0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(x), expected.clamp(0, 255), rtol=1e-4, atol=1e-3)


def test_mlperf_edsr_has_one_range(tmp_path: Path) -> None:
    weights = save(tmp_path, MLPerfEDSR(features=4, blocks=1).state_dict())
    with pytest.raises(SrptqError, match=r"edsr-mlperf: input range \(0\.0, 1\.0\); its output is in 0 to 255"):
        load_model(weights, input_range=(0.0, 1.0))


@pytest.mark.parametrize(("colors", "upscale"), [(1, 3), (3, 2)])
@pytest.mark.parametrize("layout", ["yjn870", "Lornatang"])
def test_espcn_computes_the_papers_equations(colors: int, upscale: int, layout: str, tmp_path: Path) -> None:
    state = drawn(ESPCN(upscale, features=7, inner=5, colors=colors).state_dict())
    x = image(colors)
    hidden = conv(state, "first_part.2", conv(state, "first_part.0", x).tanh()).tanh()
    expected = functional.pixel_shuffle(conv(state, "last_part.0", hidden), upscale)
    if layout == "Lornatang":
        pairs = (("first_part", "feature_maps"), ("last_part", "sub_pixel"))
        state = {key.replace(*pairs[0]).replace(*pairs[1]): value for key, value in state.items()}
    loaded = load_model(save(tmp_path, state))
    record = loaded.record
    assert (record.name, record.scale, record.channels) == ("espcn", upscale, colors)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(x), expected)


@pytest.mark.parametrize(("names", "last"), [(YJN870, "last_part"), (LORNATANG, "deconv")])
@pytest.mark.parametrize("upscale", [2, 3])
def test_fsrcnn_computes_the_papers_equations(names: tuple[str, ...], last: str, upscale: int, tmp_path: Path) -> None:
    state = drawn(FSRCNN(upscale, SIZES).state_dict())
    x = image(1)
    deep = x
    for layer in range(0, 10, 2):
        deep = functional.prelu(conv(state, f"body.{layer}", deep), state[f"body.{layer + 1}.weight"])
    # A transposed convolution is a convolution of the map with zeros between its values, by the flipped kernel.
    spread = torch.zeros(2, 7, 26 * upscale, 31 * upscale)
    spread[:, :, ::upscale, ::upscale] = deep
    kernel = state["deconv.weight"].flip(2, 3).transpose(0, 1)
    expected = functional.conv2d(spread, kernel, state["deconv.bias"], padding=4)
    loaded = load_model(save(tmp_path, fsrcnn_layout(state, names, last)), args={"upscale": upscale})
    record = loaded.record
    assert (record.name, record.scale, record.channels) == ("fsrcnn", upscale, 1)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("upscale", [1, 2, 3, 4])
@pytest.mark.parametrize("white", [1.0, 255.0])
def test_the_scale_of_fsrcnn_is_measured(upscale: int, white: float, tmp_path: Path) -> None:
    weights = save(tmp_path, fsrcnn_layout(keeps_gray(upscale), YJN870, "last_part"))
    loaded = load_model(weights, input_range=(0.0, white))
    assert (loaded.record.scale, loaded.record.input_range) == (upscale, (0.0, white))
    given = load_model(weights, args={"upscale": upscale})
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(image(1)), given.module(image(1)), rtol=0, atol=0)


def test_an_unknown_scale_of_fsrcnn_is_asked_for(tmp_path: Path) -> None:
    state = drawn(FSRCNN(2, SIZES).state_dict())
    weights = save(tmp_path, fsrcnn_layout(state, LORNATANG, "deconv"))
    with pytest.raises(ArgumentError, match=r"no shape tells the scale.*such as `model_args=upscale=4`"):
        load_model(weights)


@pytest.mark.parametrize("lost", ["mid_part.4.bias", "mid_part.5.weight", "last_part.weight"])
def test_truncated_fsrcnns_are_refused(lost: str, tmp_path: Path) -> None:
    state = fsrcnn_layout(keeps_gray(2), YJN870, "last_part")
    weights = save(tmp_path, {key: value for key, value in state.items() if key != lost})
    with pytest.raises(SrptqError, match="no family recognizes it"):
        load_model(weights)
    with pytest.raises(SrptqError, match="fsrcnn: the weights are no chain of convolutions and PReLUs"):
        load_model("fsrcnn", weights)


def test_truncated_checkpoints_name_what_they_lack(tmp_path: Path) -> None:
    state = ESPCN().state_dict()
    del state["first_part.2.bias"]
    with pytest.raises(SrptqError, match=r"espcn: the weights lack first_part\.2\.bias; give a checkpoint of yjn870"):
        load_model("espcn", save(tmp_path, state))
    state = MLPerfEDSR(features=4, blocks=2).state_dict()
    del state["body.1.2.bias"]
    with pytest.raises(SrptqError, match=r"weights do not fit MLPerfEDSR; 1 missing: body\.1\.2\.bias"):
        load_model(save(tmp_path, state))


def test_sizes_of_fsrcnn_are_checked(tmp_path: Path) -> None:
    weights = save(tmp_path, fsrcnn_layout(keeps_gray(2), YJN870, "last_part"))
    with pytest.raises(SrptqError, match="fsrcnn: features=56 was given, but the weights have 7"):
        load_model(weights, args={"features": 56})
    with pytest.raises(SrptqError, match=r"fsrcnn\.blocks: unknown key"):
        load_model(weights, args={"blocks": 2})


def test_mlperf_edsr_has_its_published_quality(data: Path) -> None:
    loaded = load_model(data / "weights" / "MLPerf_EDSR_f32b5_x2.safetensors")
    pairs = load_pairs(data / "Set5", 2).usable
    psnr, _ = mean_scores(loaded.module, pairs, 2, loaded.record.input_range)
    assert math.isclose(psnr, 37.380, abs_tol=0.001)
