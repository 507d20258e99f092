"""Checkpoints that spandrel detects, with a stand-in for spandrel, which needs torchvision."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.command_line import returning
from safetensors.torch import save_file
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.loading import load_model
from srptq_plugin.models.rfdn import RFDN

State = dict[str, Tensor]


def network() -> nn.Module:
    return nn.Sequential(networks.conv(3, 12), nn.PixelShuffle(2))


class UnsupportedModelError(Exception):
    """The stand-in's own."""


class ImageModelDescriptor:
    """A network that reads an image only."""

    architecture = SimpleNamespace(name="Twofold")

    def __init__(self, state: State) -> None:
        self.model = network()
        self.model.load_state_dict(state)


class StandIn(ModuleType):
    """Spandrel's names that the family uses, with one architecture: the keys of `network`."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__("spandrel")
        self.__spec__ = ModuleSpec("spandrel", None)
        self.descriptor = descriptor
        self.ImageModelDescriptor, self.UnsupportedModelError = ImageModelDescriptor, UnsupportedModelError
        self.MAIN_REGISTRY = SimpleNamespace(architectures=self.architectures, load=self.load)

    @staticmethod
    def canonicalize_state_dict(state: State) -> State:
        """Return the weights as they are."""
        return state

    @staticmethod
    def detect(state: State) -> bool:
        """Tell whether these are the keys of `network`."""
        return state.keys() == network().state_dict().keys()

    def architectures(self, order: str) -> list[SimpleNamespace]:
        """Return the one architecture."""
        assert order == "detection"
        return [SimpleNamespace(detect=self.detect)]

    def load(self, state: State) -> Any:
        """Return the descriptor of a detected network."""
        if not self.detect(state):
            raise UnsupportedModelError
        return self.descriptor(state)


@pytest.fixture
def spandrel(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn(ImageModelDescriptor)
    monkeypatch.setitem(sys.modules, "spandrel", module)
    return module


def save(path: Path, state: State) -> Path:
    save_file(state, path)
    return path


@pytest.mark.usefixtures("spandrel")
@pytest.mark.parametrize("prefix", ["", "generator."])
def test_what_spandrel_detects_is_loaded(tmp_path: Path, prefix: str) -> None:
    module = network()
    state = {prefix + key: value for key, value in module.state_dict().items()}
    loaded = load_model(save(tmp_path / "x2.safetensors", state))
    assert (loaded.record.name, loaded.record.scale, loaded.record.input_range) == ("spandrel", 2, (0.0, 1.0))
    assert torch.equal(loaded.module(networks.images(1)), module(networks.images(1)))


def test_own_families_are_asked_first(tmp_path: Path, spandrel: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spandrel, "detect", returning(value=True))
    path = save(tmp_path / "x2.safetensors", RFDN(2, features=8, blocks=2, kept=4, hidden=2).state_dict())
    assert load_model(path).record.name == "rfdn"


@pytest.mark.usefixtures("spandrel")
def test_other_weights_are_refused_by_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {"strange": torch.zeros(1)})
    with pytest.raises(SrptqError, match="spandrel: it detects no architecture in these weights"):
        load_model("spandrel", path)
    with pytest.raises(SrptqError, match="spandrel: no weights"):
        load_model("spandrel")


def test_networks_with_masks_are_refused(tmp_path: Path, spandrel: StandIn) -> None:
    spandrel.descriptor = returning(SimpleNamespace(architecture=SimpleNamespace(name="LaMa")))
    path = save(tmp_path / "a.safetensors", network().state_dict())
    with pytest.raises(SrptqError, match="spandrel: LaMa reads more than an image"):
        load_model(path)


def test_without_spandrel_nothing_is_recognized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    monkeypatch.setattr("srptq_adapters.spandrel_family.find_spec", returning(None))
    path = save(tmp_path / "a.safetensors", network().state_dict())
    with pytest.raises(SrptqError, match="no family recognizes it"):
        load_model(path)
    with pytest.raises(SrptqError, match=r"spandrel is not installed; pip install 'srptq-plugin\[spandrel\]'"):
        load_model("spandrel", path)
