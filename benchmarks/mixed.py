"""Bits by tensor compared with uniform bits at the same BitOPs, with DBDC and without tuning.

    PYTHONPATH=examples python benchmarks/mixed.py --data DATA --images BSDS399 --weights WEIGHTS --rows rows.jsonl

DATA holds Set5 and Set14, which no choice depends on. IMAGES are photographs for calibration and for measuring noise,
downscaled by the network's factor. Prints Markdown. Networks that are in the file of rows are not measured again.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from paper_tables import NETWORKS, Subject
from rows import Rows

from srptq_plugin.analysis.precision import Budget, Precision, Unit
from srptq_plugin.analysis.widths import Uniform, at_every_width, mixed
from srptq_plugin.calibration.inputs import Inputs, Source
from srptq_plugin.evaluation.pairs import load_pairs
from srptq_plugin.evaluation.scoring import mean_scores
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry

RECIPE, SETS, PATCHES = "paper-w4a4", ("Set5", "Set14"), 8
WIDTHS, COMPARED = (3, 4, 5, 6, 7, 8), (4, 5, 6)
SHOWN = ("EDSR-mini x4", "SRGAN x4", "IMDN x4")
UNITS: Mapping[str, Unit] = {"by tensor": "site", "by stage": "stage"}
TOLERANCE = 1 + 1e-9
"""Factor that keeps the uniform plan itself within its budget."""


class Bench:
    """A network that is measured once at every number of bits and scored with any plan of bits."""

    def __init__(self, subject: Subject, arguments: argparse.Namespace) -> None:
        self.scale = subject.scale
        weights = arguments.weights / subject.weights if subject.weights else None
        args = {"upscale": subject.scale} if subject.model != "srgan" else {}
        bound = BoundRecipe.resolve(RECIPE, Registry(), images=arguments.images, scale=subject.scale)
        self.inputs = Inputs.load(bound, Source(subject.model, weights, args))
        self.pairs = {name: load_pairs(arguments.data / name, subject.scale, strict=True).usable for name in SETS}
        self.uniforms = at_every_width(self.inputs, PATCHES, WIDTHS)
        self.precisions = {name: Precision(self.uniforms, unit) for name, unit in UNITS.items()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each uniform number of bits, then rows of mixed bits at the same BitOPs."""
        for uniform in self.uniforms:
            if uniform.bits in COMPARED:
                yield from self._compare(uniform)

    def _compare(self, uniform: Uniform) -> Iterator[dict[str, Any]]:
        everywhere = dict.fromkeys(uniform.noise, uniform.bits)
        problem, eight = self.precisions["by tensor"].problem, self.precisions["by tensor"].eight
        share = problem.cost("bops", everywhere) / problem.cost("bops", eight)
        yield {"bits": uniform.bits, "how": "everywhere", "bops": share, "scores": self._scores(everywhere)}
        for name, precision in self.precisions.items():
            mixture = precision.within(Budget("bops", share * TOLERANCE))
            yield {"bits": uniform.bits, "how": name, "bops": mixture.bops, "scores": self._scores(mixture.bits)}

    def _scores(self, bits: Mapping[str, int]) -> dict[str, float]:
        network = mixed(self.uniforms, bits).simulate(self.uniforms[0].subject.network)
        input_range = self.inputs.loaded.record.input_range
        return {name: mean_scores(network, pairs, self.scale, input_range)[0] for name, pairs in self.pairs.items()}


def main() -> None:
    """Measure the missing networks, then print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    rows = Rows(arguments.rows)
    print("| network | BitOPs of 8 bits | bits | Set5 | Set14 |")
    print("| --- | --- | --- | --- | --- |")
    for subject in NETWORKS:
        if subject.label in arguments.only:
            if rows.get(("mixed", subject.label)) is None:
                rows.add(("mixed", subject.label), {"rows": list(Bench(subject, arguments).rows())})
            _print(subject, rows)


def _print(subject: Subject, rows: Rows) -> None:
    for row in (rows.get(("mixed", subject.label)) or {})["rows"]:
        how = f"{row['bits']} everywhere" if row["how"] == "everywhere" else f"mixed {row['how']}"
        scores = " | ".join(f"{row['scores'][name]:.2f}" for name in SETS)
        print(f"| {subject.label} | {row['bops']:.1%} | {how} | {scores} |", flush=True)
    print(subject.label, "done", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "images", "weights", "rows"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=SHOWN, choices=SHOWN)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
