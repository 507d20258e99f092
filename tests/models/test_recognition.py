"""A checkpoint alone names its family: of every bundled family, of published files, and of plugins."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.family_checkpoints import CHECKPOINTS
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import srptq_adapters.plugin
from srptq_plugin.calibration.inputs import Source
from srptq_plugin.errors import SrptqError
from srptq_plugin.models.edsr import EDSR, MINI
from srptq_plugin.models.imdn import IMDN
from srptq_plugin.models.loading import load_model
from srptq_plugin.models.model_record import ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.rfdn import RFDN
from srptq_plugin.models.srresnet import SRResNet
from srptq_plugin.plugins.entries import ModelEntry
from srptq_plugin.plugins.hookspecs import hookimpl
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.utils.options import Options

PUBLISHED = {
    "EDSR_mini_x4": ("edsr-mini", 4),
    "SRGAN_netG_x2": ("srgan", 2),
    "SRGAN_netG_x4": ("srgan", 4),
    "RealESRGAN_x4plus_anime_6B": ("rrdb", 4),
    "RealESR_animevideov3_x4": ("srvgg", 4),
    "IMDN_x2": ("imdn", 2),
    "IMDN_x4": ("imdn", 4),
    "MLPerf_EDSR_f32b5_x2": ("edsr-mlperf", 2),
}
"""The family and scale of each published file."""


def save(path: Path, state: State) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    return path


def families(state: State) -> list[str]:
    """Return the names of all built-in families that recognize a checkpoint."""
    entries = Registry([srptq_adapters.plugin], entry_points=False).entries("model")
    return [entry.name for entry in entries if entry.load().recognizes(state)]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_recognized_by_its_family_only(name: str, tmp_path: Path) -> None:
    family, weights = CHECKPOINTS[name]
    assert families(weights()) == [family]
    assert load_model(save(tmp_path / "a.safetensors", weights())).record.name == family


def test_every_family_has_a_checkpoint_here() -> None:
    entries = Registry([srptq_adapters.plugin], entry_points=False).entries("model")
    assert {entry.name for entry in entries} - {"spandrel"} == {family for family, _ in CHECKPOINTS.values()}


@pytest.mark.parametrize("upscale", MINI)
def test_the_bundled_checkpoints_are_recognized(upscale: str) -> None:
    record = load_model(str(MINI[upscale])).record
    assert (record.name, record.scale) == ("edsr-mini", int(upscale))


@pytest.mark.parametrize("file", PUBLISHED)
def test_published_checkpoints_are_recognized(data: Path, file: str) -> None:
    path = data / "weights" / f"{file}.safetensors"
    family, scale = PUBLISHED[file]
    assert families(load_file(path)) == [family]
    record = load_model(path).record
    assert (record.name, record.scale) == (family, scale)


@pytest.mark.parametrize("wrapper", ["params_ema", "state_dict"])
def test_wrapped_checkpoints_are_recognized(wrapper: str, tmp_path: Path) -> None:
    state = SRResNet(3, features=4, blocks=1).state_dict()
    torch.save({wrapper: {f"module.{key}": value for key, value in state.items()}}, tmp_path / "a.pth")
    record = load_model(str(tmp_path / "a.pth"), args={"upscale": "3"}).record
    assert (record.name, record.scale) == ("srresnet", 3)


def test_options_of_the_recognized_family_are_checked(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", EDSR(upscale=2, features=4, blocks=1).state_dict())
    with pytest.raises(SrptqError, match="edsr: blocks=3 was given, but the weights have 1; leave it out"):
        load_model(path, args={"blocks": 3})
    with pytest.raises(SrptqError, match=r"edsr\.growth: unknown key"):
        load_model(path, args={"growth": 3})


def test_an_unknown_checkpoint_shows_its_keys(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {f"layer{number}": torch.zeros(1) for number in range(7)})
    names = ", ".join(entry.name for entry in Registry([srptq_adapters.plugin], entry_points=False).entries("model"))
    with pytest.raises(SrptqError) as refused:
        load_model(path)
    assert str(refused.value) == (
        f"model {path}: no family recognizes it, of {names}; it has 7 tensors: layer0 [1], layer1 [1], layer2 [1], "
        "..., layer4 [1], layer5 [1], layer6 [1]; "
        f"give `model=FAMILY` or `model=package.module:factory`, and `weights={path}`"
    )


def test_a_checkpoint_with_missing_keys_resembles_its_family(tmp_path: Path) -> None:
    state = IMDN(2, features=16, blocks=1).state_dict()
    del state["LR_conv.weight"]
    with pytest.raises(SrptqError, match=r"; it resembles imdn, but lacks LR_conv\.weight; give `model=FAMILY`"):
        load_model(save(tmp_path / "a.safetensors", state))


@pytest.mark.parametrize("prefix", ["generator.", "model."])
def test_a_prefix_of_all_keys_is_removed(tmp_path: Path, prefix: str) -> None:
    state = {prefix + key: value for key, value in RFDN(2, features=4, blocks=1).state_dict().items()}
    assert load_model(save(tmp_path / "a.safetensors", state)).record.name == "rfdn"


def test_a_checkpoint_takes_no_other_weights() -> None:
    with pytest.raises(SrptqError, match=r"model a\.pth: a file brings its own weights; leave `weights=b\.pth`"):
        load_model("a.pth", "b.pth")


def test_a_missing_checkpoint_is_named() -> None:
    with pytest.raises(SrptqError, match=r"no file gone\.pt; give a \.safetensors, \.pth or \.pt file"):
        load_model("gone.pt")


class DoublerOptions(Options):
    factor: float = 1.0
    """The factor of the output."""


def build_doubler(request: Request[DoublerOptions]) -> SRNetwork:
    return SRNetwork(nn.Upsample(scale_factor=2), (0.0, request.options.factor))


def is_doubler(state: State) -> bool:
    return "doubler" in state


def plugin(*names: str, family: ModelFamily | None = None) -> SimpleNamespace:
    """Return a plugin with entries for the family that doubles images."""
    family = family or ModelFamily(build_doubler, is_doubler)
    entries = [ModelEntry(name, "for a test", lambda: family, options=DoublerOptions) for name in names]
    return SimpleNamespace(srptq_models=hookimpl(lambda: entries))


@pytest.fixture
def doubler(tmp_path: Path) -> Path:
    """Return a checkpoint of the family that doubles images."""
    return save(tmp_path / "doubler.safetensors", {"doubler": torch.ones(1)})


def with_plugins(*plugins: object) -> Registry:
    return Registry([srptq_adapters.plugin, *plugins], entry_points=False)


def test_a_family_of_a_plugin_recognizes_its_checkpoint(doubler: Path) -> None:
    record = Source(doubler, arguments={"factor": 255}).load(with_plugins(plugin("doubler"))).record
    assert (record.name, record.scale, record.input_range) == ("doubler", 2, (0.0, 255.0))


def test_a_family_recognizes_nothing_by_default(doubler: Path) -> None:
    registry = with_plugins(plugin("silent", family=ModelFamily(build_doubler)))
    with pytest.raises(SrptqError, match=r"no family recognizes it, of edsr-mini, .*, silent;"):
        load_model(doubler, registry=registry)
    assert load_model("silent", doubler, registry=registry).record.scale == 2


def test_a_checkpoint_of_two_families_is_refused(doubler: Path) -> None:
    path = re.escape(str(doubler))
    expected = rf"several families recognize it \(b, a\); choose one: `model=b` and `weights={path}`"
    with pytest.raises(SrptqError, match=expected):
        load_model(doubler, registry=with_plugins(plugin("b", "a")))


def test_a_family_that_fails_leaves_the_others_working(doubler: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(state: Mapping[str, Tensor]) -> bool:
        return bool(state["of a broken plugin"])

    broken = plugin("broken", family=ModelFamily(build_doubler, fail))
    with caplog.at_level(logging.WARNING):
        assert load_model(doubler, registry=with_plugins(broken, plugin("doubler"))).record.name == "doubler"
    assert f"model broken cannot tell whether {doubler} is its own (KeyError: 'of a broken plugin')" in caplog.text


def test_a_family_may_be_called_like_a_file(doubler: Path) -> None:
    registry = with_plugins(plugin("x2.pth"))
    assert load_model("x2.pth", doubler, registry=registry).record.name == "x2.pth"
