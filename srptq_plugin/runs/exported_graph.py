"""The graph of an exported program as JSON: only fields, names, sizes and operators that cannot run code.

torch turns this JSON into Python. Its reader (torch/_export/serde/serialize.py, torch/utils/_pytree.py) evaluates
`expr_str` with sympify, looks `target` up in torch, math and operator, imports modules that a tree specification
names (enums, defaultdicts), and builds custom objects. torch/fx/graph.py writes the names of nodes, parameters and
arguments into source that it executes, and torch/export/_unlift.py does so with `guards_code`. Each of these has a
rule here. A field without a rule holds a plain word, and a field that is not listed is refused.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from srptq_plugin.runs.size_expression import check_guard, check_size

NAMED = frozenset(
    {"tensor_values", "sym_int_values", "sym_float_values", "sym_bool_values", "range_constraints", "opset_version"}
    | {"config"}
)
"""Fields whose keys are names, not fields."""
ARGUMENTS = frozenset(
    {"as_none", "as_tensor", "as_tensors", "as_int", "as_ints", "as_float", "as_floats", "as_string", "as_strings"}
    | {"as_sym_int", "as_sym_ints", "as_sym_bool", "as_sym_bools", "as_sym_float", "as_sym_floats", "as_scalar_type"}
    | {"as_memory_format", "as_layout", "as_device", "as_bool", "as_bools", "as_graph", "as_optional_tensor", "as_name"}
    | {"as_optional_tensors", "as_complex", "as_nested_tensors", "as_int_lists", "as_float_lists", "as_expr"}
)
FIELDS = frozenset(
    {"graph_module", "range_constraints", "opset_version", "schema_version", "major", "minor", "verifiers"}
    | {"torch_version", "guards_code", "graph", "signature", "module_call_graph", "metadata", "inputs", "outputs"}
    | {
        "nodes",
        "target",
        "name",
        "arg",
        "kind",
        "is_hop_single_tensor_return",
        "is_single_tensor_return",
        "real",
        "imag",
    }
    | {"dtype", "sizes", "strides", "storage_offset", "requires_grad", "device", "layout", "type", "index", "expr_str"}
    | {"hint", "input_specs", "output_specs", "user_input", "parameter", "parameter_name", "buffer", "buffer_name"}
    | {
        "persistent",
        "tensor_constant",
        "tensor_constant_name",
        "constant_input",
        "value",
        "user_output",
        "fqn",
        "in_spec",
    }
    | {"out_spec", "forward_arg_names", "min_val", "max_val", "path_name", "is_param", "use_pickle", "tensor_meta"}
    | NAMED
    | ARGUMENTS
)
KEPT = ("nn_module_stack", "torch_fn")
"""What is read of a node's notes: the modules that it was traced in. The others name files, or are looked up."""
PYTHON = frozenset(
    {
        f"_operator.{name}"
        for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "pow", "getitem")
    }
    | {f"_operator.{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_")}
    | {f"torch.sym_{name}" for name in ("int", "float", "max", "min", "not", "ite")}
    | {"math.trunc", "torch.ops.higher_order.wrap_with_set_grad_enabled"}
)
ASSERTIONS = frozenset(
    {"_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size"}
)
"""Operators of aten that return nothing, and only check."""
TREES = frozenset(pytree.treespec_dumps(pytree.tree_structure(value)) for value in (((0,), {}), 0, (0,), [0]))
"""Of the input, one image, and of the output."""
PLAIN = re.compile(r"[\w.\-@]*")
QUOTED = re.compile(r"[^\"'\\\r\n\0]*")
"""What stays within the quotes that torch writes around the name of a module."""


def checked(document: object) -> Any:
    """Return the same JSON without notes, or raise ValueError where it holds anything else than a network.

    >>> checked({"as_int": 3}), checked({"as_custom_obj": {"name": "x"}})
    Traceback (most recent call last):
    ValueError: as_custom_obj: no field of a network
    """
    return _value("", document)


def _value(field: str, value: Any) -> Any:
    if isinstance(value, dict):
        return _notes(value) if field == "metadata" else _record(field, value)
    if isinstance(value, list):
        return [_value(field, item) for item in value]
    if isinstance(value, str):
        TEXTS.get(field, _check_word)(value)
    if field == "use_pickle" and value is not False:
        raise ValueError("use_pickle: a pickle, which could run code")
    return value


def _record(field: str, record: Mapping[str, Any]) -> dict[str, Any]:
    if field in NAMED:
        for name in record:
            (_check_path if field == "config" else _check_word)(name)
        return {name: _value("", value) for name, value in record.items()}
    unknown = [name for name in record if name not in FIELDS]
    if used := [name for name in unknown if record[name] not in (None, False, [], {})]:
        raise ValueError(f"{used[0][:60]}: no field of a network")
    return {name: _value(name, value) for name, value in record.items() if name not in unknown}


def _notes(notes: Mapping[str, Any]) -> dict[str, str]:
    kept = {name: str(notes[name]) for name in KEPT if name in notes}
    for text in kept.values():
        _check_path(text)
    return kept


def _check_word(text: str) -> None:
    if not PLAIN.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is no name")


def _check_path(text: str) -> None:
    if not QUOTED.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is no path of a module")


def _check_name(text: str) -> None:
    if text and not text.isidentifier():
        raise ValueError(f"{text[:60]!r} is no name of a variable")


def _check_tree(text: str) -> None:
    if text not in TREES:
        raise ValueError(f"{text[:60]!r} is not one image")


def _check_device(text: str) -> None:
    if text != "cpu":
        raise ValueError(f"{text[:60]!r} is not the device that networks are stored on")


def _check_text(text: str) -> None:
    """Check an argument that is text: a mode, or an equation of einsum."""
    if not re.fullmatch(r"[\w.,>\- ]*", text):
        raise ValueError(f"{text[:60]!r} is no word")


def _check_version(text: str) -> None:
    if not re.fullmatch(r"[\w.+<=\-]*", text):
        raise ValueError(f"{text[:60]!r} is no version")


@lru_cache(maxsize=1024)
def _check_operator(target: str) -> None:
    """Refuse everything but arithmetic, and operators of aten that only compute tensors and sizes."""
    aten = re.fullmatch(r"torch\.ops\.aten\.([A-Za-z]\w*|_\w+)\.(\w+)", target)
    if target not in PYTHON and not (aten and _computes(aten[1], aten[2])):
        raise ValueError(f"target: {target[:60]!r} is no operator of a network")


def _computes(name: str, overload: str) -> bool:
    """Whether an operator returns something and touches no file, as `aten.save` and `aten.from_file` do."""
    operator: Any = getattr(getattr(torch.ops.aten, name, None), overload, None)
    if not isinstance(operator, OpOverload):
        return False
    schema: Any = operator._schema  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    files = any(argument.name == "filename" for argument in schema.arguments)
    return not files and (bool(schema.returns) or name in ASSERTIONS)


TEXTS: Mapping[str, Callable[[str], None]] = {
    "expr_str": check_size,
    "guards_code": check_guard,
    "target": _check_operator,
    "name": _check_name,
    "as_name": _check_name,
    "forward_arg_names": _check_name,
    "parameter_name": _check_path,
    "buffer_name": _check_path,
    "tensor_constant_name": _check_path,
    "fqn": _check_path,
    "in_spec": _check_tree,
    "out_spec": _check_tree,
    "type": _check_device,
    "as_string": _check_text,
    "as_strings": _check_text,
    "torch_version": _check_version,
}
"""What a text may be, by its field; any other is a word."""
