"""Verification: the exported file in its real runtime against the simulation.

It compares outputs, counts integer convolutions and measures speed.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import onnx

from srptq_plugin.data.images import Image, mirrored, to_tensor
from srptq_plugin.data.metrics import level_differences, psnr
from srptq_plugin.data.patterns import patterns
from srptq_plugin.data.resize import Pixels
from srptq_plugin.errors import MissingRuntimeError
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array
from srptq_plugin.planning.plan import Plan
from srptq_plugin.plugins.protocols import EmulatedRuntime, Finding, Kernels, Linter, PairLinter, Runtime
from srptq_plugin.quantization.grid import INTEGER_WIDTH
from srptq_plugin.runs.run import NETWORK, Forward, Run
from srptq_plugin.runs.simulation_noise import LEAST_PSNR, OWN_SLACK, exact_simulation, least_psnr, own_psnr
from srptq_plugin.utils.progress import Progress, quiet

SIZES = ((48, 48), (33, 57), (75, 63), (64, 71))
"""Heights and widths, odd ones too."""
FOREIGN = "the target's own runtime is not on this machine: its files were read, and checked against its rules"
TIMED_SIZE = (128, 128)
TIMED_RUNS = 5


class Crop(NamedTuple):
    """An image [1, channels, height, width] in the network's input range."""

    name: str
    image: Array


def verify(run: Run, *, images: Sequence[Image] | None = None, progress: Progress = quiet) -> dict[str, Any]:
    """Run the exported file and the simulation on the same images, and return the report.

    `passed` in it is true if `problems` is empty. Without an exported file or its runtime nothing is measured, and
    the run passes with a note.

    Args:
        run: The run.
        images: The images to crop. By default the calibration images.
        progress: A callback for progress.
    """
    rules = run.rules
    if not run.artifacts:
        return _not_run("simulation only: nothing was exported")
    try:
        runtime = run.target.load(run.artifacts[0])
    except MissingRuntimeError as error:
        return _not_run(str(error))
    plan = run.table.plan
    seen = _all_crops(run, images if images is not None else run.images())
    simulation = exact_simulation(run, seen[0].image)
    report, simulated = _differences(run, runtime, simulation, seen, progress)
    planned = integer_convs(plan, rules)
    report |= {"runtime": runtime.name, "convs_planned": len(planned), "convs_int8": runtime.integer_convs()}
    report |= _kernels(runtime)
    foreign = report["convs_int8"] is None
    report["own_psnr"] = None
    if _too_far(report, plan):
        report["own_psnr"] = _finite(own_psnr(run, simulated, [crop.image for crop in seen]))
    report["least_psnr"] = least_psnr(report["own_psnr"]) if _is_8_bits(plan) else None
    notes = FOREIGN if foreign else _note(plan), _emulated(runtime), _spread(report)
    report["note"] = "; ".join(filter(None, notes))
    report["lint"] = _lint(run, ignore_vnni=not (run.recipe.weights.overflow_safe or report["saturates"]))
    report["speedup"] = None if foreign or isinstance(runtime, EmulatedRuntime) else _speedup(run, runtime)
    report["slower"] = slower(report["speedup"], plan)
    problems = [*_problems(report), *report["lint"]]
    return report | {"passed": not problems, "problems": problems}


def integer_convs(plan: Plan, rules: Rules) -> list[str]:
    """List the convolutions whose weight and input both have widths that the target computes in integers."""
    widths: dict[str, set[int]] = {}
    for site in plan.sites:
        for edge in site.consumers:
            widths.setdefault(edge.consumer, set()).add(site.grid.bits)
    return [conv for conv in plan.convs if widths[conv] <= rules.integer_bits]


def slower(speedup: float | None, plan: Plan) -> str:
    """Return why integers are slower than float, or nothing if they are not."""
    if speedup is None or speedup >= 1:
        return ""
    return f"slower than float: {len(plan.floats)} operations stay float, with conversions around them"


def _not_run(note: str) -> dict[str, Any]:
    """Return a report that passes, with all keys and nothing measured."""
    measured = ("psnr", "not_finite", "max_levels", "p99_9_levels", "own_psnr", "least_psnr")
    counted = ("convs_planned", "convs_int8", "kernels", "saturates", "speedup")
    figures = dict.fromkeys((*measured, *counted))
    return figures | {
        "sizes": [],
        "lint": [],
        "slower": "",
        "runtime": None,
        "note": note,
        "passed": True,
        "problems": [],
    }


def _all_crops(run: Run, images: Sequence[Image]) -> list[Crop]:
    """Return the middle of one image for each size, and worst-case patterns of the first size."""
    return [*crops(run, images), *(_crop(run, *pattern) for pattern in patterns(*_sizes(run)[0]).items())]


def crops(run: Run, images: Sequence[Image]) -> list[Crop]:
    """Return the middle of one image for each size that is verified."""
    chosen = [(images[n % len(images)], size) for n, size in enumerate(_sizes(run))]
    return [_crop(run, image.name, _middle(image.pixels, size)) for image, size in chosen]


def _crop(run: Run, name: str, pixels: Pixels) -> Crop:
    return Crop(name, to_tensor(pixels[None], run.input_range, run.record.channels).numpy())


def _sizes(run: Run) -> list[tuple[int, int]]:
    return [run.size] if run.size else [_fitted(run, size) for size in SIZES]


def _fitted(run: Run, size: tuple[int, int]) -> tuple[int, int]:
    return run.record.fitted(size[0]), run.record.fitted(size[1])


def _middle(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    padded = mirrored(pixels, size)  # a smaller image is enlarged by mirroring
    top, left = (padded.shape[0] - size[0]) // 2, (padded.shape[1] - size[1]) // 2
    return np.ascontiguousarray(padded[top : top + size[0], left : left + size[1]])


def _differences(
    run: Run, runtime: Runtime, simulation: Forward, crops: Sequence[Crop], progress: Progress
) -> tuple[dict[str, Any], Array]:
    """Return how much the outputs of runtime and simulation differ, and the simulation's, flat."""
    low, high = run.input_range
    outputs: list[tuple[Array, Array]] = []
    for done, crop in enumerate(crops):
        progress("verifying", done, len(crops))
        outputs.append((simulation(crop.image), runtime(crop.image)))
    progress("verifying", len(crops), len(crops))
    # One PSNR over all pixels instead of a mean of decibels, which a crop without any difference makes infinite.
    simulated = np.concatenate([simulated.ravel() for simulated, _ in outputs])
    measured = np.concatenate([measured.ravel() for _, measured in outputs])
    unbounded = int(np.count_nonzero(~np.isfinite(measured)))
    measured = np.nan_to_num(measured)
    largest, most = level_differences(simulated, measured, high - low)
    differences = {
        "psnr": _finite(psnr(simulated, measured, high - low)),
        "not_finite": unbounded,
        "max_levels": largest,
        "p99_9_levels": most,
        "sizes": [
            {"height": image.shape[2], "width": image.shape[3], "image": name, "psnr": _finite(psnr(*pair, high - low))}
            for (name, image), pair in zip(crops, outputs, strict=True)
        ],
    }
    return differences, simulated


def _finite(value: float) -> float | None:
    """Round to three digits. Equal images have an infinite PSNR, which JSON cannot hold, so it becomes None."""
    return round(float(value), 3) if np.isfinite(value) else None


def _kernels(runtime: Runtime) -> dict[str, Any]:
    """Return the kernels that run, and whether they add products in 16 bits. None stands for unknown."""
    if not isinstance(runtime, Kernels):
        return {"kernels": None, "saturates": None}
    return {"kernels": dict(runtime.kernels()), "saturates": runtime.saturates()}


def _lint(run: Run, *, ignore_vnni: bool) -> list[str]:
    """List the severe findings of the target's linter, one line per rule.

    Args:
        run: The run.
        ignore_vnni: Leave out findings that only matter to processors without VNNI.
    """
    file = next((path for path in run.artifacts if path.suffix == ".onnx"), run.artifacts[0])
    if isinstance(run.target, PairLinter) and len(run.artifacts) > 1:
        findings = run.target.lint_pair(onnx.load(file), run.artifacts[1])
    elif isinstance(run.target, Linter):
        findings = run.target.lint(onnx.load(file))
    else:
        return []
    severe = (finding for finding in findings if finding.severe and not (finding.without_vnni and ignore_vnni))
    by_rule = groupby(sorted(severe, key=attrgetter("rule")), key=attrgetter("rule"))
    return [_summarize(*group) for _, group in by_rule]


def _summarize(first: Finding, *others: Finding) -> str:
    more = f" and {len(others)} more" if others else ""
    return f"{first.rule} at {first.node}{more}: {first.problem}; {first.cure}"


def _speedup(run: Run, runtime: Runtime) -> float:
    """Return the median time of the float network divided by the median time of the quantized one."""
    height, width = run.size or _fitted(run, TIMED_SIZE)
    low, high = run.input_range
    image = np.full((1, run.record.channels, height, width), (low + high) / 2, np.float32)
    forwards = {"integer": runtime, "float": run.target.load(run.folder / NETWORK)}
    seconds: dict[str, list[float]] = {name: [] for name in forwards}
    # The two take turns, so a change of the machine's load meets both. The first turn warms up.
    for turn in range(TIMED_RUNS + 1):
        for name, forward in forwards.items():
            start = time.perf_counter()
            forward(image)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return round(statistics.median(seconds["float"]) / statistics.median(seconds["integer"]), 2)


def _note(plan: Plan) -> str:
    narrow = any(site.grid.bits < INTEGER_WIDTH for site in plan.sites)
    return "below 8 bits the integers are stored and computed as 8 bits: the speed of 8 bits, no more" if narrow else ""


def _emulated(runtime: Runtime) -> str:
    return f"{runtime.hardware} was emulated: speed was not measured" if isinstance(runtime, EmulatedRuntime) else ""


def _spread(report: Mapping[str, Any]) -> str:
    """Say how far the simulation is from itself, and whether that lowers the limit."""
    own, least = report["own_psnr"], report["least_psnr"]
    if own is None:
        return ""
    limit = f", so its own noise sets the limit: {least:.1f} dB" if least < LEAST_PSNR else ""
    return f"with other last bits the simulation differs from itself by {own:.1f} dB{limit}"


def _is_8_bits(plan: Plan) -> bool:
    # Below 8 bits a flipped rounding costs more levels, so only 8 bits everywhere have a limit.
    return all(site.grid.bits == INTEGER_WIDTH for site in plan.sites)


def _too_far(report: Mapping[str, Any], plan: Plan) -> bool:
    """Tell whether runtime and simulation differ so much that the simulation's own noise matters."""
    return _is_8_bits(plan) and report["psnr"] is not None and report["psnr"] < LEAST_PSNR


def _problems(report: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    planned, integer = report["convs_planned"], report["convs_int8"]
    if integer is not None and integer < planned:
        problems.append(f"{planned - integer} of {planned} convolutions planned as int8 run in float")
    if report["not_finite"]:
        problems.append(f"{report['not_finite']:,} values of the file are not finite: floats overflow in it")
    measured, least = report["psnr"], report["least_psnr"]
    if measured is not None and least is not None and measured < least:
        reason = "" if least == LEAST_PSNR else f", {OWN_SLACK:.0f} dB below its own noise"
        problems.append(f"simulation and runtime differ: {measured:.1f} dB, at 8 bits at least {least:.4g} dB{reason}")
    return problems
