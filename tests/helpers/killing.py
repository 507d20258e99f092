"""Killing `quantize` and `train` at moments drawn from a seed: `python tests/helpers/killing.py train 100`.

What is left is judged after each: one run or the other, whole, and nothing of a draft once the next has ended.
A training goes on where it was, to the same bits.
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
from srptq_plugin.qat.checkpoint import CHECKPOINT
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.runs.run import RECIPE, TABLE, Run

Files = tuple[bytes, ...]
SMALL = {"calibration": {"patches": 2, "size": 12}}
STEPS = {"steps": 6, "patch": 8, "batch": 2, "every": 1}


def state(folder: Path) -> Files:
    """What a run decided; raises where it is no whole run."""
    run = Run.open(folder)
    if run.table.plan.sites and run.summary["recipe"] == run.recipe.model_dump(mode="json"):
        return (run.folder / RECIPE).read_bytes(), (run.folder / TABLE).read_bytes()
    raise SrptqError(f"{folder}: of two runs")


def quantized(bits: int, out: Path) -> None:
    """Quantize, with these bits."""
    recipe = networks.recipe(bits, "paper", **SMALL)
    quantize(recipe, model=networks.network("shared"), out=out, device="cpu")


def trained(start: Path, images: Path, out: Path) -> None:
    """Train, from where it was."""
    recipe = networks.recipe(4, "paper", training=STEPS, **SMALL)
    resume = out.with_name(f"{out.name}.training") / CHECKPOINT
    train_run(recipe, start, images=images, out=out, resume=resume.is_file(), device="cpu")


def spawn(work: Callable[[], None]) -> int:
    """Do it in a process of its own, as a fork: importing takes longer than the work."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def finished(work: Callable[[], None]) -> float:
    """How long it takes to the end."""
    start = time.monotonic()
    _, status = os.waitpid(spawn(work), 0)
    if status:
        raise SystemExit("the work itself failed")
    return time.monotonic() - start


def killed(work: Callable[[], None], after: float) -> bool:
    """Whether a kill came before the end."""
    child = spawn(work)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_quantize(place: Path, count: int, draw: random.Random) -> int:
    """Kill the one that replaces the other."""
    out, whole = place / "run", dict[int, Files]()
    for bits in (4, 8):
        seconds = finished(lambda bits=bits: quantized(bits, out))
        whole[bits] = state(out)
    hits = 0
    for turn in range(count):
        before = state(out)
        bits = 4 if before == whole[8] else 8
        late = draw.uniform(0.9, 1.05) if turn % 2 else draw.uniform(0, 1)
        hits += killed(lambda bits=bits: quantized(bits, out), seconds * late)
        if state(out) not in (before, whole[bits]):
            raise SystemExit(f"kill {turn}: neither run is whole")
    finished(lambda: quantized(8, out))
    check_clean(out)
    return hits


def kill_train(place: Path, count: int, draw: random.Random) -> int:
    """Kill a training, then let it go on."""
    start, images, out = place / "run", place / "images", place / "trained"
    finished(lambda: quantized(4, start))
    save_images(images)
    seconds = finished(lambda: trained(start, images, out))
    whole, hits = state(out), 0
    for turn in range(count):
        hits += killed(lambda: trained(start, images, out), draw.uniform(0.02, 1.05) * seconds)
        finished(lambda: trained(start, images, out))
        if state(out) != whole:
            raise SystemExit(f"kill {turn}: other bits than those of an uninterrupted training")
        check_clean(out)
    return hits


def save_images(folder: Path) -> None:
    """Three small images."""
    import PIL.Image  # noqa: PLC0415

    folder.mkdir()
    for seed in range(3):
        pixels = to_pixels(networks.images(1, 24, 24, seed)[0], (0.0, 1.0))
        PIL.Image.fromarray(np.asarray(pixels)).save(folder / f"{seed}.png")


def check_clean(out: Path) -> None:
    """Nothing of a draft, of a commit or of a training is left."""
    left = [
        path.name
        for path in (*out.iterdir(), *out.parent.iterdir())
        if ".draft" in path.name or path.name.startswith(".")
    ]
    if left or (out.parent / f"{out.name}.training").exists():
        raise SystemExit(f"left behind: {left}")


def main(kind: str, count: int, seed: int = 0) -> None:
    """Kill so often, and say how many were in time."""
    torch.set_num_threads(1)
    importlib.import_module("srptq_adapters.torchao.torchao_toolkit")  # once, not in each child
    networks.exported("shared")
    with TemporaryDirectory() as folder:
        kill = {"quantize": kill_quantize, "train": kill_train}[kind]
        hits = kill(Path(folder), count, random.Random(seed))  # noqa: S311
    sys.stdout.write(f"{kind}: {hits} of {count} were killed before the end\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
