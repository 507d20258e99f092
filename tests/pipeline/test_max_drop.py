"""A limit on the drop: judged in the runtime, held by the cheapest plan, reproduced by its recipe."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from helpers import networks
from helpers.small_runs import require_runtime, small
from torch import Tensor, nn

from srptq_plugin.errors import ArgumentError, SrptqError
from srptq_plugin.evaluation.evaluate import evaluate
from srptq_plugin.graph.types import Array
from srptq_plugin.pipeline import quantize
from srptq_plugin.plugins.protocols import Target
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.runs.run import TABLE, Run

pytest.importorskip("torchao")
LIMIT = 0.03


class Copying(nn.Module):
    """Repeats pixels, through features that residual blocks change a little."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.head, self.grow, self.shuffle = networks.conv(3, 6), networks.conv(6, 12), nn.PixelShuffle(2)
        self.body = nn.Sequential(networks.Residual(), networks.Residual())
        for parameter in self.parameters():
            parameter.data *= 0.02
        for channel in range(12):
            self.grow.weight.data[channel, channel // 4, 1, 1] = 1
        for channel in range(3):
            self.head.weight.data[channel, channel, 1, 1] = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.grow(self.body(self.head(x))))


class Disturbed:
    """A runtime whose pixels are off by some levels, up and down in turns."""

    def __init__(self, runtime: Callable[[Array], Array]) -> None:
        self.runtime, self.name = runtime, "disturbed"

    def __call__(self, image: Array) -> Array:
        output = self.runtime(image)
        output[..., ::2] += 0.05
        return output

    def integer_convs(self) -> None:
        return None


class Steps:
    """The names of the steps that a run reports."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def note(self, what: str, _done: int, _total: int) -> None:
        self.names.append(what)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two high-resolution images and return their folder."""
    folder = tmp_path_factory.mktemp("data") / "originals"
    folder.mkdir()
    for n, image in enumerate(networks.images(2, 48, 52, seed=5)):
        pixels = (255 * image).round().byte().movedim(0, -1).numpy()
        PIL.Image.fromarray(pixels).save(folder / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def held(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Quantize within a limit that the recipe misses."""
    return run_within(LIMIT, originals, tmp_path_factory.mktemp("held") / "run")


@pytest.fixture
def disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let OpenVINO compute something else than the simulation, and try two plans only."""
    require_runtime("openvino")
    target = type(Registry().target("openvino").load())
    load: Callable[..., Callable[[Array], Array]] = target.load

    def load_disturbed(self: Target, path: Path) -> Disturbed:
        return Disturbed(load(self, path))

    monkeypatch.setattr(target, "load", load_disturbed)
    monkeypatch.setattr(importlib.import_module("srptq_plugin.accuracy.control"), "PLANS", 2)


def run_within(limit: float, originals: Path, out: Path, target: str = "openvino", **arguments: Any) -> Run:
    require_runtime(target)
    model = Copying().eval()
    return quantize(small(target, 4), model=model, out=out, max_drop=limit, data=originals, **arguments)


def drop_of(run: Run, originals: Path) -> float:
    psnr = {row["output"]: row["psnr"] for row in evaluate(run, originals).means}
    return psnr["float"] - psnr["runtime"]


def test_the_cheapest_plan_that_holds_is_chosen(held: Run, originals: Path) -> None:
    control = held.summary["max_drop"]
    first, *others = control["plans"]
    chosen = control["plans"][control["chosen"]]
    assert first["drop"] > LIMIT >= chosen["drop"]
    assert chosen["price"] == min(plan["price"] for plan in others if plan["drop"] <= LIMIT)
    assert chosen["left_float"] or chosen["bits"]
    assert drop_of(held, originals) == pytest.approx(chosen["drop"], abs=1e-4)
    assert control["judged_in"].startswith("openvino ")


def test_its_recipe_alone_reproduces_the_run(held: Run, tmp_path: Path) -> None:
    again = quantize(held.recipe, model=Copying().eval(), out=tmp_path / "again")
    assert again.recipe.overrides == held.recipe.overrides != ()
    assert (again.folder / TABLE).read_bytes() == (held.folder / TABLE).read_bytes()


def test_the_run_folder_holds_the_chosen_plan_alone(held: Run) -> None:
    assert not any(path.is_dir() for path in held.folder.iterdir())
    assert all(path.is_file() for path in held.artifacts)
    assert not held.folder.with_name("run.quantizing").exists()


@pytest.mark.usefixtures("disturbed")
def test_the_runtime_decides_not_the_simulation(originals: Path, tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match=r"`max_drop=0.2`: no plan .* holds it on originals, in disturbed") as missed:
        run_within(0.2, originals, tmp_path / "run")
    assert "the best of 2: " in str(missed.value)
    assert "run.quantizing: `resume=True` goes on" in str(missed.value)
    assert not (tmp_path / "run").exists()
    steps = Steps()
    run = run_within(9, originals, tmp_path / "run", resume=True, progress=steps.note)
    assert len(run.summary["max_drop"]["plans"]) == 1
    assert "observing" not in steps.names


def test_without_a_runtime_the_simulation_decides(originals: Path, tmp_path: Path) -> None:
    run = run_within(9, originals, tmp_path / "run", "paper")
    control = run.summary["max_drop"]
    assert control["judged_in"] == "simulation"
    assert (control["chosen"], len(control["plans"])) == (0, 1)
    assert run.recipe.overrides == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_drop": 0.1}, "max_drop 0.1: .* give `data`"),
        ({"data": Path("Set5")}, "data: .* give `max_drop` as well"),
        ({"max_drop": -1, "data": Path("Set5")}, "max_drop -1: give the dB"),
        ({"max_drop": float("nan"), "data": Path("Set5")}, "max_drop nan: give the dB"),
    ],
)
def test_a_limit_needs_images_and_a_number(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        quantize(small("paper"), model=Copying().eval(), out=tmp_path / "run", **arguments)


def test_images_are_looked_for_before_calibrating(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    steps = Steps()
    with pytest.raises(SrptqError, match="empty"):
        run_within(1, tmp_path / "empty", tmp_path / "run", "paper", progress=steps.note)
    assert steps.names == ["loading network and images"]


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("srptq_plugin.accuracy.judge.world_size", lambda: 2)
    with pytest.raises(ArgumentError, match="max_drop 1: several processes do not share"):
        run_within(1, tmp_path, tmp_path / "run", "paper")
