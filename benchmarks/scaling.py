"""What several processes exchange when they quantize and analyze a network.

    python benchmarks/scaling.py [--model edsr --weights edsr_x4.pth] [--processes 2 4] [--patches 16 32]

Starts processes of one thread each on the CPU, and counts the bytes that the first sends and receives in each phase.
Prints Markdown.
"""

import argparse
import pickle
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from srptq_plugin import quantize
from srptq_plugin.analysis.analyze import analyze
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.recipes.recipe import Recipe

KIB = 1024
BATCH, STEP = 4, 4
"""Patches in a batch that is observed, and in a step of PaC, of all processes together."""
COLUMNS = ("groups", "observing, a batch", "tuning, a step", "states", "analyzing, a part", "all")


class Counter:
    """Counts the bytes that this process exchanges, by the phase that was reported last."""

    def __init__(self) -> None:
        self.phase = ""
        self.bytes: dict[str, int] = defaultdict(int)
        for name in ("all_reduce", "all_gather_object", "gather_object", "broadcast_object_list"):
            setattr(dist, name, self._counted(name, getattr(dist, name)))

    def _counted(self, name: str, exchange: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> None:
            exchange(*arguments)
            # A state is broadcast when its phase is over.
            self.bytes["states" if name == "broadcast_object_list" else self.phase] += _size(arguments)

        return counted

    def __call__(self, what: str, _done: int, _total: int) -> None:
        """Note the phase."""
        self.phase = what


def _size(arguments: tuple[Any, ...]) -> int:
    """Return the bytes of a tensor, or of all objects that this process has after an exchange."""
    first = arguments[0]
    if isinstance(first, torch.Tensor):
        return first.numel() * first.element_size()
    return max(len(pickle.dumps(argument)) for argument in arguments)


def main() -> None:
    """Measure each number of processes and patches, and print a row for each."""
    arguments = _arguments()
    print(f"| processes | patches | {' | '.join(COLUMNS)} |")
    print("| --- " * (2 + len(COLUMNS)) + "|")
    for count in arguments.processes:
        for patches in arguments.patches:
            with tempfile.TemporaryDirectory() as folder:
                work: Any = (count, patches, folder, arguments)
                multiprocessing.spawn(_work, work, count)  # pyright: ignore[reportPrivateImportUsage]
                row = torch.load(Path(folder) / "row.pt")
            print(f"| {count} | {patches} | {' | '.join(row)} |", flush=True)


def _work(rank: int, count: int, patches: int, folder: str, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=count)
    counter, out = Counter(), Path(folder) / "run"
    keys = {"calibration": {"patches": patches, "batch": BATCH}, "reconstruction": {"epochs": 1, "batch": STEP}}
    changes = [f"{section}.{key}={value}" for section, values in keys.items() for key, value in values.items()]
    chosen: Any = {"model": arguments.model, "weights": arguments.weights, "device": "cpu"}
    run = quantize(Recipe.load("paper-w4a4", changes), **chosen, out=out, progress=counter)
    analysis = analyze(Subject.of_run(run, patches=2), kinds=["stage"], progress=counter)
    if rank == 0:
        sizes = counter.bytes
        kib = (
            sizes["observing"] / (patches / BATCH),
            sizes["tuning"] / (patches / STEP),
            sizes["states"],
            sizes["analyzing"] / len(analysis.parts),
            sum(sizes.values()),
        )
        row = [str(len(run.table.plan.groups)), *(f"{size / KIB:,.1f} KiB" for size in kib)]
        torch.save(row, Path(folder) / "row.pt")
    dist.barrier()
    dist.destroy_process_group()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--patches", type=int, nargs="+", default=[16, 32])
    return parser.parse_args()


if __name__ == "__main__":
    main()
