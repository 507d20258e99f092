"""FQSR's Table 5 in kind, on the small EDSR that comes with the package: learned intervals, and the calibration loss.

    python benchmarks/fqsr_ablation.py --data DATA --images BSDS399 --rows rows.jsonl --steps 1000

DATA holds Set5 and Set14; IMAGES are photographs, which are what is learned. Every row starts from the same calibrated
run and trains for as many steps; what is kept is what validated best on photographs held out. Prints Markdown. Each
measurement is added to the file of rows, and one that is there is not taken again: started again, it goes on.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rows import Key, Rows

from srptq_plugin import quantize
from srptq_plugin.evaluation.pairs import load_pairs
from srptq_plugin.evaluation.scoring import mean_scores
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.runs.run import Run

SETS = ("Set5", "Set14")
FIXED, WITHOUT_LOSS = "training.bound_rate=0", "training.calibration=0"


@dataclass(frozen=True)
class Model:
    """A row of the paper's table, as changes of the recipe; `None` is what training starts from."""

    number: str
    name: str
    overrides: Sequence[str] | None


MODELS = (
    Model("", "calibrated, not trained", None),
    Model("1", "intervals fixed", (FIXED, WITHOUT_LOSS)),
    Model("2", "intervals learn (DAIA)", (WITHOUT_LOSS,)),
    Model("3", "and the calibration loss (SQCL)", ()),
)


class Bench:
    """Calibrates once, trains each row from there, and scores it."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        scale = arguments.scale
        self.pairs = {name: load_pairs(arguments.data / name, scale, strict=True).usable for name in SETS}
        self.start = quantize(
            arguments.recipe,
            model="edsr-mini",
            model_args={"upscale": str(scale)},
            images=arguments.images,
            scale=scale,
            out=folder / "start",
        )

    def measure(self, model: Model) -> dict[str, Any]:
        """The scores of a row on every set."""
        run = self.start if model.overrides is None else self._trained(model)
        network, how = run.table.simulate(run.network), (run.scale, run.input_range)
        scores = {name: mean_scores(network, pairs, *how) for name, pairs in self.pairs.items()}
        print(f"{model.name}: {scores}", file=sys.stderr, flush=True)
        return {"scores": scores}

    def _trained(self, model: Model) -> Run:
        return train_run(
            self.arguments.recipe,
            self.start.folder,
            images=self.arguments.images,
            scale=self.arguments.scale,
            out=self.folder / f"trained-{model.number}",
            overrides=[f"training.steps={self.arguments.steps}", *(model.overrides or ())],
        )


def key(arguments: argparse.Namespace, model: Model) -> Key:
    """What makes two measurements the same."""
    setting = (arguments.recipe, str(arguments.scale))
    return (*setting, "0") if model.overrides is None else (*setting, str(arguments.steps), *sorted(model.overrides))


def main() -> None:
    """Measure what is missing, then print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    rows = Rows(arguments.rows)
    missing = [model for model in MODELS if rows.of(key(arguments, model)) is None]
    if missing and not arguments.no_measuring:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(arguments, Path(folder))
            for model in missing:
                rows.add(key(arguments, model), bench.measure(model))
    print(f"### {arguments.recipe}, EDSR-mini x{arguments.scale}, {arguments.steps} steps\n")
    print(f"| model | | {' | '.join(SETS)} |")
    print("| --- | --- |" + " --- |" * len(SETS))
    for model in MODELS:
        found = rows.of(key(arguments, model))
        if found is not None:
            cells = (f"{psnr:.2f} / {ssim:.4f}" for psnr, ssim in (found["scores"][name] for name in SETS))
            print(f"| {model.number} | {model.name} | {' | '.join(cells)} |")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "images", "rows"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--recipe", default="paper-w4a4-fqsr-s32")
    parser.add_argument("--scale", type=int, choices=(2, 4), default=2)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-measuring", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
