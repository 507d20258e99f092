"""Export of a module by torch.export: batch norms and mean shifts folded, for any image size unless one is chosen."""

import copy
import math
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from traceback import extract_tb

import torch
from torch import fx, nn
from torch._subclasses import FakeTensorMode
from torch.export import Dim, ExportedProgram

from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.adaptive_pooling import SymbolicPooling
from srptq_plugin.graph.batch_norms import fold
from srptq_plugin.graph.network import drop_guards, drop_identities
from srptq_plugin.graph.reparameterized import fold_computed, plain_copy
from srptq_plugin.graph.rewrites import rewrite
from srptq_plugin.graph.types import Size
from srptq_plugin.utils.elapsed import reported
from srptq_plugin.utils.time_limit import TimeLimitError, time_limit

HERE = Path(__file__).parent
EXAMPLE: Size = (2, 3, 47, 61)
"""The input to trace for any size. torch.export specializes on lengths of 0 and 1, so the batch has two images.

No window divides the sides. A network that pads only where it has to does so here, and the program always pads.
"""
ANY = (0, 2, 3)
"""The axes that may have any length: batch, height and width."""
WINDOWS = 64 * 3 * 5 * 7
"""A number that the sides of usual windows divide."""
LARGER = (3, 7)
"""Factors of the example's sides at which a program is compared too. Some networks cut larger images in parts."""
LEAST_COMPARED = 48
"""The least side of an image on which a program is compared with its network where windows divide the sides."""
LARGEST_COMPARED = 512
"""The largest side that is compared. Larger images take too much memory."""
LIMIT, LIMIT_OF_EACH = 60.0, 0.2
"""The seconds that tracing for more than one size may take: at least, and for each module of the network."""
CURE = (
    "`input_size`, with the recipe's calibration.size as height and width, traces that size only, in seconds rather "
    "than minutes"
)


def export_network(
    module: nn.Module, size: Size | None = None, multiple: int = 1, channels: int = 3
) -> ExportedProgram:
    """Trace a network in evaluation mode, with batch norms, mean shifts and computed weights folded.

    Args:
        module: The network. It stays as it is.
        size: The only size that the program takes. By default it takes any height and width, and any batch if
            the network does.
        multiple: The number that heights and widths have to be multiples of.
        channels: The channels of an image.

    >>> program = export_network(nn.Conv2d(3, 3, 3, padding=1))
    >>> program.module()(torch.zeros(1, 3, 9, 11)).shape
    torch.Size([1, 3, 9, 11])
    """
    return fold_computed(rewrite(fold_and_trace(module, size, multiple, channels)[1]))


def export_at_size(module: nn.Module, size: Size) -> ExportedProgram:
    """Trace a network at one height and width, for any batch if the network takes that, and for one image if not."""
    example = EXAMPLE[0], *size[1:]
    try:
        simpler, program = _fold_and_trace(module, example, (0,))
        _refuse_guards(simpler, program, example, (0,))
        return fold_computed(rewrite(program))
    except SrptqError:
        return export_network(module, size)


def fold_and_trace(
    module: nn.Module, size: Size | None = None, multiple: int = 1, channels: int = 3
) -> tuple[nn.Module, ExportedProgram]:
    """Return the exported module, a folded copy on the CPU in evaluation mode, and its program.

    Without a size, the program takes any batch, height and width, or one image of any size if that is what traces.
    """
    if size:
        return _fold_and_trace(module, size, ())
    example = _example(multiple, channels)
    try:
        return _trace_any_size(module, example, ANY, multiple)
    except SrptqError as error:
        if not isinstance(error.__cause__, TimeLimitError):
            with suppress(SrptqError):
                return _trace_any_size(module, (1, *example[1:]), ANY[1:], multiple)
        raise


def _trace_any_size(
    module: nn.Module, example: Size, axes: Sequence[int], multiple: int
) -> tuple[nn.Module, ExportedProgram]:
    simpler, program = _fold_and_trace(module, example, axes)
    _refuse_guards(simpler, program, example, axes, multiple)
    return simpler, program


def _fold_and_trace(module: nn.Module, example: Size, axes: Sequence[int]) -> tuple[nn.Module, ExportedProgram]:
    # Which modules follow each other is known from a trace only. Folding then changes modules, so that it traces again.
    module = plain_copy(module)
    program = _trace(module, example, axes)
    simpler = fold(module, program)
    return (module, program) if simpler is None else (simpler, _trace(simpler, example, axes))


def graph_of(program: ExportedProgram) -> fx.GraphModule:
    """Return the graph to plan on, without operations that change nothing."""
    return drop_identities(program.module())


def own_module(program: ExportedProgram) -> fx.GraphModule:
    """Return the graph with its own copies of the parameters. `program.module()` shares its parameters instead.

    >>> program = export_network(nn.Conv2d(3, 3, 3))
    >>> own_module(program).weight is program.module().weight
    False
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about the copied program
        return copy.deepcopy(program.module())


def _trace(module: nn.Module, example: Size, axes: Sequence[int]) -> ExportedProgram:
    """Trace at any length of these axes of the input."""
    dynamic = (dict.fromkeys(axes, Dim.AUTO),) if axes else None
    try:
        with warnings.catch_warnings(), reported("tracing"), _limit(module, axes), SymbolicPooling():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (torch.zeros(example),), dynamic_shapes=dynamic)
    except TimeLimitError as error:
        sizes = "any batch" if axes == (0,) else "any image size"
        raise SrptqError(f"tracing {type(module).__name__} for {sizes} took {error}; {CURE}") from error
    except Exception as error:
        raise SrptqError(_explain_refusal(module, example, error)) from error
    _refuse_fixed_sizes(program, example, axes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine, which every written file would carry
    return program


def _limit(module: nn.Module, axes: Sequence[int]) -> AbstractContextManager[None]:
    """Limit the time of a trace whose sizes are symbols: relations between them can take hours to simplify."""
    return time_limit(max(LIMIT, LIMIT_OF_EACH * len(list(module.modules())))) if axes else nullcontext()


def _example(multiple: int, channels: int) -> Size:
    """Return an input to trace for any size. Its height and width differ, or torch would assume that they are equal."""
    height, width = (-(-side // multiple) * multiple for side in EXAMPLE[2:])
    return EXAMPLE[0], channels, height, max(width, height + multiple)


def _explain_refusal(module: nn.Module, example: Size, error: Exception) -> str:
    """Return the line that torch.export refused, its reason, and the cure."""
    text = str(error)
    lines = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\s*\n\s*(\S[^\n]*)', text)
    lines = lines or [
        (frame.filename, frame.lineno, frame.name, frame.line) for frame in extract_tb(error.__traceback__)
    ]
    traced = [line for line in lines if "/torch/" not in line[0] and Path(line[0]).parent != HERE]
    where = "; at {}, line {}, in {}: {}".format(*traced[-1]) if traced else ""
    cause = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return (
        f"torch.export cannot trace {type(module).__name__} on a batch of {example[0]} of {example[2]} x {example[3]}"
        f"{where}: {cause[:300]}. Make the line free of branches on tensor values (torch.where, fixed loops), "
        "or give `input_size`, which traces a single image of that size"
    )


def _refuse_fixed_sizes(program: ExportedProgram, example: Size, axes: Sequence[int]) -> None:
    image = next(node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    shape = image.meta["val"].shape
    fixed = [axis for axis in axes if str(shape[axis]).isdigit()]
    if fixed:
        limit = "batch" if fixed == [0] else "image size"
        traced = " x ".join(map(str, example))
        raise SrptqError(f"the network runs at one {limit} only (traced on {traced}); give `input_size`")


def _refuse_guards(
    module: nn.Module, program: ExportedProgram, example: Size, axes: Sequence[int], step: int = 0
) -> None:
    """Raise if the program differs from the network at other sizes, because torch assumed something of the example."""
    batch, channels, height, width = example
    # Height and width grow by different numbers of steps, so that no relation between them stays the example's.
    for more in (1, 2):
        size = batch + more * (0 in axes), channels, height + more * step, width + (3 - more) * step
        _refuse_difference(module, program, example, size, _fault_at(program, size))
    if len(axes) > 1:
        for factor in LARGER:
            size = batch, channels, factor * height, factor * width
            _refuse_difference(module, program, example, size, _fault_at(program, size))
        _refuse_windows(module, program, example, step)


def _refuse_windows(module: nn.Module, program: ExportedProgram, example: Size, step: int) -> None:
    """Raise if the program differs where windows divide both sides. A network may pad elsewhere only."""
    side = math.lcm(step, WINDOWS)
    fault = _fault_at(program, (*example[:2], side, 2 * side))  # without values, so that no memory is needed
    if fault:
        divisor = math.lcm(step, *map(int, re.findall(r"% (\d+)", fault)))
        if divisor > LARGEST_COMPARED:
            raise SrptqError(
                f"the network may be another where {divisor} divides the sides than where it was traced ({fault}); "
                "give `input_size`"
            )
        height = -(-LEAST_COMPARED // divisor) * divisor
        _refuse_difference(module, program, example, (*example[:2], height, height + divisor), fault)


def _refuse_difference(module: nn.Module, program: ExportedProgram, example: Size, size: Size, fault: str) -> None:
    if fault and not _is_alike(module, program, size):
        traced, failed = (" x ".join(map(str, shape)) for shape in (example, size))
        raise SrptqError(f"the network was traced on {traced} and is another on {failed} ({fault}); give `input_size`")


def _fault_at(program: ExportedProgram, size: Size) -> str:
    """Run a program on fake tensors, and return the first assumption of torch that does not hold, or ""."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            program.module()(torch.empty(size))
    except Exception as error:  # noqa: BLE001 - whatever the network's operations raise
        return first_line(error)
    return ""


def _is_alike(module: nn.Module, program: ExportedProgram, size: Size) -> bool:
    """Tell whether a program computes the network's output when its guards are removed."""
    graph, image = graph_of(program), torch.rand(size, generator=torch.Generator().manual_seed(0))
    drop_guards(graph.graph)
    graph.recompile()
    try:
        with torch.no_grad():
            return torch.allclose(graph(image), module(image), rtol=1e-3, atol=1e-5)
    except Exception:  # noqa: BLE001 - one of them does not run
        return False
