"""The written file in the real runtime against the simulation: differences, integer convolutions, kernels, speed."""

import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch

from srptq_plugin.data.images import Image, mirrored, to_tensor
from srptq_plugin.data.metrics import level_differences, psnr
from srptq_plugin.data.patterns import patterns
from srptq_plugin.errors import MissingRuntimeError
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array
from srptq_plugin.planning.plan import Plan
from srptq_plugin.plugins.protocols import Finding, Kernels, Linter, Runtime
from srptq_plugin.runs.run import NETWORK, Run
from srptq_plugin.utils.progress import Progress, quiet

SIZES = ((48, 48), (33, 57), (75, 63), (64, 71))
"""Heights and widths, odd ones too."""
LEAST_PSNR = 50.0
"""dB between simulation and runtime at 8 bits."""
INTEGER_WIDTH = 8
FOREIGN = "the target's own runtime is not on this machine: its files were read, and checked against its rules"
TIMED_SIZE = (128, 128)
TIMED_RUNS = 5


def verify(run: Run, *, images: Sequence[Image] | None = None, progress: Progress = quiet) -> dict[str, Any]:
    """Run the artifact and the simulation side by side; `passed` and `problems` say what came of it."""
    rules = run.bound.rules
    if not run.artifacts:
        return _unrun("simulation only: nothing was exported")
    try:
        runtime = run.target.load(run.artifacts[0])
    except MissingRuntimeError as error:
        return _unrun(str(error))
    crops = _crops(run, images if images is not None else run.images())
    found = _differences(run, runtime, crops, progress)
    planned = integer_plan(run.table.plan, rules)
    found |= {"runtime": runtime.name, "convs_planned": len(planned), "convs_int8": runtime.integer_convs()}
    found |= _kernels(runtime)
    foreign = found["convs_int8"] is None
    found["own_psnr"] = own_psnr(run, [crop.image for crop in crops]) if _too_far(found, run.table.plan) else None
    notes = FOREIGN if foreign else _note(run.table.plan), _spread(found)
    found["note"] = "; ".join(filter(None, notes))
    found["lint"] = _lint(run, ignore_vnni=not (run.recipe.weights.overflow_safe or found["saturates"]))
    found["speedup"] = None if foreign else _speedup(run, runtime)
    found["slower"] = slower(found["speedup"], run.table.plan)
    problems = [*_problems(found, run.table.plan), *found["lint"]]
    return found | {"passed": not problems, "problems": problems}


def integer_plan(plan: Plan, rules: Rules) -> list[str]:
    """The convolutions that are to run in integers: weight and input at a width that the target computes in."""
    widths: dict[str, set[int]] = {}
    for site in plan.sites:
        for edge in site.consumers:
            widths.setdefault(edge.consumer, set()).add(site.grid.bits)
    return [conv for conv in plan.convs if widths[conv] <= rules.integer_bits]


def _lint(run: Run, *, ignore_vnni: bool) -> list[str]:
    """List what breaks a rule of the target, unless it only matters to processors that the recipe rules out."""
    if not isinstance(run.target, Linter):
        return []
    file = next((path for path in run.artifacts if path.suffix == ".onnx"), run.artifacts[0])
    findings = run.target.lint(onnx.load(file))
    severe = (each for each in findings if each.severe and not (each.without_vnni and ignore_vnni))
    by_rule = groupby(sorted(severe, key=attrgetter("rule")), key=attrgetter("rule"))
    return [_summarized(*group) for _, group in by_rule]


def _summarized(first: Finding, *others: Finding) -> str:
    more = f" and {len(others)} more" if others else ""
    return f"{first.rule} at {first.node}{more}: {first.problem}; {first.cure}"


def _kernels(runtime: Runtime) -> dict[str, Any]:
    """Return which kernels run, and whether they add products in 16 bits; None where the runtime does not know."""
    if not isinstance(runtime, Kernels):
        return {"kernels": None, "saturates": None}
    return {"kernels": dict(runtime.kernels()), "saturates": runtime.saturates()}


def _unrun(note: str) -> dict[str, Any]:
    """The same keys with nothing measured."""
    measured = ("psnr", "max_levels", "p99_9_levels", "own_psnr")
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


def _note(plan: Plan) -> str:
    narrow = any(site.grid.bits < INTEGER_WIDTH for site in plan.sites)
    return "below 8 bits the integers are stored and computed as 8 bits: the speed of 8 bits, no more" if narrow else ""


class Crop(NamedTuple):
    """An image to compare on."""

    name: str
    image: Array


def _crops(run: Run, images: Sequence[Image]) -> list[Crop]:
    """Cut the middle out of an image for each size, mirrored where it is smaller, and add worst-case patterns."""
    sizes = [run.size] if run.size else [_fitted(run, size) for size in SIZES]
    chosen = [(images[n % len(images)], size) for n, size in enumerate(sizes)]
    pixels = [(image.name, _middle(image.pixels, size)) for image, size in chosen]
    pixels += patterns(*sizes[0]).items()
    return [Crop(name, to_tensor(each[None], run.input_range).numpy()) for name, each in pixels]


def _fitted(run: Run, size: tuple[int, int]) -> tuple[int, int]:
    return run.record.fitted(size[0]), run.record.fitted(size[1])


def _middle(pixels: np.ndarray[Any, np.dtype[np.uint8]], size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    padded = mirrored(pixels, size)
    top, left = ((have - wanted) // 2 for wanted, have in zip(size, padded.shape, strict=False))
    return np.ascontiguousarray(padded[top : top + size[0], left : left + size[1]])


def _differences(run: Run, runtime: Runtime, crops: Sequence[Crop], progress: Progress) -> dict[str, Any]:
    simulation = run.simulation()
    low, high = run.input_range
    outputs: list[tuple[Array, Array]] = []
    for done, crop in enumerate(crops):
        progress("verifying", done, len(crops))
        outputs.append((simulation(crop.image), runtime(crop.image)))
    progress("verifying", len(crops), len(crops))
    flat = [np.concatenate([pair[n].ravel() for pair in outputs]) for n in (0, 1)]
    largest, most = level_differences(flat[0], flat[1], high - low)
    return {
        "psnr": _finite(psnr(flat[0], flat[1], high - low)),
        "max_levels": largest,
        "p99_9_levels": most,
        "sizes": [
            {"height": image.shape[2], "width": image.shape[3], "image": name, "psnr": _finite(psnr(*pair, high - low))}
            for (name, image), pair in zip(crops, outputs, strict=True)
        ],
    }


def own_psnr(run: Run, crops: Sequence[Array]) -> float | None:
    """How near the simulation is to itself when its convolutions are summed in another order.

    A last bit decides a rounding, and every convolution spreads it: no runtime can be nearer than that.
    """
    simulation, (low, high) = run.simulation(), run.input_range
    usual = np.concatenate([simulation(crop).ravel() for crop in crops])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's own, about other qconfigs' GPUs
        with torch.backends.mkldnn.flags(enabled=False):
            other = np.concatenate([simulation(crop).ravel() for crop in crops])
    return _finite(psnr(usual, other, high - low))


def _finite(value: float) -> float | None:
    """JSON has no infinity: equal images have no PSNR."""
    return round(float(value), 3) if np.isfinite(value) else None


def _speedup(run: Run, runtime: Runtime) -> float:
    """How many times faster than the float network in the same runtime; pairs of runs, medians."""
    height, width = run.size or _fitted(run, TIMED_SIZE)
    low, high = run.input_range
    image = np.full((1, 3, height, width), (low + high) / 2, np.float32)
    plain = run.target.load(run.folder / NETWORK)
    seconds: dict[str, list[float]] = {"integer": [], "float": []}
    for turn in range(TIMED_RUNS + 1):
        for name, each in (("integer", runtime), ("float", plain)):
            start = time.perf_counter()
            each(image)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return round(statistics.median(seconds["float"]) / statistics.median(seconds["integer"]), 2)


def slower(speedup: float | None, plan: Plan) -> str:
    """Say why integers are slower than float, or nothing where they are not."""
    if speedup is None or speedup >= 1:
        return ""
    return f"slower than float: {len(plan.floats)} operations stay float, with conversions around them"


def _too_far(found: Mapping[str, Any], plan: Plan) -> bool:
    eight = all(site.grid.bits == INTEGER_WIDTH for site in plan.sites)
    return eight and found["psnr"] is not None and found["psnr"] < LEAST_PSNR


def _problems(found: Mapping[str, Any], plan: Plan) -> list[str]:
    problems: list[str] = []
    if found["convs_int8"] is not None and found["convs_int8"] < found["convs_planned"]:
        problems.append(
            f"{found['convs_planned'] - found['convs_int8']} of {found['convs_planned']} convolutions "
            "planned as int8 run in float"
        )
    if _too_far(found, plan):
        problems.append(
            f"simulation and runtime differ: {found['psnr']:.1f} dB, at 8 bits at least {LEAST_PSNR:.0f} dB"
        )
    return problems


def _spread(found: Mapping[str, Any]) -> str:
    own = found["own_psnr"]
    return f"summed in another order the simulation differs from itself by {own:.1f} dB" if own else ""
