"""The paper's tables on available networks: every method, number of bits, test set and scale.

    PYTHONPATH=examples python benchmarks/paper_tables.py --data DATA --images BSDS399 --weights WEIGHTS \
        --rows rows.jsonl

DATA holds Set5, Set14 and B100. WEIGHTS holds files such as IMDN_x4.safetensors (see NETWORKS). Prints Markdown.
Measurements go to the file of rows, and a restarted benchmark skips the known ones. `--only` selects networks, so
several processes can share the work. `--table` selects tables by a part of their title, and `--bits` rows.
`--no-measuring` prints the rows in the file.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from paper_methods import (
    FLOAT,
    Method,
    ablation,
    body_only,
    every_width,
    fqsr,
    literal_dbdc,
    literal_pac,
    options,
    training_free,
    weights_and_activations,
)
from rows import Key, Rows

from srptq_plugin import Recipe, quantize
from srptq_plugin.data.images import load_images
from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.pairs import Pair, load_pairs
from srptq_plugin.evaluation.scoring import Upscale, mean_scores
from srptq_plugin.models.loading import load_model

ALL, SOME = ("Set5", "Set14", "B100"), ("Set5", "Set14")


@dataclass(frozen=True)
class Subject:
    """A network, where its weights are, and the sets that it is scored on."""

    name: str
    model: str
    scale: int
    sets: Sequence[str]
    weights: str | None = None

    @property
    def label(self) -> str:
        """The name in the tables and in `--only`."""
        return f"{self.name} x{self.scale}"


NETWORKS = (
    Subject("EDSR-mini", "edsr-mini", 4, ALL),
    Subject("EDSR-mini", "edsr-mini", 2, SOME),
    Subject("IMDN", "imdn:imdn", 4, SOME, "IMDN_x4.safetensors"),
    Subject("IMDN", "imdn:imdn", 2, SOME, "IMDN_x2.safetensors"),
    Subject("SRGAN", "srgan", 4, SOME, "SRGAN_netG_x4.safetensors"),
    Subject("SRGAN", "srgan", 2, SOME, "SRGAN_netG_x2.safetensors"),
)


@dataclass(frozen=True)
class Table:
    """A title, its rows, and a filter of networks."""

    title: str
    rows: Callable[[], Iterable[Method]]
    includes: Callable[[Subject], bool] = lambda _: True


def _x4(subject: Subject) -> bool:
    return subject.scale == 4  # noqa: PLR2004


TABLES = (
    Table("Table 2: weights only, activations only, both", lambda: (FLOAT, *weights_and_activations()), _x4),
    Table("Tables 3 and 4: methods", every_width),
    Table("Table 5: body only", lambda: (FLOAT, *body_only()), lambda subject: subject.name == "EDSR-mini"),
    Table("Table 6: ablation", lambda: (FLOAT, *ablation()), _x4),
    Table("To the letter: DBDC, one choice changed", lambda: (FLOAT, *literal_dbdc()), _x4),
    Table(
        "To the letter: PaC, one choice changed",
        lambda: (FLOAT, *literal_pac()),
        lambda subject: subject.label == "EDSR-mini x4",
    ),
    Table("Without tuning, by each image: DAQ's Table 2", lambda: (FLOAT, *training_free()), _x4),
    Table("FQSR's Tables 2 to 4, before training", lambda: (FLOAT, *fqsr()), _x4),
    Table("Options", lambda: (FLOAT, *options()), lambda subject: subject.label == "EDSR-mini x4"),
)


class Bench:
    """A subject's float network and test images, from which methods are measured."""

    def __init__(self, subject: Subject, data: Path, images: Path, weights: Path) -> None:
        self.subject, self.images = subject, images
        self.weights = weights / subject.weights if subject.weights else None
        self.args = {"upscale": str(subject.scale)} if subject.model != "srgan" else {}
        self.loaded = load_model(subject.model, self.weights, self.args)
        self.pairs = {name: load_pairs(data / name, subject.scale, strict=True).usable for name in subject.sets}

    def measure(self, method: Method) -> dict[str, Any]:
        """Return the scores of a method on every set."""
        network, loss = self._network(method)
        scores = {name: self._scores(network, pairs) for name, pairs in self.pairs.items()}
        print(f"{self.subject.label} {method.name} {method.bits}: {scores}", file=sys.stderr, flush=True)
        return {"scores": scores, **loss}

    def _scores(self, network: Upscale, pairs: Sequence[Pair]) -> tuple[float, float] | None:
        """Return PSNR and SSIM, or None if the network overflows, as with linear quantization of 2 bits."""
        try:
            return mean_scores(network, pairs, self.subject.scale, self.loaded.record.input_range)
        except SrptqError as error:
            print(f"{self.subject.label}: {error}", file=sys.stderr, flush=True)
            return None

    def _network(self, method: Method) -> tuple[Upscale, dict[str, Any]]:
        """Return the quantized network, and the loss of its reconstruction before and after."""
        if method.recipe is None:
            return self.loaded.module, {}
        chosen = Recipe.load(method.recipe, method.overrides)
        with tempfile.TemporaryDirectory() as folder:
            run = quantize(
                chosen,
                model=self.subject.model,
                weights=self.weights,
                model_args=self.args,
                images=None if chosen.calibration.choose == "noise" else self.images,
                out=Path(folder) / "run",
            )
            figures = run.summary["reconstruction"]
            loss = {"loss": [figures["loss_before"], figures["loss_after"]]} if "loss_after" in figures else {}
            return run.table.simulate(run.network), loss


def make_key(subject: Subject, method: Method) -> Key:
    """Return everything on which a row depends."""
    return (subject.label, method.recipe or "float", *sorted(method.overrides))


def main() -> None:
    """Measure the missing rows, then print all."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    subjects = [subject for subject in NETWORKS if not arguments.only or subject.label in arguments.only]
    tables = [table for table in TABLES if arguments.table in table.title]
    rows = Rows(arguments.rows)
    if not arguments.no_measuring:
        with tempfile.TemporaryDirectory() as folder:
            for subject in subjects:
                _measure(subject, tables, rows, arguments, Path(folder))
    for table in tables:
        _print(table, subjects, rows)


def _measure(
    subject: Subject, tables: Sequence[Table], rows: Rows, arguments: argparse.Namespace, folder: Path
) -> None:
    methods = [method for table in tables if table.includes(subject) for method in table.rows()]
    chosen = [method for method in methods if not arguments.bits or method.bits in arguments.bits]
    missing = [method for method in chosen if rows.get(make_key(subject, method)) is None]
    if not missing:
        return
    bench = Bench(subject, arguments.data, downscale_once(arguments, subject, folder), arguments.weights)
    for method in missing:
        # Tables share methods, so a row may have been added since.
        if rows.get(make_key(subject, method)) is None:
            rows.add(make_key(subject, method), bench.measure(method))


def downscale_once(arguments: argparse.Namespace, subject: Subject, folder: Path) -> Path:
    """Write the photographs downscaled by the subject's factor, unless they are there. Return their folder."""
    downscaled = folder / f"x{subject.scale}"
    if not downscaled.is_dir():
        downscaled.mkdir()
        for image in load_images(arguments.images, scale=subject.scale):
            PIL.Image.fromarray(image.pixels).save(downscaled / f"{Path(image.name).stem}.png")
    return downscaled


def _print(table: Table, subjects: Sequence[Subject], rows: Rows) -> None:
    included = list(filter(table.includes, subjects))
    if included:
        print(f"### {table.title}\n")
    for subject in included:
        print(f"| {subject.label} | bits | {' | '.join(subject.sets)} |")
        print("| --- | --- |" + " --- |" * len(subject.sets))
        known = [(method, row) for method in table.rows() if (row := rows.get(make_key(subject, method))) is not None]
        for method, row in known:
            rivals = [rival_row["scores"] for rival, rival_row in known if rival.bits == method.bits]
            cells = [_cell(row["scores"][name], [scores[name] for scores in rivals]) for name in subject.sets]
            print(f"| {method.name} | {method.bits} | {' | '.join(cells)} |")
        print()


def _cell(scores: Sequence[float] | None, rivals: Sequence[Sequence[float] | None]) -> str:
    """Format PSNR and SSIM. The highest PSNR of several rows is bold."""
    if scores is None:
        return "overflows"
    text = f"{scores[0]:.2f} / {scores[1]:.4f}"
    return f"**{text}**" if len(rivals) > 1 and scores[0] == max(rival[0] for rival in rivals if rival) else text


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "images", "weights", "rows"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[], choices=[subject.label for subject in NETWORKS])
    parser.add_argument("--table", default="")
    parser.add_argument("--bits", action="append", default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-measuring", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
