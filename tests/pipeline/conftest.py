import importlib
from pathlib import Path

import PIL.Image
import pytest
import torch
from helpers import networks


@pytest.fixture(autouse=True)
def small_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare outputs on smaller images, of odd sizes too."""
    module = importlib.import_module("srptq_plugin.runs.verify")
    monkeypatch.setattr(module, "SIZES", ((24, 24), (17, 29), (31, 21), (20, 23)))


@pytest.fixture(autouse=True)
def programs_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache programs that are read back, which takes a third of a run."""
    monkeypatch.setattr(torch.export, "load", networks.loaded)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a few small low-resolution images and return their folder."""
    folder = tmp_path_factory.mktemp("photographs")
    for n, image in enumerate(networks.images(3, 40, 44)):
        pixels = (255 * image).round().byte().movedim(0, -1).numpy()
        PIL.Image.fromarray(pixels).save(folder / f"{n}.png")
    return folder
