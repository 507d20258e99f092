"""A folder with the files that documents assume: a small network, its weights, images, and a run."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import skimage.data
import torch
from helpers.documents import WEIGHTS, blocks
from helpers.shown_plugins import install
from PIL import Image
from safetensors.torch import save_file

from srptq_plugin.cli import main
from srptq_plugin.models import edsr
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.recipe_files import RecipeLayer, merge

SMALL = RecipeLayer(
    "small",
    {
        "calibration": {"patches": 4, "size": 24, "even_areas": False},
        "training": {"steps": 2, "epochs": None, "every": 1, "batch": 2, "patch": 16},
    },
)
ONE_EPOCH = RecipeLayer("small", {"reconstruction": {"epochs": 1}})
Read = Callable[[Sequence[RecipeLayer]], Recipe]


STOOD_IN = ("RealESRGAN_x4plus_anime_6B.pth", "SRGAN_netG_x4.safetensors")
"""Checkpoints in documents. The small network stands in for each."""


@pytest.fixture(scope="session")
def small_network() -> edsr.EDSR:
    """Return an EDSR for x4 that runs in no time."""
    torch.manual_seed(0)
    return edsr.EDSR(upscale=4, features=8, blocks=2).eval()


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the plugins that documents show."""
    install(monkeypatch)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    """Give every recipe few patches and steps, and replace the bundled network by the small one."""
    _make_small(monkeypatch, weights)


def _make_small(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    read: Read = Recipe.from_layers

    def from_layers(layers: Sequence[RecipeLayer]) -> Recipe:
        tunes = (merge(layers).get("reconstruction") or {}).get("name") == "pac"
        return read([*layers, SMALL, *([ONE_EPOCH] if tunes else [])])

    monkeypatch.setattr(Recipe, "from_layers", from_layers)
    monkeypatch.setattr(edsr, "MINI", {"4": weights})


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, small_network: edsr.EDSR) -> Path:
    """Write the small network's weights and return their path."""
    path = tmp_path_factory.mktemp("weights") / WEIGHTS
    torch.save(small_network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory, weights: Path, small_network: edsr.EDSR) -> Path:
    """Return a folder with weights, images, recipes and a run, to be copied for each block."""
    folder = tmp_path_factory.mktemp("documents")
    shutil.copy(weights, folder)
    for name in STOOD_IN:
        write = save_file if name.endswith(".safetensors") else torch.save
        write(small_network.state_dict(), folder / name)
    photograph = Image.fromarray(skimage.data.astronaut()[:112, :128])
    for name, size in (("lr", (32, 28)), ("photographs", (128, 112)), ("Set5", (64, 56))):
        (folder / name).mkdir()
        for number in range(2):
            photograph.resize(size).rotate(180 * number).save(folder / name / f"{number}.png")
    for block in blocks("yaml"):
        name = block.text.partition("\n")[0].removeprefix("# ")
        (folder / name).write_text(block.text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        _make_small(patch, weights)
        patch.chdir(folder)
        assert main(["quantize", "--recipe", "openvino-w8a8", "--images", "lr", "--out", "run"]) in (0, 1)
    return folder


@pytest.fixture
def workplace(furnished: Path, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: ARG001
    """Copy the furnished folder, make the copy the working directory, and return it."""
    folder = Path(shutil.copytree(furnished, tmp_path / "work"))
    monkeypatch.chdir(folder)
    return folder
