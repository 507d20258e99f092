"""Hostile checkpoints: `srptq train --resume` after the files of an interrupted training were damaged or edited."""

import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.mutations import Mutation, flips, flips_in_front, replacements, scribbles, truncations
from helpers.photographs import pixels, save
from helpers.sweeping import Sweep

from srptq_plugin.qat.train_run import train_run
from srptq_plugin.utils.checkpoint import CHECKPOINT

Runs = Callable[[str], Path]
UNFINISHED = "trained.training"
"""The folder of an interrupted training, next to its future run."""
RECIPE = networks.recipe(
    8, "paper", calibration={"patches": 2, "size": 12}, training={"steps": 2, "every": 1, "batch": 1, "patch": 8}
)
TRAIN = ("train", "mine.yaml", "--run", "run", "--images", "lr", "--out", "trained", "--device", "cpu", "--resume")


@pytest.fixture(scope="session")
def interrupted(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a training that was interrupted after its first step."""
    folder = tmp_path_factory.mktemp("interrupted")
    shutil.copytree(runs("paper"), folder / "run")
    (folder / "mine.yaml").write_text(RECIPE.to_yaml())
    for n in range(2):
        save(pixels(12, 14, seed=n), folder / "lr" / f"{n}.png")

    def interrupt(step: str, done: int, _total: int) -> None:
        if step == "training" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(
            RECIPE, folder / "run", images=folder / "lr", out=folder / "trained", device="cpu", progress=interrupt
        )
    return folder


@pytest.fixture
def resumed(sweep: Sweep, interrupted: Path) -> Sweep:
    shutil.copytree(interrupted, sweep.place, dirs_exist_ok=True)
    return sweep


def check(sweep: Sweep) -> None:
    sweep(*TRAIN, names=[CHECKPOINT], makes=["trained"])


BYTES = [*replacements()[::2], *truncations(4), *flips(3), *flips_in_front(3, 2000), *scribbles(3)]


@pytest.mark.parametrize("mutation", BYTES, ids=str)
def test_damaged_checkpoints(resumed: Sweep, mutation: Mutation) -> None:
    path = resumed.place / UNFINISHED / CHECKPOINT
    path.write_bytes(mutation(path.read_bytes()))
    check(resumed)


def test_damaged_values_in_checkpoints(resumed: Sweep) -> None:
    path = resumed.place / UNFINISHED / CHECKPOINT
    values = torch.load(path, weights_only=True)["learned"][0].numpy().tobytes()
    content = path.read_bytes()
    assert content.count(values)
    path.write_bytes(content.replace(values, b"\x7f" * len(values)))
    check(resumed)


Change = Callable[[dict[str, Any]], object]


def changed(key: str, value: object) -> Change:
    return lambda state: state.update({key: value})


STATES: Mapping[str, Change] = {
    **{f"no {key}": lambda state, key=key: state.pop(key) for key in ("learned", "average", "log")},
    **{f"no {key}": lambda state, key=key: state.pop(key) for key in ("done", "optimizers")},
    **{f"{key} is nothing": changed(key, None) for key in ("best", "options", "log", "done")},
    **{f"{key} is text": changed(key, "text") for key in ("average", "usual", "optimizers")},
    **{f"{key} is empty": changed(key, []) for key in ("best", "log")},
    "the end without a log": lambda state: state.update(log=[], done=2),
    "it is beyond the end": changed("done", 10**9),
    "it is before the start": changed("done", -5),
    "steps are no number": changed("done", float("nan")),
    "best of another shape": lambda state: state["best"].__setitem__(0, torch.zeros(1)),
    "average of another shape": lambda state: state["average"].__setitem__(0, torch.zeros(77)),
    "learned of another type": lambda state: state["learned"].__setitem__(0, 3),
    "learned is nan": lambda state: state["learned"][0].fill_(float("nan")),
    "a log of numbers": changed("log", [1, 2]),
    "a log of other keys": changed("log", [{"a": 1}]),
    "a log of text": changed("log", [{"step": "a", "psnr": "b", "loss": "c"}]),
    "options of other keys": changed("options", {"a": 1}),
    "another optimizer": changed("optimizers", [{"state": {}, "param_groups": []}]),
}


@pytest.mark.parametrize("name", STATES)
def test_edited_checkpoints(resumed: Sweep, name: str) -> None:
    path = resumed.place / UNFINISHED / CHECKPOINT
    state = torch.load(path, weights_only=True)
    STATES[name](state)
    file = io.BytesIO()
    torch.save(state, file)
    path.write_bytes(file.getvalue())
    check(resumed)


PLACES: Mapping[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/null")),
}


@pytest.mark.parametrize("name", PLACES)
def test_checkpoints_that_cannot_be_read(resumed: Sweep, name: str) -> None:
    PLACES[name](resumed.place / UNFINISHED / CHECKPOINT)
    check(resumed)


def test_a_file_in_place_of_the_folder(resumed: Sweep) -> None:
    shutil.rmtree(resumed.place / UNFINISHED)
    (resumed.place / UNFINISHED).write_text("mine")
    resumed(*TRAIN[:-1], names=[UNFINISHED])
