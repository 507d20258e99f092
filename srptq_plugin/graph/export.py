"""Export of a module by torch.export: batch norms and mean shifts folded, for any image size unless one is chosen."""

import copy
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from traceback import extract_tb

import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode
from torch.export import Dim, ExportedProgram

from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.network import GUARDS, Network, drop_identities, tensor_arguments
from srptq_plugin.graph.reparameterized import fold_computed, plain_copy
from srptq_plugin.graph.types import Size
from srptq_plugin.utils.elapsed import reported
from srptq_plugin.utils.time_limit import TimeLimitError, time_limit

EXAMPLE: Size = (2, 3, 48, 64)
"""The input to trace for any size. torch.export specializes on lengths of 0 and 1, so the batch has two images."""
ANY = (0, 2, 3)
"""The axes that may have any length: batch, height and width."""
LIMIT, LIMIT_OF_EACH = 60.0, 0.2
"""The seconds that tracing for more than one size may take: at least, and for each module of the network."""
CURE = (
    "`input_size`, with the recipe's calibration.size as height and width, traces that size only, in seconds rather "
    "than minutes"
)
BATCH_NORMS = frozenset({"batch_norm", "_native_batch_norm_legit_no_training"})


def export_network(
    module: nn.Module, size: Size | None = None, multiple: int = 1, channels: int = 3
) -> ExportedProgram:
    """Trace a network in evaluation mode, with batch norms, mean shifts and computed weights folded.

    Args:
        module: The network. It stays as it is.
        size: The only size that the program takes. By default it takes any batch, height and width.
        multiple: The number that heights and widths have to be multiples of.
        channels: The channels of an image.

    >>> program = export_network(nn.Conv2d(3, 3, 3, padding=1))
    >>> program.module()(torch.zeros(1, 3, 9, 11)).shape
    torch.Size([1, 3, 9, 11])
    """
    return fold_computed(fold_and_trace(module, size, multiple, channels)[1])


def export_at_size(module: nn.Module, size: Size) -> ExportedProgram:
    """Trace a network at one height and width, for any batch if the network takes that, and for one image if not."""
    example = EXAMPLE[0], *size[1:]
    try:
        simpler, program = _fold_and_trace(module, example, (0,))
        _refuse_guards(simpler, program, example, 0)
        return fold_computed(program)
    except SrptqError:
        return export_network(module, size)


def fold_and_trace(
    module: nn.Module, size: Size | None = None, multiple: int = 1, channels: int = 3
) -> tuple[nn.Module, ExportedProgram]:
    """Return the exported module, a folded copy on the CPU in evaluation mode, and its program."""
    if size:
        return _fold_and_trace(module, size, ())
    example = _example(multiple, channels)
    simpler, program = _fold_and_trace(module, example, ANY)
    _refuse_guards(simpler, program, example, multiple)
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
        with warnings.catch_warnings(), reported("tracing"), _limit(module, axes):
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (torch.zeros(example),), dynamic_shapes=dynamic)
    except TimeLimitError as error:
        sizes = "any image size" if axes == ANY else "any batch"
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
    traced = [line for line in lines if "/torch/" not in line[0] and line[0] != __file__]
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


def _refuse_guards(module: nn.Module, program: ExportedProgram, example: Size, step: int) -> None:
    """Raise if the program differs from the network at other sizes, because torch assumed something of the example."""
    batch, channels, height, width = example
    # Height and width grow by different numbers of steps, so that no relation between them stays the example's.
    for more in (1, 2):
        size = batch + more, channels, height + more * step, width + (3 - more) * step
        fault = _fault_at(program, size)
        if fault and not _is_alike(module, program, size):
            traced, failed = (" x ".join(map(str, shape)) for shape in (example, size))
            raise SrptqError(
                f"the network was traced on {traced} and is another on {failed} ({fault}); give `input_size`"
            )


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
    for node in [node for node in graph.graph.nodes if node.target == GUARDS]:
        graph.graph.erase_node(node)
    graph.recompile()
    try:
        with torch.no_grad():
            return torch.allclose(graph(image), module(image), rtol=1e-3, atol=1e-5)
    except Exception:  # noqa: BLE001 - one of them does not run
        return False


def fold(module: nn.Module, program: ExportedProgram) -> nn.Module | None:
    """Return a copy with batch norms and mean shifts folded into the convolutions before them, or None without any.

    Args:
        module: The network.
        program: Its trace, from which the pairs are known.

    >>> network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    >>> fold(network, torch.export.export(network, (torch.zeros(1, 3, 8, 8),)))[1]
    Identity()
    """
    pairs = list(_pairs(Network(program.module())))
    if not pairs:
        return None
    simpler = copy.deepcopy(module)
    for conv_path, after_path in pairs:
        conv, after = simpler.get_submodule(conv_path), simpler.get_submodule(after_path)
        if isinstance(conv, nn.Conv2d) and isinstance(after, nn.BatchNorm2d | nn.Conv2d):
            _fold_into(conv, *(_diagonal(after) if isinstance(after, nn.Conv2d) else _affine(after)))
            parent, _, name = after_path.rpartition(".")
            setattr(simpler.get_submodule(parent), name, nn.Identity())
    return simpler


def fold_mean_shifts(module: fx.GraphModule) -> fx.GraphModule:
    """Fold mean shifts into the convolutions before them, in place, in a traced graph that a toolkit will prepare.

    The graph gets new parameters of the same names. The network that it was traced from stays as it is.
    """
    network = Network(module)
    readers = Counter(str(node.target) for node in module.graph.nodes if node.op == "get_attr")
    for shift in [node for node, op in network.ops.items() if op == "conv" and network.is_mean_shift(node)]:
        conv = tensor_arguments(shift)[0]
        if network.ops.get(conv) == "conv" and len(conv.users) == 1:
            weight = network.parameter(conv, 1)
            if weight is not None and readers[weight[0]] == 1:
                _fold_node(network, conv, shift)
    module.recompile()
    return module


def _fold_node(network: Network, conv: fx.Node, shift: fx.Node) -> None:
    weight, bias = network.parameter(conv, 1), network.parameter(conv, 2)
    scale, offset = network.parameter(shift, 1), network.parameter(shift, 2)
    if weight is None or scale is None:
        return
    name, values = weight
    path, _, leaf = name.rpartition(".")
    owner, diagonal = network.module.get_submodule(path), scale[1][..., 0, 0].diagonal()
    biases = (torch.zeros_like(diagonal) if bias is None else bias[1]) * diagonal
    setattr(owner, leaf, nn.Parameter(values * diagonal[:, None, None, None]))
    leaf = "bias" if bias is None else bias[0].rpartition(".")[2]
    setattr(owner, leaf, nn.Parameter(biases if offset is None else biases + offset[1]))
    if bias is None:
        with network.module.graph.inserting_before(conv):
            conv.update_arg(2, network.module.graph.get_attr(f"{path}.bias" if path else "bias"))
    shift.replace_all_uses_with(conv)
    network.module.graph.erase_node(shift)


def _pairs(network: Network) -> Iterator[tuple[str, str]]:
    """Yield the module paths of a convolution and of the norm or shift that alone follows it.

    Modules that are called more than once are left out.
    """
    paths = Counter(key.path for key in network.keys.values())
    for node, op in network.ops.items():
        if op in BATCH_NORMS or (op == "conv" and network.is_mean_shift(node)):
            before = tensor_arguments(node)[0]
            if network.ops.get(before) == "conv" and len(before.users) == 1:
                pair = network.keys[before].path, network.keys[node].path
                if paths[pair[0]] == paths[pair[1]] == 1:
                    yield pair


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift of each channel: gamma / sqrt(variance + eps), and beta - mean * scale."""
    zero = torch.zeros(norm.num_features)
    mean, variance = norm.running_mean, norm.running_var
    scale = ((zero + 1 if variance is None else variance) + norm.eps).rsqrt()
    scale = scale * norm.weight if norm.affine else scale
    return scale, (norm.bias if norm.affine else zero) - (zero if mean is None else mean) * scale


def _diagonal(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    scale = conv.weight[..., 0, 0].diagonal()
    return scale, torch.zeros_like(scale) if conv.bias is None else conv.bias


def _fold_into(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    # scale * (w * x + b) + shift: the scale belongs to output channels, the first axis of a weight.
    bias = torch.zeros_like(shift) if conv.bias is None else conv.bias
    learns = conv.weight.requires_grad
    conv.weight = nn.Parameter((conv.weight * scale[:, None, None, None]).detach(), requires_grad=learns)
    conv.bias = nn.Parameter((bias * scale + shift).detach(), requires_grad=learns)
