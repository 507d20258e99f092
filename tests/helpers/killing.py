"""Killing `quantize` and `train` at random moments: `python tests/helpers/killing.py train 100`.

After each kill the folder holds the old run or the new one, whole. The next run leaves no draft behind.
A killed training resumes and ends with the same bits as an uninterrupted one. So does a killed `quantize`, with
`resume`, after one kill or after several in a row.
"""

import importlib
import os
import random
import shutil
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
from srptq_plugin.reconstruction import pac_state
from srptq_plugin.runs.run import RECIPE, SUMMARY, TABLE, Run
from srptq_plugin.utils.checkpoint import CHECKPOINT

Files = tuple[bytes, ...]
SMALL = {"calibration": {"patches": 2, "size": 12}}
TUNED = {
    "calibration": {"patches": 4, "size": 16, "batch": 2},
    "equalize": True,
    "float_above": 0.02,
    "reconstruction": {"name": "pac", "epochs": 6, "weights": "free", "start": "image", "bias_correction": True},
}
"""Keys of a recipe with every phase."""
AGAIN = 0.4
"""The share of killed runs whose next run is killed as well."""
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


def spawn(work: Callable[[], object]) -> int:
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


def resume_toy(out: Path) -> None:
    """Quantize with all phases, from where an earlier run was killed."""
    pac_state.SECONDS, pac_state.SHARE = 0.0, float("inf")  # every step is saved
    recipe = networks.recipe(8, "onnxruntime", **TUNED)
    rounded = recipe.weights.model_copy(update={"rounding": "compensated"})
    recipe = recipe.model_copy(update={"weights": rounded})
    quantize(recipe, model=networks.network("edsr"), out=out, resume=True, device="cpu")


def read_all(folder: Path) -> dict[str, bytes]:
    """Return all files of a run but its summary, which holds seconds."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != SUMMARY}


def kill_resume(place: Path, count: int, draw: random.Random) -> int:
    """Kill runs, often several times in a row, and resume them. Return the number of kills that came in time."""
    out = place / "run"
    seconds = time_to_end(lambda: resume_toy(out))
    whole, hits = read_all(out), 0
    for turn in range(count):
        hits += kill_after(lambda: resume_toy(out), draw.uniform(0.02, 1.05) * seconds)
        if draw.random() < AGAIN:
            continue
        time_to_end(lambda: resume_toy(out))
        if read_all(out) != whole:
            raise SystemExit(f"kill {turn}: the bits differ from an uninterrupted run")
        check_clean(out)
        shutil.rmtree(out)
    time_to_end(lambda: resume_toy(out))
    if read_all(out) != whole:
        raise SystemExit("the last run: the bits differ from an uninterrupted run")
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
    if left or any((out.parent / f"{out.name}.{kind}").exists() for kind in ("training", "quantizing")):
        raise SystemExit(f"left behind: {left}")


def main(kind: str, count: int, seed: int = 0) -> None:
    """Kill `count` times and print the number of kills that came in time."""
    torch.set_num_threads(1)
    importlib.import_module("srptq_adapters.torchao.torchao_toolkit")  # once, not in each child
    networks.exported("shared")
    with TemporaryDirectory() as folder:
        kill = {"quantize": kill_quantize, "train": kill_train, "resume": kill_resume}[kind]
        hits = kill(Path(folder), count, random.Random(seed))  # noqa: S311
    sys.stdout.write(f"{kind}: {hits} of {count} were killed before the end\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
