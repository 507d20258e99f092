"""The cost of observing, tuning and importing, as ratios to the float network or torch within one run.

    python benchmarks/speed.py [--threads 2] [--runs 9]

EDSR-baseline x4, random weights. Observing is a forward pass of 16 patches of 48 x 48 through one prepared graph, with
each observer and without any. Tuning is a step of PaC on 2 patches at 4 bits, compared with the float network's forward
and full backward pass. Times are medians of interleaved runs. Memory is the peak of all tensors, and the peak of a
separate process beyond its memory before the step.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization.observer import HistogramObserver
from torch.profiler import ProfilerActivity, profile

from srptq_plugin import Recipe
from srptq_plugin.analysis.analyze import analyze
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.calibration.inputs import Inputs, Source
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.models.edsr import EDSR
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import Bounds, IntGrid, project
from srptq_plugin.quantization.quantizer import Mode, fake_quantize
from srptq_plugin.reconstruction.pac import reconstruct

LEVELS = (0.0, 255.0)
OBSERVERS = ("dbdc", "minmax", "percentile", "mse", "entropy")
PATCHES, EPOCH = 100, 20
_torch_kernel: Any = torch._fake_quantize_learnable_per_tensor_affine  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
Row = tuple[str, float, float]
"""A name, an amount in seconds or MiB, and its ratio to the first row."""


def main() -> None:
    """Measure, and print Markdown."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        _print_peak(arguments.memory)
        return
    for title, unit, measure in (
        ("Observing, 16 patches", "s", lambda: observing(arguments.runs)),
        ("Tuning, a step of 2 patches", "s", tuning),
        ("Fake quantization and its gradient, 2 x 64 x 48 x 48", "s", lambda: rounding(arguments.runs)),
        ("Peak memory of the tensors in a step", "MiB", tensors),
        ("Memory of the process, with the outputs of 100 patches cached", "MiB", lambda: memory(arguments.threads)),
        ("Importing", "s", lambda: importing(arguments.runs)),
        ("Analyzing every site, 8 patches", "s", analyzing),
    ):
        print(f"### {title}\n\n| | {unit} | ratio |\n| --- | --- | --- |")
        for name, amount, ratio in measure():
            print(f"| {name} | {amount:.4g} | {ratio:.2f} |")
        print(flush=True)


def images(count: int) -> Tensor:
    """Return patches of smooth noise, in levels of 8-bit images."""
    noise = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return 255 * nn.functional.interpolate(noise, size=(48, 48), mode="bicubic").clamp(0, 1)


def prepared(*overrides: str) -> PreparedGraph:
    """Return EDSR-baseline with quantizers at its sites."""
    torch.manual_seed(0)
    registry, recipe = Registry(), Recipe.load("paper-w4a4", overrides)
    program = export_network(EDSR(upscale=4, features=64, blocks=16).eval())
    network = Network(graph_of(program))
    plan = BoundRecipe.of(recipe, registry).plan(network, LEVELS)
    return registry.toolkit("torchao").load().realize(program, plan)


class TorchHistogram:
    """Torch's own observer with the interface of ours."""

    def __init__(self) -> None:
        self.observer = HistogramObserver(bins=2048)

    def update(self, values: Tensor) -> None:
        """Observe a tensor."""
        self.observer(values)


def observing(runs: int) -> list[Row]:
    """Time a forward pass with each observer, and with none."""
    graphs = {name: prepared(f"activations.observer={name}") for name in OBSERVERS}
    graphs["torch's HistogramObserver"] = with_torch_observers = prepared()
    for quantizer in with_torch_observers.of_role("activation").values():
        if quantizer.observer is not None:
            quantizer.observer = TorchHistogram()  # pyright: ignore[reportAttributeAccessIssue]
    ways = {"no observer": _forward(graphs["dbdc"], Mode.OFF)}
    return _interleaved(ways | {name: _forward(graph, Mode.OBSERVE) for name, graph in graphs.items()}, runs)


def _forward(graph: PreparedGraph, mode: Mode) -> Callable[[], object]:
    patches = images(16)

    def run() -> None:
        for quantizer in graph.quantizers.values():
            quantizer.mode = mode
        with torch.no_grad():
            graph(patches)

    return run


def tuning() -> list[Row]:
    """Time steps of both turns. After each, a forward and backward pass of the float network is timed."""
    graph, patches = prepared(), images(EPOCH)
    graph.observe([patches])
    plain = _plain_step()
    seconds: dict[str, list[float]] = defaultdict(list)
    before = time.perf_counter()

    def time_step(what: str, done: int, _total: int) -> None:
        nonlocal before
        turn = "weights' turn" if (done - 1) % EPOCH < EPOCH // 2 else "activations' turn"
        if what == "tuning" and done:
            seconds[f"PaC, {turn}"].append(time.perf_counter() - before)
            start = time.perf_counter()
            plain()
            seconds["float, forward and backward"].append(time.perf_counter() - start)
        before = time.perf_counter()

    reconstruct(graph, patches, epochs=4, schedule="alternating", progress=time_step)
    medians = {name: statistics.median(turn[1:]) for name, turn in sorted(seconds.items(), reverse=True)}
    base = medians["float, forward and backward"]
    turns = [amount for name, amount in medians.items() if name.startswith("PaC")]
    medians["PaC, mean of both turns"] = statistics.fmean(turns)
    float_first = sorted(medians.items(), key=lambda item: not item[0].startswith("float"))
    return [(name, amount, amount / base) for name, amount in float_first]


def _plain_step() -> Callable[[], None]:
    network, patches = EDSR(upscale=4, features=64, blocks=16), images(2)
    network.requires_grad_(requires_grad=True)

    def run() -> None:
        network.zero_grad()
        network(patches).abs().mean().backward()

    return run


def rounding(runs: int) -> list[Row]:
    """Time our fake quantization, torch's fused kernel, and the plain arithmetic of MQBench."""
    values = torch.randn(2, 64, 48, 48, requires_grad=True)
    bounds = [torch.tensor(end, dtype=torch.float64, requires_grad=True) for end in (-1.0, 1.0)]

    def ours() -> None:
        fake_quantize(values, project(Bounds(bounds[0], bounds[1]), IntGrid(4))).sum().backward()

    scale, zero_point = torch.tensor([0.125], requires_grad=True), torch.tensor([8.0], requires_grad=True)

    def fused() -> None:
        _torch_kernel(values, scale, zero_point, 0, 15, 1.0).sum().backward()

    def unfused() -> None:
        moved = values / scale + zero_point
        rounded = moved + (moved.round() - moved).detach()
        ((rounded.clamp(0, 15) - zero_point) * scale).sum().backward()

    return _interleaved({"ours": ours, "torch's learnable kernel": fused, "written out": unfused}, 10 * runs)


def tensors() -> list[Row]:
    """Measure torch's allocations, which do not depend on how the process reuses freed blocks."""
    graph, patches = prepared(), images(4)
    graph.observe([patches])
    ways = {"float, forward and backward": _plain_step(), "PaC": lambda: reconstruct(graph, patches, epochs=1)}
    peaks = {name: _peak_of_tensors(run) for name, run in ways.items()}
    return [(name, peak, peak / peaks["float, forward and backward"]) for name, peak in peaks.items()]


def _peak_of_tensors(run: Callable[[], object]) -> float:
    """Return the peak of allocations during a run, in MiB beyond the memory before it."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    results: Any = profiled.profiler
    events = (event for event in results.kineto_results.events() if event.name() == "[memory]")
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes)) / 2**20


def memory(threads: int) -> Iterator[Row]:
    """Measure peaks in separate processes, because a process keeps the memory that it freed."""
    base = 0.0
    for name, what in (("float, forward and backward", "float"), ("PaC", "pac")):
        command = [sys.executable, "-W", "ignore", str(Path(__file__)), "--memory", what, "--threads", str(threads)]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])  # noqa: S603
        base = base or peak
        yield name, peak, peak / base


def _print_peak(what: str) -> None:
    """Print the peak memory of a step in MiB."""
    if what == "float":
        run = _plain_step()
    else:
        graph, patches = prepared(), images(PATCHES)
        graph.observe(list(patches.split(2)))
        run = lambda: reconstruct(graph, patches, epochs=1)  # noqa: E731
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
    before = _memory_of_process("VmRSS")
    run()
    print(_memory_of_process("VmHWM") - before)


def _memory_of_process(field: str) -> float:
    """Return a field of Linux's process status in MiB: VmRSS for the current memory, VmHWM for the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def importing(runs: int) -> list[Row]:
    """Time imports, each in a fresh interpreter."""
    ways = {"torch": "import torch", "torch and srptq_plugin": "import torch, srptq_plugin"}
    return _interleaved({name: _interpreter(code) for name, code in ways.items()}, runs)


def analyzing() -> list[Row]:
    """Time one analysis of each site, alone and left float."""
    torch.manual_seed(0)
    bound = BoundRecipe.resolve("paper-w4a4", Registry(), overrides=["calibration.patches=16"])
    source = Source(EDSR(upscale=4, features=64, blocks=16).eval(), input_range=LEVELS)
    subject = Subject.of_model(Inputs.load(bound, source), 8)
    start = time.perf_counter()
    analysis = analyze(subject, kinds=["site"])
    return [(f"{len(analysis.parts)} sites", time.perf_counter() - start, 1.0)]


def _interpreter(code: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603


def _interleaved(ways: dict[str, Callable[[], object]], runs: int) -> list[Row]:
    """Return medians without the first run. The runs interleave, so a drifting machine affects all alike."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for turn in range(runs + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    base = next(iter(medians.values()))
    return [(name, amount, amount / base) for name, amount in medians.items()]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--memory", choices=("float", "pac"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
