"""FQSR's Table 5 on the small EDSR of the package: learned intervals, and the calibration loss.

    python benchmarks/fqsr_ablation.py --data DATA --images BSDS399 --rows rows.jsonl --steps 1000

DATA holds Set5 and Set14. IMAGES are the photographs to train on. Every row starts from the same calibrated run and
trains for the same number of steps. It keeps the state with the best score on held-out photographs. Prints Markdown.
Measurements go to the file of rows, and a restarted benchmark skips the known ones.
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
    """A row of the paper's table, as changes of the recipe. `None` stands for the untrained start."""

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
    """A calibrated run, from which each row is trained and scored."""

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
        """Return the scores of a row on every set."""
        run = self.start if model.overrides is None else self._trained(model)
        network = run.table.simulate(run.network)
        scores = {name: mean_scores(network, pairs, run.scale, run.input_range) for name, pairs in self.pairs.items()}
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


def make_key(arguments: argparse.Namespace, model: Model) -> Key:
    """Return everything on which a row depends."""
    setting = (arguments.recipe, str(arguments.scale))
    return (*setting, "0") if model.overrides is None else (*setting, str(arguments.steps), *sorted(model.overrides))


def main() -> None:
    """Measure the missing rows, then print all."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    rows = Rows(arguments.rows)
    missing = [model for model in MODELS if rows.get(make_key(arguments, model)) is None]
    if missing and not arguments.no_measuring:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(arguments, Path(folder))
            for model in missing:
                rows.add(make_key(arguments, model), bench.measure(model))
    print(f"### {arguments.recipe}, EDSR-mini x{arguments.scale}, {arguments.steps} steps\n")
    print(f"| model | | {' | '.join(SETS)} |")
    print("| --- | --- |" + " --- |" * len(SETS))
    for model in MODELS:
        row = rows.get(make_key(arguments, model))
        if row is not None:
            cells = (f"{psnr:.2f} / {ssim:.4f}" for psnr, ssim in (row["scores"][name] for name in SETS))
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
