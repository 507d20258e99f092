"""Mistakes that `quantize` refuses before it writes anything."""

import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import networks
from helpers.small_runs import small
from torch import Tensor, nn

from srptq_plugin.errors import MissingRuntimeError, SrptqError
from srptq_plugin.pipeline import quantize

pytest.importorskip("torchao")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "edsr-mni"}, "unknown model 'edsr-mni'"),
        ({"images": Path("nowhere")}, "nowhere does not exist"),
        ({"device": "tpu9"}, "device tpu9: not available"),
        ({"toolkit": "mqbnch"}, "unknown toolkit 'mqbnch'"),
        ({"recipe": "openvino-w9a9"}, "unknown recipe 'openvino-w9a9'; did you mean"),
        ({"input_size": (2, 3, 16, 16)}, "input_size.*one image of three colors"),
        ({"input_size": (1, 4, 16, 16)}, "input_size.*one image of three colors.* or of Y"),
        ({"input_size": (1, 1, 16, 16)}, r"running it on an input of \[1, 1, 16, 16\] failed .* to have 3 channels"),
        ({"input_range": (1.0, 0.0)}, "input_range.*black and white"),
    ],
)
def test_a_wrong_argument_leaves_no_folder(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    defaults: dict[str, Any] = {"recipe": small("paper"), "model": networks.network("shared")}
    with pytest.raises(SrptqError, match=message):
        quantize(**{**defaults, **arguments}, out=tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_runtime_is_refused_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingRuntimeError, match="openvino is not installed"):
        quantize(small("openvino"), images=tmp_path / "nowhere", out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def branching(x: Tensor) -> Tensor:
    return x if x.mean() > 0 else -x


class Branching(nn.Module):
    """A network whose control flow depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = networks.conv(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return branching(self.conv(x))


class Nearest(nn.Module):
    """A network without an operation to quantize."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branching(), "torch.export cannot trace Branching"),
        (Nearest(), "nothing to quantize"),
        (nn.Flatten(), "an output must be one image of as many channels"),
    ],
    ids=["branching", "nearest", "flatten"],
)
def test_an_unquantizable_network_leaves_no_folder(
    module: nn.Module, message: str, photographs: Path, tmp_path: Path
) -> None:
    with pytest.raises(SrptqError, match=message):
        quantize(small("paper"), model=module, images=photographs, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
