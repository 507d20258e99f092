"""From a module to an exported program: batch norms folded, any image size unless one is asked for."""

import copy
import re
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_weights

from srptq_plugin.contracts import Size
from srptq_plugin.errors import SrptqError
from srptq_plugin.network import drop_identities, tensor_arguments

EXAMPLE: Size = (2, 3, 48, 64)
_BATCH_NORMS = ("aten.batch_norm", "aten._native_batch_norm_legit_no_training")


def export_network(module: nn.Module, size: Size | None = None) -> ExportedProgram:
    """Trace a network in evaluation mode; without a size, for every batch, height and width.

    >>> program = export_network(nn.Conv2d(3, 3, 3, padding=1))
    >>> program.module()(torch.zeros(1, 3, 9, 11)).shape
    torch.Size([1, 3, 9, 11])
    """
    module = copy.deepcopy(module).eval()
    program = _trace(module, size)
    folded = fold_batch_norms(module, program)
    return _trace(folded, size) if folded is not None else program


def graph_of(program: ExportedProgram) -> fx.GraphModule:
    """The graph to plan on: without operations that change nothing."""
    return drop_identities(program.module())


def _trace(module: nn.Module, size: Size | None) -> ExportedProgram:
    example = torch.zeros(size or EXAMPLE)
    dynamic = None if size else ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (example,), dynamic_shapes=dynamic)
    except Exception as error:
        raise SrptqError(_refusal(module, error)) from error
    if size is None:
        _refuse_fixed_sizes(program)
    return program


def _refusal(module: nn.Module, error: Exception) -> str:
    """Which line torch.export stumbled on, and what to do."""
    text = str(error)
    lines = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\s*\n\s*(\S[^\n]*)', text)
    traced = [line for line in lines if "site-packages/torch/" not in line[0]]
    where = "; at {}, line {}, in {}: {}".format(*traced[-1]) if traced else ""
    cause = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return (
        f"torch.export cannot trace {type(module).__name__}{where}: {cause[:300]}. "
        "Make the line free of branches on tensor values (torch.where, fixed loops), or give a static --input-size"
    )


def _refuse_fixed_sizes(program: ExportedProgram) -> None:
    image = next(node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    fixed = [str(d) for d in image.meta["val"].shape[2:] if isinstance(d, int)]
    if fixed:
        height, width = EXAMPLE[2:]
        raise SrptqError(
            f"the network runs at one image size only (traced at {height} x {width}); "
            "give --input-size 1x3xHxW, and calibration.size to match"
        )


def fold_batch_norms(module: nn.Module, program: ExportedProgram) -> nn.Module | None:
    """A copy with each batch norm folded into the convolution before it; none when there is nothing to fold."""
    pairs = list(_conv_bn_pairs(program.module()))
    if not pairs:
        return None
    folded = copy.deepcopy(module)
    for conv_path, norm_path in pairs:
        _fold(folded, conv_path, norm_path)
    return folded


def _conv_bn_pairs(graph: fx.GraphModule) -> Iterator[tuple[str, str]]:
    for node in graph.graph.nodes:
        if not str(node.target).startswith(_BATCH_NORMS):
            continue
        conv = tensor_arguments(node)[0]
        alone = len(conv.users) == 1 and str(conv.target).startswith("aten.conv2d")
        paths = _owner(conv, 1) if alone else "", _owner(node, 1)
        if all(paths):
            yield paths


def _owner(node: fx.Node, place: int) -> str:
    argument = node.args[place]
    return str(argument.target).rpartition(".")[0] if isinstance(argument, fx.Node) else ""


def _fold(module: nn.Module, conv_path: str, norm_path: str) -> None:
    conv, norm = module.get_submodule(conv_path), module.get_submodule(norm_path)
    if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
        return
    statistics: list[Tensor | None] = [norm.running_mean, norm.running_var]
    mean, variance = (each for each in statistics if each is not None)
    conv.weight, conv.bias = fuse_conv_bn_weights(  # pyright: ignore[reportAttributeAccessIssue]
        conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )
    parent, _, name = norm_path.rpartition(".")
    setattr(module.get_submodule(parent), name, nn.Identity())
