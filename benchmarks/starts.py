"""Training from calibrated bounds and from other starts, with the same quantizer, patches, steps and seed.

    python benchmarks/starts.py --data DATA --images BSDS399 --rows rows.jsonl --steps 1000

DATA holds Set5 and Set14. IMAGES are the photographs to train on. Some of them are held out, and training keeps the
state with the best score on these. EDSR-mini x4, head and tail 8 bits. Each start is scored, trained and scored again.
Prints Markdown. Measurements go to the file of rows, and a restarted benchmark skips the known ones.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rows import Key, Rows

from srptq_plugin import quantize
from srptq_plugin.evaluation.pairs import load_pairs
from srptq_plugin.evaluation.scoring import mean_scores
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.runs.run import TRAINED, Run

SETS, SCALE = ("Set5", "Set14"), 4
SETTINGS: Mapping[str, int] = {"steps": 1000, "batch": 8, "every": 100, "seed": 0}
"""Options of every training and their defaults."""
STARTS: Mapping[str, Sequence[str]] = {
    "min-max": ("activations.observer=minmax", "reconstruction=null"),
    "own": ("reconstruction=null",),
    "DBDC + PaC": ("activations.observer=dbdc",),
    "DBDC + PaC, weights too": ("activations.observer=dbdc", "reconstruction.weights=free"),
}
OURS = "DBDC + PaC", "DBDC + PaC, weights too"
HEAD = "quantizer", "bits", "start", *SETS, *(f"{name}, trained" for name in SETS), "PaC after", "weights too after"
OWN: Mapping[str, Sequence[str]] = {
    "bounded": (),
    "pams": ("activations.options.percentile=0",),
    "fqsr": ("activations.options.percentile=0", "calibration.patches=320"),
    "ddtb": ("activations.options.percentile=1",),
}
"""The start in each quantizer's paper, as overrides. No paper has the plain bounded quantizer."""


@dataclass(frozen=True)
class Training:
    """A quantizer at a number of bits, from a start."""

    quantizer: str
    bits: int
    start: str

    @property
    def overrides(self) -> list[str]:
        """The overrides that turn the recipe `paper-w4a4` into this training's."""
        bits = [f"weights.bits={self.bits}", f"activations.bits={self.bits}"]
        own = ["activations.observer=percentile", *OWN[self.quantizer]] if self.start == "own" else []
        return [*bits, f"activations.quantizer={self.quantizer}", *own, *STARTS[self.start]]


def trainings(bits: Sequence[int]) -> Iterator[Training]:
    """Yield all trainings in the table, with the numbers of bits in `bits`."""
    for width in bits:
        for quantizer in OWN:
            yield from (Training(quantizer, width, start) for start in STARTS if start != "own" or OWN[quantizer])


class Bench:
    """Test images and a folder for runs, with which trainings are measured."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.pairs = {name: load_pairs(arguments.data / name, SCALE, strict=True).usable for name in SETS}

    def measure(self, training: Training) -> dict[str, Any]:
        """Calibrate and train. Return the scores before and after, and the held-out PSNR of each validation."""
        folder = self.folder / "-".join((training.quantizer, str(training.bits), training.start.replace(" ", "")))
        photographs: Path = self.arguments.images
        start = quantize(
            "paper-w4a4",
            model="edsr-mini",
            images=photographs,
            scale=SCALE,
            out=folder / "start",
            overrides=training.overrides,
        )
        settings = [f"training.{key}={getattr(self.arguments, key)}" for key in SETTINGS]
        end = train_run(
            "paper-w4a4",
            start.folder,
            images=photographs,
            scale=SCALE,
            out=folder / "end",
            overrides=[*training.overrides, *settings],
        )
        log = [json.loads(line) for line in (end.folder / TRAINED).read_text().splitlines()]
        row = {"before": self._scores(start), "after": self._scores(end), "log": [(r["step"], r["psnr"]) for r in log]}
        print(f"{training}: {row}", file=sys.stderr, flush=True)
        return row

    def _scores(self, run: Run) -> dict[str, float]:
        network = run.table.simulate(run.network)
        return {name: mean_scores(network, pairs, SCALE, run.input_range)[0] for name, pairs in self.pairs.items()}


def main() -> None:
    """Measure the missing rows, then print all."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    rows = Rows(arguments.rows)
    quantizers, starts = arguments.quantizers, arguments.starts
    selected = [job for job in trainings(arguments.bits) if job.quantizer in quantizers and job.start in starts]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, Path(folder))
        for training in selected:
            if rows.get(_key(arguments, training)) is None and not arguments.no_measuring:
                rows.add(_key(arguments, training), bench.measure(training))
    print(_line(HEAD), _line("---" for _ in HEAD), sep="\n")
    for training in selected:
        row = rows.get(_key(arguments, training))
        if row is not None:
            cells = [training.quantizer, str(training.bits), training.start]
            cells += [f"{row[when][name]:.2f}" for when in ("before", "after") for name in SETS]
            ours = (rows.get(_key(arguments, replace(training, start=start))) for start in OURS)
            cells += ["" if our is None or training.start in OURS else _as_good_after(row, our) for our in ours]
            print(_line(cells))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _key(arguments: argparse.Namespace, training: Training) -> Key:
    setting = (str(getattr(arguments, key)) for key in SETTINGS)
    return (*setting, training.quantizer, str(training.bits), training.start)


def _as_good_after(row: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Return the steps after which our training reaches this row's best PSNR on the held-out photographs."""
    final = max(psnr for _, psnr in row["log"])
    reached = (step for step, psnr in ours["log"] if psnr >= final)
    return str(next(reached, "never"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "images", "rows"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--quantizers", nargs="+", default=list(OWN), choices=list(OWN))
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=list(STARTS))
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 2])
    for name, default in {**SETTINGS, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--no-measuring", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
