"""What `srptq quantize`, `verify` and `lint` print."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from srptq_plugin.cli.console import Block, Cell, Facts, Lines, Mark, Table, first_names
from srptq_plugin.cli.drop_report import drop_report
from srptq_plugin.graph.stages import STAGES
from srptq_plugin.plugins.protocols import Finding

Record = Mapping[str, Any]
FEW = 2
"""The most names that are printed of a group."""


def run_report(summary: Record, folder: Path) -> list[Block]:
    """Report what was quantized and how, whether the runtime agrees, and what to do next."""
    return [
        Facts([("network", _network(summary["model"])), ("recipe", _recipe(summary))]),
        _stages(summary["sites"]),
        Facts(list(_calibration(summary))),
        Facts([*_verdict(summary["verify"]), *_outcome(summary, folder)]),
        *drop_report(summary.get("max_drop")),
        Lines(_next_steps(summary, shlex.quote(str(folder))), "next"),
    ]


def verification_report(verified: Record) -> list[Block]:
    """Report how the runtime did, in all and by image size."""
    facts = Facts(list(_verdict(verified)))
    sizes = verified.get("sizes") or ()
    if not sizes:
        return [facts]
    rows = [[size["image"], f"{size['height']} x {size['width']}", format_db(size["psnr"])] for size in sizes]
    return [facts, Table(["image", "height x width", "PSNR"], rows, frozenset({"PSNR"}))]


def lint_report(target: str, findings: Sequence[Finding]) -> list[Block]:
    """Report the broken rules. Findings that differ only by node share a row."""
    if not findings:
        return [Facts([("lint", Mark(f"keeps every rule of {target}", good=True))])]
    nodes: dict[tuple[str, str, str, bool], list[str]] = defaultdict(list)
    for finding in findings:
        nodes[finding.rule, finding.problem, finding.cure, finding.severe].append(finding.node)
    rows: list[list[Cell]] = [
        [Mark(rule, good=False) if severe else rule, first_names(names, FEW), problem, cure]
        for (rule, problem, cure, severe), names in nodes.items()
    ]
    severe = sum(finding.severe for finding in findings)
    counts = f"{severe} break a rule of {target}, {len(findings) - severe} only cost speed or a little accuracy"
    return [
        Facts([("lint", Mark(counts, good=not severe))]),
        Table(["rule", "nodes", "problem", "cure"], rows, wordy=1),
    ]


def describe_images(model: Record) -> str:
    """Return how a network changes the size of images, their channels unless they are RGB, and the sides that it takes.

    >>> describe_images({"scale": 2}), describe_images({"scale": 1, "multiple": 8, "channels": 1})
    ('upscales by 2', 'keeps the size, reads Y alone, height and width in multiples of 8')
    """
    size = "keeps the size" if model["scale"] == 1 else f"upscales by {model['scale']}"
    luma = ", reads Y alone" if model.get("channels") == 1 else ""
    multiple = 1 if model.get("input_size") else model.get("multiple", 1)
    return size + luma + (f", height and width in multiples of {multiple}" if multiple > 1 else "")


def bit_counts(bits: Counter[int]) -> str:
    """Say how many tensors have which bits.

    >>> bit_counts(Counter({8: 1, 4: 32}))
    '32 at 4 bits, 1 at 8 bits'
    """
    return ", ".join(f"{count} at {width} bits" for width, count in sorted(bits.items())) or "float"


def _network(model: Record) -> str:
    size = model.get("input_size")
    fixed = f", input {'x'.join(map(str, size))}" if size else ""
    return f"{model['name']}, {model['parameters']:,} parameters, {describe_images(model)}{fixed}"


def _recipe(summary: Record) -> str:
    recipe = summary["recipe"]
    tuned = recipe["reconstruction"]
    steps = [recipe["activations"]["observer"], *([tuned["name"]] if tuned else [])]
    learned = " (weights too)" if tuned and tuned.get("weights", "fixed") != "fixed" else ""
    return f"{recipe['name']}, for {summary['target']}: {' and '.join(steps)}{learned}, in {summary['toolkit']}"


def _stages(sites: Sequence[Record]) -> Table:
    """Count the quantized tensors of each stage by bits."""
    bits: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for site in sites:
        bits[site["stage"], site["role"]][site["bits"]] += 1
    used = {stage for stage, _ in bits}
    rows = [
        [stage, *(bit_counts(bits[stage, role]) for role in ("weight", "activation"))]
        for stage in STAGES
        if stage in used
    ]
    return Table(["stage", "weights", "activations"], rows)


def _calibration(summary: Record) -> Iterator[tuple[str, Cell]]:
    """Yield what stays float, and the effect of each step of calibration."""
    yield from _floats(summary["floats"])
    yield from _less_noise(summary)
    yield from _overflow(summary)
    yield from _rounded(summary)
    yield from _trained(summary)
    yield from _tuned(summary.get("reconstruction") or {})
    yield from _grid_costs(summary["sites"], summary.get("reconstruction") or {})


def _floats(floats: Mapping[str, str]) -> Iterator[tuple[str, Cell]]:
    """Yield the operations that stay float, grouped by reason: two by name, more of them as a count of each kind."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, reason in floats.items():
        groups[reason].append(name)
    for reason, names in groups.items():
        yield "stays float", f"{first_names(names, FEW) if len(names) <= FEW else _kinds(names)}: {reason}"


def _kinds(names: Sequence[str]) -> str:
    """Count operations by kind, the last part of their names. The most frequent kind is the first."""
    counts = Counter(name.rpartition("/")[2].partition(".")[0] for name in names)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


def _less_noise(summary: Record) -> Iterator[tuple[str, Cell]]:
    for label in ("rotated", "left float", "equalized"):
        key = f"{label.replace(' ', '_')}_db"
        if summary.get(key) is not None:
            yield label, f"{summary[key]:.1f} dB less noise from rounding expected"


def _overflow(summary: Record) -> Iterator[tuple[str, Cell]]:
    """Yield the cost of weights that cannot overflow without VNNI, before tuning."""
    overflow = summary.get("overflow")
    if overflow:
        channels = f"{overflow['raised']:,} of {overflow['channels']:,} channels have a larger scale"
        yield "overflow", f"safe without VNNI: {channels}, {overflow['cost_db']:.2f} dB more noise before tuning"


def _rounded(summary: Record) -> Iterator[tuple[str, Cell]]:
    """Yield the gain of error-compensated rounding of the weights."""
    if summary.get("rounding_db") is not None:
        yield "rounding", f"errors of weights compensated: {summary['rounding_db']:.1f} dB less noise in the image"


def _trained(summary: Record) -> Iterator[tuple[str, Cell]]:
    training = summary.get("training")
    if training:
        step = f"step {training['best_step']} of {training['steps']}"
        gain = f"{training['psnr_before']:.2f} -> {training['psnr']:.2f} dB"
        yield "trained", f"{gain} where it is validated; kept {step}"


def _tuned(figures: Record) -> Iterator[tuple[str, Cell]]:
    """Yield the change of a reconstruction's loss, if it did not decrease."""
    before, after = (figures.get(f"loss_{when}") for when in ("before", "after"))
    if before is None or after is None or after < before:
        return
    if after == before:
        yield "tuning", "did not lower the loss on the calibration images: it changed nothing"
    else:
        yield "tuning", Mark(f"raised the loss on the calibration images: {before:.2f} -> {after:.2f}", good=False)


def _grid_costs(sites: Sequence[Record], figures: Record) -> Iterator[tuple[str, Cell]]:
    """Yield the noise that the target's grid adds to activations, and how much of it tuning recovered."""
    costs = {s["name"]: s["projection"] for s in sites if s.get("projection") and s["role"] == "activation"}
    if not costs:
        return
    worst = max(costs, key=lambda name: costs[name]["cost_db"])
    mean, won = (_rounded_db(sum(c[key] for c in costs.values()) / len(costs)) for key in ("cost_db", "won_db"))
    most = _rounded_db(costs[worst]["cost_db"])
    noise = f"{mean:.2f} dB an activation against a real offset, at most {most:.2f} at {worst}"
    yield "grid costs", noise + (f"; tuning {_won(won, figures)}" if any(c["won_db"] for c in costs.values()) else "")


def _rounded_db(value: float) -> float:
    return round(value, 2) + 0.0  # + 0.0 turns -0.0 into 0.0, which prints without a sign


def _won(won: float, figures: Record) -> str:
    """Say what tuning won an activation. It may cost activations dB to lower the error of the image."""
    if won >= 0:
        return f"won back {won:.2f} dB"
    why = ", though the image is nearer to float" if "loss_after" in figures and not dict(_tuned(figures)) else ""
    return f"made that {-won:.2f} dB worse{why}"


def _verdict(verified: Record) -> Iterator[tuple[str, Cell]]:
    """Yield what verification found, or why it did not run."""
    if verified.get("runtime") is None:
        yield "verified", f"not run ({verified.get('note', 'no runtime')})"
        return
    yield (
        "verified",
        Mark(f"{'passed' if verified['passed'] else 'FAILED'} in {verified['runtime']}", verified["passed"]),
    )
    yield from (("problem", problem) for problem in verified["problems"])
    if verified["convs_int8"] is not None:
        yield "integers", f"{verified['convs_int8']} convolutions run in int8, {verified['convs_planned']} were planned"
    yield from _kernels(verified)
    if verified.get("note"):
        yield "note", verified["note"]
    yield "difference", _difference(verified)
    if verified.get("speedup") is not None:
        yield "speed", f"{verified['speedup']:.2f} times as fast as float in this runtime"
    if verified.get("slower"):
        yield "note", verified["slower"]


def _kernels(verified: Record) -> Iterator[tuple[str, Cell]]:
    """Yield which kernels ran, and in how many bits they add two products."""
    if verified.get("kernels"):
        counts = ", ".join(f"{count} {name}" for name, count in verified["kernels"].items())
        yield "kernels", f"{counts}; two products are added in {16 if verified['saturates'] else 32} bits here"


def _difference(verified: Record) -> str:
    most, largest = verified["p99_9_levels"], verified["max_levels"]
    levels = f"99.9 % of values within {most:.2f} levels of 255, all within {largest:.2f}"
    least = f", at least {verified['least_psnr']:.1f} required" if verified.get("least_psnr") else ""
    return f"{format_db(verified['psnr'])} between simulation and runtime{least}; {levels}"


def format_db(value: float | None) -> str:
    """Return decibels as text, or that nothing differs."""
    return "identical" if value is None else f"{value:.2f} dB"


def _outcome(summary: Record, folder: Path) -> Iterator[tuple[str, Cell]]:
    seconds = summary["seconds"]
    phases = ", ".join(f"{phase} {count:.1f}" for phase, count in seconds.items())
    yield "seconds", f"{sum(seconds.values()):.1f} ({phases})"
    yield "folder", str(folder)
    yield "files", ", ".join(_files(summary["artifacts"], folder))


def _files(artifacts: Sequence[str], folder: Path) -> list[str]:
    """List the files of the target first. The first of them is the one to run."""
    others = {path.name for path in folder.iterdir()} - set(artifacts)
    return [*artifacts, *sorted(others)]


def _next_steps(summary: Record, folder: str) -> list[str]:
    steps = [f"srptq evaluate {folder} --data DIR"]
    if not summary["artifacts"]:
        return steps
    command = summary.get("command")
    return [*([f"cd {folder} && {command}"] if command else []), *steps, f"srptq verify {folder}"]
