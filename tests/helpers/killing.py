"""Killing `quantize` and `train` at random moments: `python tests/helpers/killing.py train 100`.

After each kill the folder holds the old run or the new one, whole. The next run leaves no draft behind.
A killed training resumes and ends with the same bits as an uninterrupted one.
"""

import importlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from helpers import networks
from srptq_plugin.data.images import to_pixels
from srptq_plugin.errors import SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.qat.training_checkpoint import CHECKPOINT
from srptq_plugin.runs.run import RECIPE, TABLE, Run

Files = tuple[bytes, ...]
SMALL = {"calibration": {"patches": 2, "size": 12}}
STEPS = {"steps": 6, "patch": 8, "batch": 2, "every": 1}


def read_run(folder: Path) -> Files:
    """Return the recipe and the quant table of a run. Raise SrptqError unless its files fit together."""
    run = Run.open(folder)
    if run.table.plan.sites and run.summary["recipe"] == run.recipe.model_dump(mode="json"):
        return (run.folder / RECIPE).read_bytes(), (run.folder / TABLE).read_bytes()
    raise SrptqError(f"{folder}: files of two runs")


def quantize_toy(bits: int, out: Path) -> None:
    recipe = networks.recipe(bits, "paper", **SMALL)
    quantize(recipe, model=networks.network("shared"), out=out, device="cpu")


def train_toy(start: Path, images: Path, out: Path) -> None:
    """Train a run, from its last checkpoint if there is one."""
    recipe = networks.recipe(4, "paper", training=STEPS, **SMALL)
    resume = out.with_name(f"{out.name}.training") / CHECKPOINT
    train_run(recipe, start, images=images, out=out, resume=resume.is_file(), device="cpu")


def spawn(work: Callable[[], None]) -> int:
    """Do some work in a child process and return its id."""
    child = os.fork()  # a new interpreter would import for longer than it works
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def time_to_end(work: Callable[[], None]) -> float:
    """Do some work in a child process and return how many seconds it took."""
    start = time.monotonic()
    _, status = os.waitpid(spawn(work), 0)
    if status:
        raise SystemExit("the work itself failed")
    return time.monotonic() - start


def kill_after(work: Callable[[], None], after: float) -> bool:
    """Do some work in a child process, kill it, and return True if the kill came before the end."""
    child = spawn(work)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_quantize(place: Path, count: int, draw: random.Random) -> int:
    """Kill runs that replace another run. Return the number of kills that came in time."""
    out, whole = place / "run", dict[int, Files]()
    for bits in (4, 8):
        seconds = time_to_end(lambda bits=bits: quantize_toy(bits, out))
        whole[bits] = read_run(out)
    # Every second kill is drawn near the end, where files are replaced.
    hits = 0
    for turn in range(count):
        before = read_run(out)
        bits = 4 if before == whole[8] else 8
        late = draw.uniform(0.9, 1.05) if turn % 2 else draw.uniform(0, 1)
        hits += kill_after(lambda bits=bits: quantize_toy(bits, out), seconds * late)
        if read_run(out) not in (before, whole[bits]):
            raise SystemExit(f"kill {turn}: neither run is whole")
    time_to_end(lambda: quantize_toy(8, out))
    check_clean(out)
    return hits


def kill_train(place: Path, count: int, draw: random.Random) -> int:
    """Kill trainings and resume them. Return the number of kills that came in time."""
    start, images, out = place / "run", place / "images", place / "trained"
    time_to_end(lambda: quantize_toy(4, start))
    save_images(images)
    seconds = time_to_end(lambda: train_toy(start, images, out))
    whole, hits = read_run(out), 0
    for turn in range(count):
        hits += kill_after(lambda: train_toy(start, images, out), draw.uniform(0.02, 1.05) * seconds)
        time_to_end(lambda: train_toy(start, images, out))
        if read_run(out) != whole:
            raise SystemExit(f"kill {turn}: the bits differ from an uninterrupted training")
        check_clean(out)
    return hits


def save_images(folder: Path) -> None:
    """Write three small images."""
    import PIL.Image  # noqa: PLC0415

    folder.mkdir()
    for seed in range(3):
        pixels = to_pixels(networks.images(1, 24, 24, seed)[0], (0.0, 1.0))
        PIL.Image.fromarray(np.asarray(pixels)).save(folder / f"{seed}.png")


def check_clean(out: Path) -> None:
    """Exit with an error if a draft, a commit or the files of a training are left."""
    left = [
        path.name
        for path in (*out.iterdir(), *out.parent.iterdir())
        if ".draft" in path.name or path.name.startswith(".")
    ]
    if left or (out.parent / f"{out.name}.training").exists():
        raise SystemExit(f"left behind: {left}")


def main(kind: str, count: int, seed: int = 0) -> None:
    """Kill `count` times and print the number of kills that came in time."""
    torch.set_num_threads(1)
    importlib.import_module("srptq_adapters.torchao.torchao_toolkit")  # once, not in each child
    networks.exported("shared")
    with TemporaryDirectory() as folder:
        kill = {"quantize": kill_quantize, "train": kill_train}[kind]
        hits = kill(Path(folder), count, random.Random(seed))  # noqa: S311
    sys.stdout.write(f"{kind}: {hits} of {count} were killed before the end\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
