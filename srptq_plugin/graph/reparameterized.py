"""Weights that are computed from other parameters, replaced by plain ones in a copied module or a traced program."""

import copy
from itertools import count
from typing import Any

from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from srptq_plugin.graph.computed_constants import Constants
from srptq_plugin.graph.module_stack import module_path
from srptq_plugin.graph.operation_names import canonical_op

READERS = frozenset({"conv", "conv_transpose", "linear"})
"""Operations whose second and third arguments are a weight and a bias."""


def plain_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in evaluation mode, without weight norms, spectral norms and parametrizations.

    >>> plain = plain_copy(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)))
    >>> [name for name, _ in plain.named_parameters()]
    ['bias', 'weight']
    """
    attributes = (value for part in module.modules() for value in vars(part).values())
    # deepcopy refuses tensors with a grad_fn. Its memo, keyed by id, takes detached ones instead, which the hooks of
    # weight norms compute again.
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for value in attributes
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    copied = copy.deepcopy(module, memo).cpu().eval()
    for part in copied.modules():
        _remove_norms(part)
    return copied


def _remove_norms(part: nn.Module) -> None:
    for hook in list(vars(part)["_forward_pre_hooks"].values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(part, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(part, hook.name)
    if parametrize.is_parametrized(part):
        # Removal changes the class in place, and deepcopy shares the class with the original.
        shared = type(part)
        own: Any = type(shared.__name__, shared.__bases__, dict(vars(shared)))
        part.__class__ = own
        for name in list(part.parametrizations):  # pyright: ignore[reportArgumentType]
            parametrize.remove_parametrizations(part, name)


def fold_computed(program: ExportedProgram) -> ExportedProgram:
    """Replace weights and biases that no image changes by new parameters, in place, and return the program.

    >>> import torch
    >>> class Scaled(nn.Conv2d):
    ...     def forward(self, x):
    ...         return nn.functional.conv2d(x, 2 * self.weight, self.bias)
    >>> program = torch.export.export(Scaled(3, 3, 1).eval(), (torch.zeros(1, 3, 4, 4),))
    >>> sorted(fold_computed(program).state_dict)
    ['bias', 'computed_weight']
    """
    constants, parameters = Constants.of(program), dict[fx.Node, fx.Node]()
    for reader in program.graph.nodes:
        if canonical_op(str(reader.target)) in READERS:
            for node, leaf in zip(reader.args[1:3], ("weight", "bias"), strict=False):
                value = constants.value(node, reader) if isinstance(node, fx.Node) else None
                if isinstance(node, fx.Node) and node.op == "call_function" and value is not None:
                    path = module_path(reader)
                    name = f"{path}.computed_{leaf}" if path else f"computed_{leaf}"
                    parameters[node] = parameters.get(node) or _add_parameter(program, node, name, value)
                    reader.replace_input_with(node, parameters[node])
    constants.drop_unread(program.graph)
    program.graph.eliminate_dead_code()
    _drop_unread(program)
    program.graph_module.recompile()
    return program


def _drop_unread(program: ExportedProgram) -> None:
    """Remove parameters and constants that nothing reads, such as those that computed ones replace."""
    signature = program.graph_signature
    targets = {**_targets(program), **signature.inputs_to_lifted_tensor_constants}
    unread = [node for node in _placeholders(program) if node.name in targets and not node.users]
    names = {node.name for node in unread}
    signature.input_specs[:] = [spec for spec in signature.input_specs if spec.arg.name not in names]
    for node in unread:
        program.graph.erase_node(node)
        program.state_dict.pop(targets[node.name], None)
        program.constants.pop(targets[node.name], None)


def _targets(program: ExportedProgram) -> dict[str, str]:
    """Return the paths of parameters and buffers by the names of their placeholders."""
    signature = program.graph_signature
    return {**signature.inputs_to_parameters, **signature.inputs_to_buffers}


def _placeholders(program: ExportedProgram) -> list[fx.Node]:
    return [node for node in program.graph.nodes if node.op == "placeholder"]


def _add_parameter(program: ExportedProgram, node: fx.Node, name: str, value: Tensor) -> fx.Node:
    """Return the placeholder of a new parameter with the value of a node, under the first free name."""
    number = next(n for n in count() if _numbered(name, n) not in program.state_dict)
    target = _numbered(name, number)
    with program.graph.inserting_before(_placeholders(program)[0]):
        placeholder = program.graph.placeholder(f"p_{target.replace('.', '_')}")
    placeholder.meta = {"val": node.meta["val"]}
    spec = InputSpec(InputKind.PARAMETER, TensorArgument(placeholder.name), target)
    program.graph_signature.input_specs.insert(0, spec)
    program.state_dict[target] = nn.Parameter(value.clone())
    return placeholder


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name
