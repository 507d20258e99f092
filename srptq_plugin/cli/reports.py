"""What people read after `quantize`, `verify` and `evaluate`."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from srptq_plugin.cli.console import Block, Cell, Facts, Lines, Mark, Table
from srptq_plugin.plugins.protocols import Finding

Record = Mapping[str, Any]
STAGES = ("head", "body", "upsample", "tail")


def run_report(summary: Record, folder: Path) -> list[Block]:
    """What was quantized and how, whether the runtime agrees, and what to do next."""
    return [
        Facts([("network", _network(summary["model"])), ("recipe", _recipe(summary))]),
        _stages(summary["sites"]),
        Facts(list(_calibration(summary))),
        Facts([*_verdict(summary["verify"]), *_outcome(summary, folder)]),
        Lines(_next_steps(summary, shlex.quote(str(folder))), "next"),
    ]


def verification_report(found: Record) -> list[Block]:
    """What the runtime did, in all and by image size."""
    facts = Facts(list(_verdict(found)))
    sizes = found.get("sizes") or ()
    if not sizes:
        return [facts]
    rows = [[size["image"], f"{size['height']} x {size['width']}", _db(size["psnr"])] for size in sizes]
    return [facts, Table(["image", "height x width", "PSNR"], rows, frozenset({"PSNR"}))]


def lint_report(target: str, findings: Sequence[Finding]) -> list[Block]:
    """What breaks a rule, equal findings on one line."""
    if not findings:
        return [Facts([("lint", Mark(f"keeps every rule of {target}", good=True))])]
    alike: dict[tuple[str, str, str, bool], list[str]] = defaultdict(list)
    for each in findings:
        alike[each.rule, each.problem, each.cure, each.severe].append(each.node)
    rows: list[list[Cell]] = [
        [Mark(rule, good=False) if severe else rule, _some(nodes), problem, cure]
        for (rule, problem, cure, severe), nodes in alike.items()
    ]
    severe = sum(each.severe for each in findings)
    told = f"{severe} break a rule of {target}, {len(findings) - severe} only cost speed"
    return [
        Facts([("lint", Mark(told, good=not severe))]),
        Table(["rule", "nodes", "problem", "cure"], rows, wordy=1),
    ]


def evaluation_report(found: Record) -> list[Block]:
    """PSNR and SSIM, what each output loses against the float network, and how the networks were run."""
    facts = list(_circumstances(found))
    return [_means(found["rows"]), *([Facts(facts)] if facts else [])]


def _means(rows: Sequence[Record]) -> Table:
    columns = ["data", "output", "PSNR", "vs float", "SSIM", "images"]
    plain = {row["data"]: row["psnr"] for row in rows if row["output"] == "float"}
    cells = [
        [
            str(row["data"]),
            str(row["output"]),
            _db(row["psnr"]),
            _change(row, plain.get(row["data"])),
            f"{row['ssim']:.4f}",
            str(row["images"]),
        ]
        for row in rows
    ]
    return Table(columns, cells, frozenset(columns[2:]))


def _circumstances(found: Record) -> Iterator[tuple[str, Cell]]:
    """What else the figures depend on."""
    if found["skipped"]:
        yield "left out", f"{len(found['skipped'])} that cannot be scored, named above"
    if found["ensemble"]:
        yield "ensemble", "mean of 8 turned and mirrored outputs; bicubic is as it was"
    if tiles := found["tiles"]:
        told = f"{tiles['height']} x {tiles['width']} pixels, overlap {tiles['overlap']}"
        yield "tiles", f"{told}; {tiles['split']} images in several, {tiles['padded']} padded to fit"
    if tiles and (seam := tiles["seam"]):
        told = f"tiles differ from the whole image by at most {seam['levels']:.2f} levels of 255"
        yield "seams", Mark(f"{told} ({seam['image']}, float)", good=not seam["visible"])


def _change(row: Record, plain: float | None) -> str:
    if plain is None or row["psnr"] is None or row["output"] == "float":
        return ""
    return f"{row['psnr'] - plain:+.2f} dB"


def _network(model: Record) -> str:
    size = model.get("input_size")
    fixed = f", input {'x'.join(map(str, size))}" if size else sides_in(model)
    return f"{model['name']}, {model['parameters']:,} parameters, upscales by {model['scale']}{fixed}"


def sides_in(model: Record) -> str:
    """Say which sizes the network takes, unless it takes any.

    >>> sides_in({"multiple": 8}), sides_in({"multiple": 1})
    (', height and width in multiples of 8', '')
    """
    multiple = model.get("multiple", 1)
    return f", height and width in multiples of {multiple}" if multiple > 1 else ""


def _recipe(summary: Record) -> str:
    recipe = summary["recipe"]
    tuned = recipe["reconstruction"]
    steps = [recipe["activations"]["observer"], *([tuned["name"]] if tuned else [])]
    learned = " (weights too)" if tuned and tuned.get("weights", "fixed") != "fixed" else ""
    return f"{recipe['name']}, for {summary['target']}: {' and '.join(steps)}{learned}, in {summary['toolkit']}"


def _stages(sites: Sequence[Record]) -> Table:
    """How many tensors of each stage were quantized, by bits."""
    bits: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for site in sites:
        bits[site["stage"], site["role"]][site["bits"]] += 1
    used = [stage for stage in STAGES if any(found == stage for found, _ in bits)]
    rows = [[stage, *(bit_counts(bits[stage, role]) for role in ("weight", "activation"))] for stage in used]
    return Table(["stage", "weights", "activations"], rows)


def bit_counts(bits: Counter[int]) -> str:
    """How many tensors have which bits.

    >>> bit_counts(Counter({8: 1, 4: 32}))
    '32 at 4 bits, 1 at 8 bits'
    """
    return ", ".join(f"{count} at {width} bits" for width, count in sorted(bits.items())) or "float"


def _floats(floats: Mapping[str, str]) -> Iterator[tuple[str, Cell]]:
    """The operations that stay float, grouped by why."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, reason in floats.items():
        groups[reason].append(name)
    for reason, names in groups.items():
        yield "stays float", f"{_some(names)}: {reason}"


def _calibration(summary: Record) -> Iterator[tuple[str, Cell]]:
    """Yield what stays float, and what each step of calibration did."""
    yield from _floats(summary["floats"])
    yield from _equalized(summary)
    yield from _overflow(summary)
    yield from _rounded(summary)
    yield from _trained(summary)
    yield from _tuned(summary.get("reconstruction") or {})
    yield from _projection(summary["sites"], summary.get("reconstruction") or {})


def _equalized(summary: Record) -> Iterator[tuple[str, Cell]]:
    if summary.get("equalized_db") is not None:
        yield "equalized", f"{summary['equalized_db']:.1f} dB less noise from rounding expected"


def _overflow(summary: Record) -> Iterator[tuple[str, Cell]]:
    """What weights that are safe without VNNI cost, before anything was tuned."""
    found = summary.get("overflow")
    if found:
        channels = f"{found['raised']:,} of {found['channels']:,} channels have a larger scale"
        yield "overflow", f"safe without VNNI: {channels}, {found['cost_db']:.2f} dB more noise before tuning"


def _rounded(summary: Record) -> Iterator[tuple[str, Cell]]:
    """What error-compensated rounding of the weights gained."""
    if summary.get("rounding_db") is not None:
        yield "rounding", f"errors of weights compensated: {summary['rounding_db']:.1f} dB less noise in the image"


def _trained(summary: Record) -> Iterator[tuple[str, Cell]]:
    found = summary.get("training")
    if found:
        kept = f"step {found['best_step']} of {found['steps']}"
        yield "trained", f"{found['psnr_before']:.2f} -> {found['psnr']:.2f} dB where it is validated; kept {kept}"


def _tuned(figures: Record) -> Iterator[tuple[str, Cell]]:
    """Yield what a reconstruction did to its loss where it did not lower it."""
    before, after = (figures.get(f"loss_{when}") for when in ("before", "after"))
    if before is None or after is None or after < before:
        return
    if after == before:
        yield "tuning", "did not lower the loss on the calibration images: it changed nothing"
    else:
        yield "tuning", Mark(f"raised the loss on the calibration images: {before:.2f} -> {after:.2f}", good=False)


def _projection(sites: Sequence[Record], figures: Record) -> Iterator[tuple[str, Cell]]:
    """What the target's grid costs the activations, and what tuning won back."""
    found = {s["name"]: s["projection"] for s in sites if s.get("projection") and s["role"] == "activation"}
    if not found:
        return
    worst = max(found, key=lambda name: found[name]["cost_db"])
    means = (sum(e[key] for e in found.values()) / len(found) for key in ("cost_db", "won_db"))
    cost, won, most = (round(each, 2) + 0.0 for each in (*means, found[worst]["cost_db"]))
    told = f"{cost:.2f} dB an activation against a real offset, at most {most:.2f} at {worst}"
    yield "grid costs", told + (f"; tuning {_won(won, figures)}" if any(e["won_db"] for e in found.values()) else "")


def _won(won: float, figures: Record) -> str:
    """Say what tuning won an activation; it may cost activations dB to lower the error of the image."""
    if won >= 0:
        return f"won back {won:.2f} dB"
    why = ", though the image is nearer to float" if "loss_after" in figures and not dict(_tuned(figures)) else ""
    return f"made that {-won:.2f} dB worse{why}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:2])
    return shown if len(names) <= 2 else f"{shown} and {len(names) - 2} more"  # noqa: PLR2004


def _verdict(found: Record) -> Iterator[tuple[str, Cell]]:
    """What verifying found; a run without a runtime has little to say."""
    if found.get("runtime") is None:
        yield "verified", f"not run ({found.get('note', 'no runtime')})"
        return
    yield (
        "verified",
        Mark(f"{'passed' if found['passed'] else 'FAILED'} in {found['runtime']}", found["passed"]),
    )
    yield from (("problem", problem) for problem in found["problems"])
    if found["convs_int8"] is not None:
        yield "integers", f"{found['convs_int8']} convolutions run in int8, {found['convs_planned']} were planned"
    yield from _kernels(found)
    if found.get("note"):
        yield "note", found["note"]
    yield "difference", _difference(found)
    if found.get("speedup") is not None:
        yield "speed", f"{found['speedup']:.2f} times as fast as float in this runtime"
    if found.get("slower"):
        yield "note", found["slower"]


def _kernels(found: Record) -> Iterator[tuple[str, Cell]]:
    """Yield which kernels ran, and in how many bits they add two products."""
    if found.get("kernels"):
        counts = ", ".join(f"{count} {name}" for name, count in found["kernels"].items())
        yield "kernels", f"{counts}; two products are added in {16 if found['saturates'] else 32} bits here"


def _difference(found: Record) -> str:
    most, largest = found["p99_9_levels"], found["max_levels"]
    levels = f"99.9 % of values within {most:.2f} levels of 255, all within {largest:.2f}"
    return f"{_db(found['psnr'])} between simulation and runtime; {levels}"


def _db(value: float | None) -> str:
    return "identical" if value is None else f"{value:.2f} dB"


def _outcome(summary: Record, folder: Path) -> Iterator[tuple[str, Cell]]:
    seconds = summary["seconds"]
    phases = ", ".join(f"{phase} {count:.1f}" for phase, count in seconds.items())
    yield "seconds", f"{sum(seconds.values()):.1f} ({phases})"
    yield "folder", str(folder)
    yield "files", ", ".join(_files(summary["artifacts"], folder))


def _files(artifacts: Sequence[str], folder: Path) -> list[str]:
    """The target's files first, the one to run before all."""
    others = {path.name for path in folder.iterdir()} - set(artifacts)
    return [*artifacts, *sorted(others)]


def _next_steps(summary: Record, folder: str) -> list[str]:
    steps = [f"srptq evaluate {folder} --data DIR"]
    if not summary["artifacts"]:
        return steps
    command = summary.get("command")
    return [*([f"cd {folder} && {command}"] if command else []), *steps, f"srptq verify {folder}"]
