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

from srptq_plugin.runs.size_expression import check_guard, check_size, words

NAMED = words(
    # values by the name of their node, and ranges by symbol
    "tensor_values sym_int_values sym_float_values sym_bool_values range_constraints",
    # versions by the namespace of operators, and stored tensors by the path of their parameter
    "opset_version config",
)
"""Fields whose keys are names instead of fields."""
ARGUMENTS = words(
    # tensors and graphs
    "as_tensor as_tensors as_optional_tensor as_optional_tensors as_nested_tensors as_graph",
    # numbers and texts, alone or in lists
    "as_none as_bool as_bools as_int as_ints as_int_lists as_float as_floats as_float_lists as_complex",
    "as_string as_strings",
    # sizes that depend on the input: by name, or as an expression
    "as_sym_int as_sym_ints as_sym_bool as_sym_bools as_sym_float as_sym_floats as_name as_expr",
    # properties of tensors
    "as_scalar_type as_memory_format as_layout as_device",
)
"""The kinds of arguments of a node. Left out are those that name code: operators and custom objects."""
FIELDS = (
    NAMED
    | ARGUMENTS
    | words(
        # the file
        "graph_module schema_version major minor torch_version verifiers guards_code",
        # the module and its signature
        "graph signature module_call_graph fqn in_spec out_spec forward_arg_names input_specs output_specs",
        "user_input user_output parameter parameter_name buffer buffer_name persistent",
        "tensor_constant tensor_constant_name constant_input value",
        # nodes
        "nodes target inputs outputs metadata name arg kind",
        "is_hop_single_tensor_return is_single_tensor_return",
        # tensors
        "dtype sizes strides storage_offset requires_grad device layout type index",
        # numbers and symbols
        "real imag expr_str hint min_val max_val",
        # where a tensor is stored
        "path_name is_param use_pickle tensor_meta",
    )
)
NOTES = ("nn_module_stack", "torch_fn")
"""The notes of a node that are read: the modules that it was traced in. Others name files, or are looked up."""
PYTHON = frozenset[str]().union(
    (f"_operator.{name}" for name in words("add sub mul floordiv truediv mod neg pos pow getitem")),
    (f"_operator.{name}" for name in words("eq ne lt le gt ge and_ or_")),
    (f"torch.sym_{name}" for name in words("int float max min not ite")),
    ("math.trunc", "torch.ops.higher_order.wrap_with_set_grad_enabled"),
)
"""Functions of Python and torch that compute sizes, and one that wraps a part of a graph."""
ASSERTIONS = frozenset(
    {"_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size"}
)
"""Operators of aten that return nothing because they only check."""
TREES = frozenset(pytree.treespec_dumps(pytree.tree_structure(value)) for value in (((0,), {}), 0, (0,), [0]))
"""The structures of an input, which is one image, and of an output."""
PLAIN = re.compile(r"[\w.\-@]*")
QUOTED = re.compile(r"[^\"'\\\r\n\0]*")
"""Text that cannot end the quotes that torch writes around the path of a module."""


def sanitize(document: object) -> Any:
    """Return the same JSON without notes that nobody reads. Raise ValueError unless it describes a network only.

    >>> sanitize({"as_int": 3}), sanitize({"as_custom_obj": {"name": "x"}})
    Traceback (most recent call last):
    ValueError: as_custom_obj: not a field of a network
    """
    return _sanitize("", document)


def _sanitize(field: str, value: Any) -> Any:
    if isinstance(value, dict):
        return _notes(value) if field == "metadata" else _record(field, value)
    if isinstance(value, list):
        return [_sanitize(field, item) for item in value]
    if isinstance(value, str):
        TEXTS.get(field, _check_word)(value)
    if field == "use_pickle" and value is not False:
        raise ValueError("use_pickle: a pickle, which could run code")
    return value


def _record(field: str, record: Mapping[str, Any]) -> dict[str, Any]:
    if field in NAMED:
        check = _check_path if field == "config" else _check_word
        for name in record:
            check(name)
        return {name: _sanitize("", value) for name, value in record.items()}
    unknown = [name for name in record if name not in FIELDS]
    # torch writes fields that it does not use as empty ones. Unknown empty fields are dropped, so newer archives load.
    if used := [name for name in unknown if record[name] not in (None, False, [], {})]:
        raise ValueError(f"{used[0][:60]}: not a field of a network")
    return {name: _sanitize(name, value) for name, value in record.items() if name not in unknown}


def _notes(notes: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: str(notes[name]) for name in NOTES if name in notes}
    for text in texts.values():
        _check_path(text)
    return texts


def _check_word(text: str) -> None:
    if not PLAIN.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is not a name")


def _check_path(text: str) -> None:
    if not QUOTED.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is not the path of a module")


def _check_name(text: str) -> None:
    if text and not text.isidentifier():
        raise ValueError(f"{text[:60]!r} is not the name of a variable")


def _check_tree(text: str) -> None:
    if text not in TREES:
        raise ValueError(f"{text[:60]!r} is not one image")


def _check_device(text: str) -> None:
    if text != "cpu":
        raise ValueError(f"{text[:60]!r} is not the device that networks are stored on")


def _check_text(text: str) -> None:
    """Check an argument that is text: a mode, or an equation of einsum."""
    if not re.fullmatch(r"[\w.,>\- ]*", text):
        raise ValueError(f"{text[:60]!r} is not a word")


def _check_version(text: str) -> None:
    if not re.fullmatch(r"[\w.+<=\-]*", text):
        raise ValueError(f"{text[:60]!r} is not a version")


@lru_cache(maxsize=1024)
def _check_operator(target: str) -> None:
    """Refuse everything but arithmetic, and operators of aten that only compute tensors and sizes."""
    aten = re.fullmatch(r"torch\.ops\.aten\.([A-Za-z]\w*|_\w+)\.(\w+)", target)
    if target not in PYTHON and not (aten and _computes(aten[1], aten[2])):
        raise ValueError(f"target: {target[:60]!r} is not an operator of a network")


def _computes(name: str, overload: str) -> bool:
    """Return True for an operator that returns a value and touches no file, unlike `aten.save` and `aten.from_file`."""
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
"""The check of a text by its field. Any other text is a plain word."""
