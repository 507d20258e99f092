"""The tables of a report, as cells of text: an overview, scores by image, costs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srptq_plugin.costs.units import scaled
from srptq_plugin.evaluation.outputs import BICUBIC, FLOAT, RUNTIME, SIMULATED
from srptq_plugin.evaluation.scores import Score
from srptq_plugin.report.report import Report
from srptq_plugin.report.run_report import RunReport

MINUS, TIMES, NONE = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{EM DASH}"
COSTS = (("arithmetic", "bops", "BitOPs"), ("model", "size", "B"), ("feature maps, at most", "memory", "B"))


@dataclass(frozen=True)
class Figure:
    """A figure in large type, with words below it. `good` colors it, and None leaves it as it is."""

    value: str
    words: str
    good: bool | None = None


@dataclass(frozen=True)
class Cell:
    """A score in a table: PSNR, SSIM, and the change against the float network."""

    psnr: str
    ssim: str
    change: str = ""


@dataclass(frozen=True)
class ScoreTable:
    """Scores by image, with the means last. Columns belong to runs, or to none."""

    groups: Sequence[tuple[str, int]]
    """The names above the columns, and how many columns each spans."""
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    means: Sequence[Cell]

    @classmethod
    def of(cls, report: Report) -> "ScoreTable":
        """Arrange the scores of all runs."""
        columns = list(_columns(report))
        groups = [(run.name, sum(number == n for number, _ in columns)) for n, run in enumerate(report.runs)]
        shared = sum(number is None for number, _ in columns)
        by_place = [{(s.image, s.output): s for s in run.evaluation.scores} for run in report.runs]
        images = dict.fromkeys(score.image for score in report.runs[0].evaluation.scores)
        rows = [(image, [_cell(by_place[n or 0], image, name) for n, name in columns]) for image in images]
        means = [_mean(report.runs[n or 0], name) for n, name in columns]
        return cls([*([("", shared)] if shared else []), *groups], [name for _, name in columns], rows, means)


def headline(run: RunReport) -> Sequence[Figure]:
    """Return the figures that say most about a run."""
    return [*_quality(run), *_verdict(run), *_savings(run)]


def overview(report: Report) -> Sequence[tuple[str, Sequence[str]]]:
    """Return rows of facts, with a cell for each run."""
    facts = [dict(_facts(run)) for run in report.runs]
    return [
        (label, [own.get(label, NONE) for own in facts])
        for label in dict.fromkeys(label for own in facts for label in own)
    ]


def costs(report: Report) -> Sequence[tuple[str, Sequence[tuple[str, str, str]]]]:
    """Return rows of costs. Each run has three cells: float, quantized, and the ratio."""
    return [(label, [_cost(run, key, unit) for run in report.runs]) for label, key, unit in COSTS]


def stage_costs(run: RunReport) -> Sequence[tuple[str, str, float, str]]:
    """Return the stages of a run: name, multiplications, their share, and how much arithmetic is saved."""
    total = max(1, run.cost["macs"])
    return [
        (stage["stage"], scaled(stage["macs"]), stage["macs"] / total, _ratio(stage["float_bops"], stage["bops"]))
        for stage in run.cost["stages"]
    ]


def _columns(report: Report) -> Iterator[tuple[int | None, str]]:
    """Yield the number of a run and an output for each column. Bicubic belongs to no run."""
    outputs = [run.means for run in report.runs]
    if BICUBIC in outputs[0]:
        yield None, BICUBIC
    for number, own in enumerate(outputs):
        yield from ((number, name) for name in (FLOAT, SIMULATED, RUNTIME) if name in own)


def _cell(scores: Mapping[tuple[str, str], Score], image: str, name: str) -> Cell:
    score, plain = scores.get((image, name)), scores.get((image, FLOAT))
    if score is None:
        return Cell(NONE, "")
    return Cell(_db(score.psnr), f"{score.ssim:.4f}", _change(name, score.psnr, plain.psnr if plain else None))


def _mean(run: RunReport, name: str) -> Cell:
    row, plain = run.means[name], run.means.get(FLOAT)
    return Cell(_db(row["psnr"]), f"{row['ssim']:.4f}", _change(name, row["psnr"], plain["psnr"] if plain else None))


def _db(value: float) -> str:
    return "equal" if value == float("inf") else f"{value:.2f}"


def _change(name: str, value: float, plain: float | None) -> str:
    if plain is None or name in (FLOAT, BICUBIC) or value == plain:
        return ""
    change = round(value - plain, 2) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"{change:+.2f}".replace("-", MINUS) if change else "0.00"


def _quality(run: RunReport) -> Iterator[Figure]:
    name = RUNTIME if RUNTIME in run.means else SIMULATED
    integers, plain = run.means[name], run.means.get(FLOAT)
    where = f"in {run.run.recipe.target}" if name == RUNTIME else "simulated"
    if plain is None:
        yield Figure(f"{_db(integers['psnr'])} dB", f"PSNR against the float network, {where}")
        return
    change = _change(name, integers["psnr"], plain["psnr"]) or "0.00"
    yield Figure(f"{change} dB", f"PSNR: {_db(plain['psnr'])} in float, {_db(integers['psnr'])} {where}")


def _verdict(run: RunReport) -> Iterator[Figure]:
    verified = run.run.summary.get("verify") or {}
    if verified.get("runtime") is None:
        yield Figure("not verified", verified.get("note") or "the run says nothing about it")
        return
    passed = bool(verified["passed"])
    psnr = verified.get("psnr")
    same = "identical to the simulation" if psnr is None else f"{psnr:.1f} dB from the simulation"
    problems = "; ".join(verified.get("problems") or ())
    yield Figure("verified" if passed else "failed", same if passed else problems, passed)
    if verified.get("speedup") is not None:
        yield Figure(f"{verified['speedup']:.2f}{TIMES}", "as fast as float in this runtime", verified["speedup"] >= 1)


def _savings(run: RunReport) -> Iterator[Figure]:
    plain, own = (run.cost[kind]["size"] for kind in ("float", "quantized"))
    yield Figure(scaled(own, "B"), f"of weights, {scaled(plain, 'B')} in float")


def _facts(run: RunReport) -> Iterator[tuple[str, str]]:
    summary, model, recipe = run.run.summary, run.run.record, run.run.recipe
    verified = summary.get("verify") or {}
    yield "network", f"{model.name}, {model.parameters:,} parameters, {TIMES}{model.scale}"
    yield "recipe", recipe.name
    yield "bits", f"weights {recipe.weights.bits}, activations {recipe.activations.bits}"
    tuned = f", tuned by {recipe.reconstruction.name}" if recipe.reconstruction else ""
    yield "bounds", f"{recipe.activations.observer}{tuned}"
    yield "toolkit", recipe.toolkit
    yield "target", recipe.target
    if verified.get("runtime"):
        yield "runtime", verified["runtime"]
    if verified.get("convs_int8") is not None:
        yield "integer convolutions", f"{verified['convs_int8']} run, {verified['convs_planned']} planned"
    if verified.get("kernels"):
        kernels = ", ".join(f"{count} {name}" for name, count in verified["kernels"].items())
        yield "kernels", f"{kernels}; two products add in {16 if verified['saturates'] else 32} bits here"
    yield "operations in float", str(len(run.run.table.plan.floats))
    yield "folder", str(run.run.folder)


def _cost(run: RunReport, key: str, unit: str) -> tuple[str, str, str]:
    plain, own = (_number(run.cost[kind][key]) for kind in ("float", "quantized"))
    return scaled(plain, unit), scaled(own, unit), _ratio(plain, own)


def _number(value: Any) -> float:
    return value["bytes"] if isinstance(value, Mapping) else value


def _ratio(plain: float, own: float) -> str:
    return f"{plain / own:.2f}" if own else ""
