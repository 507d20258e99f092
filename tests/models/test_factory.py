import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.loading import load_model


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a folder with a module of a user's factories."""
    (tmp_path / "user_networks.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def nearest(scale=2): return nn.Upsample(scale_factor=scale)\n"
        "def stretched(): return nn.Upsample(scale_factor=(1, 2))\n"
        "def gray(): return nn.Conv2d(3, 1, 1)\n"
        "def wrong(): return nn.Conv2d(4, 3, 1)\n"
        "def pair(): return nn.Sequential(nn.Conv2d(3, 7, 1), nn.MaxPool2d(1, return_indices=True))\n"
        "def large(): return nn.Sequential(nn.Unfold(40), nn.Fold((64, 128), 40))\n"
        "def text(): return 'net'\n"
        "def failing(): raise KeyError('depth')\n"
        "constant = 3\n"
        "class Warmed(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 3, 1, device='cuda').cuda(0)\n"
        "        self.register_buffer('mean', torch.zeros(3, 1, 1, device=torch.device('cuda:0')))\n"
        "        self.to('cuda')(torch.ones(1, 3, 8, 8).to(device='cuda'))\n"
        "    def forward(self, x): return self.conv(x) + self.mean\n"
    )
    (tmp_path / "broken_networks.py").write_text("import not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "user_networks", raising=False)


@pytest.mark.usefixtures("user")
def test_a_factory_is_called_with_its_arguments() -> None:
    model = load_model("user_networks:nearest", args={"scale": 3}, input_range=(0.0, 255.0))
    assert model.record.name == "user_networks:nearest"
    assert (model.record.scale, model.record.input_range) == (3, (0.0, 255.0))
    assert not model.module.training
    assert str(Path.cwd()) not in sys.path


@pytest.mark.usefixtures("user")
def test_networks_that_ask_for_cuda_are_built(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level("INFO", "srptq_plugin"):
        module = load_model("user_networks:Warmed").module
    assert {tensor.device.type for tensor in module.state_dict().values()} == {"cpu"}
    lines = [line for line in caplog.messages if "CUDA" in line]
    assert lines == ["model user_networks:Warmed asks for CUDA, which this machine lacks; it is built on the CPU"]


@pytest.mark.usefixtures("user")
def test_networks_that_need_a_larger_image_get_one() -> None:
    assert load_model("user_networks:large").record.scale == 1


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:net", "importing no_such_module failed"),
        ("broken_networks:net", "No module named 'not_there'"),
        ("user_networks:net", "has no net"),
        ("user_networks:constant", "cannot be called"),
        ("user_networks:", "give package.module:factory"),
        ("user_networks:text", "returned a str"),
        ("user_networks:failing", "the factory failed .*KeyError: 'depth'"),
        ("user_networks:stretched", r"gave \[1, 3, 17, 36\]"),
        ("user_networks:gray", r"gave \[1, 1, 17, 18\]"),
        (
            "user_networks:wrong",
            r"running it on an input of .* to have 4 channels, .*accept one image of 3 channels \(RGB\) or 1 \(Y\)",
        ),
        ("user_networks:pair", r"gave 0: \[1, 7, 17, 18\], 1: \[1, 7, 17, 18\]"),
    ],
)
def test_unusable_factories_are_refused(name: str, message: str) -> None:
    with pytest.raises(SrptqError, match=message):
        load_model(name)


@pytest.mark.usefixtures("user")
def test_factories_get_weights_and_arguments_that_fit(tmp_path: Path) -> None:
    weights = tmp_path / "a.safetensors"
    save_file({"strange": torch.zeros(1)}, weights)
    with pytest.raises(SrptqError, match="1 unexpected: strange"):
        load_model("user_networks:nearest", weights)
    with pytest.raises(SrptqError, match=r"the factory failed when called with \{'size': 3\}"):
        load_model("user_networks:nearest", args={"size": 3})
