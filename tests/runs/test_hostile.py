"""Run folders from elsewhere: a forged network runs no code, in whichever member of the archive it is."""

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import refused
from helpers.forging import (
    CONSTANTS,
    GRAPH,
    SAMPLES,
    WEIGHTS,
    Members,
    Payload,
    check_refused,
    edit,
    forge,
    read_members,
    saved,
    use,
)
from helpers.sweeping import run as srptq

from srptq_plugin.runs.run import PROGRAM

pytest.importorskip("torchao")

Keys = tuple[str | int, ...]


def first(config: Any) -> Any:
    return next(iter(config["config"].values()))


def pickled_weight(members: Members, payload: Payload) -> None:
    edit(members, WEIGHTS, lambda config: first(config).update(use_pickle=True))
    members["data/weights/" + first(json.loads(members[WEIGHTS]))["path_name"]] = saved(payload)


def pickled_tensor(members: Members, _: Payload) -> None:
    edit(members, WEIGHTS, lambda config: first(config).update(use_pickle=True))
    members["data/weights/" + first(json.loads(members[WEIGHTS]))["path_name"]] = saved(torch.zeros(6, 3, 3, 3))


def constant(kind: str) -> Callable[[Members, Payload], None]:
    def put(members: Members, payload: Payload) -> None:
        entry = {"path_name": f"{kind}_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        edit(members, CONSTANTS, lambda config: config["config"].update(evil=entry))
        members[f"data/constants/{kind}_0"] = (pickle.dumps if "obj" in kind else saved)(payload)

    return put


def old_tensors(name: str) -> Callable[[Members, Payload], None]:
    return lambda members, payload: members.update({name: saved({"a": payload})})


def in_graph(change: Callable[[Any, Payload], object]) -> Callable[[Members, Payload], None]:
    return lambda members, payload: edit(members, GRAPH, lambda document: change(document, payload))


def guard(document: Any, payload: Payload) -> None:
    document["guards_code"] = [f"{payload.code} == L['x'].size()[2]"]


def guard_in_brackets(document: Any, payload: Payload) -> None:
    document["guards_code"] = [f"L['x'].size()[{payload.code} or 0] == 1"]


def tree(kind: str, context: str) -> str:
    leaf = {"type": None, "context": None, "children_spec": []}
    inputs = {"type": "builtins.tuple", "context": "null", "children_spec": [leaf]}
    return json.dumps(
        [1, inputs | {"children_spec": [inputs, {"type": kind, "context": context, "children_spec": []}]}]
    )


def enumeration(document: Any, payload: Payload) -> None:
    payload.marker.with_name("evil_module.py").write_text(payload.code)
    context = json.dumps([{"__enum__": True, "fqn": "evil_module:A", "name": "x"}])
    document["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = tree("builtins.dict", context)


def default_factory(document: Any, payload: Payload) -> None:
    payload.marker.with_name("evil_module.py").write_text(payload.code)
    context = {"default_factory_module": "evil_module", "default_factory_name": "x", "dict_context": []}
    spec = (
        tree("collections.defaultdict", "null").replace('"null"', "CONTEXT", 2).replace('"null"', json.dumps(context))
    )
    document["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec.replace("CONTEXT", '"null"')


def target(name: str) -> Callable[[Any, Payload], None]:
    def put(document: Any, payload: Payload) -> None:
        node = document["graph_module"]["graph"]["nodes"][-1]
        node["target"] = name
        node["inputs"] = [{"name": "", "arg": {"as_string": str(payload.marker)}, "kind": 1}]

    return put


def custom_object(document: Any, _: Payload) -> None:
    document["graph_module"]["graph"]["custom_obj_values"] = {"evil": {"name": "evil", "class_fqn": "os.system"}}


def operator_argument(document: Any, payload: Payload) -> None:
    document["graph_module"]["graph"]["nodes"][-1]["inputs"][0]["arg"] = {"as_operator": payload.code}


def namedtuple(document: Any, _: Payload) -> None:
    document["graph_module"]["treespec_namedtuple_fields"] = {"os.system": {"field_names": ["x"]}}


def saves_a_file(document: Any, payload: Payload) -> None:
    graph = document["graph_module"]["graph"]
    filename = {"name": "filename", "arg": {"as_string": str(payload.marker)}, "kind": 1}
    item = {"name": "item", "arg": {"as_tensor": {"name": "x"}}, "kind": 1}
    node = {"target": "torch.ops.aten.save.default", "inputs": [item, filename], "outputs": [], "metadata": {}}
    graph["nodes"].append(node)


FORGED: dict[str, Callable[[Members, Payload], object]] = {
    "a pickled weight that runs a command": pickled_weight,
    "a pickled weight": pickled_tensor,
    "an opaque constant": constant("opaque_obj"),
    "a custom constant": constant("custom_obj"),
    "a pickled constant": constant("tensor"),
    "a pickle elsewhere": lambda members, payload: members.update({"data/x/model.pt": saved(payload)}),
    "old weights": old_tensors("data/weights/model.pt"),
    "old constants": old_tensors("data/constants/model.pt"),
    "a library": lambda members, _: members.update({"data/aotinductor/model/a.so": b"\x7fELF"}),
    "an extra file": lambda members, _: members.update({"extra/a": b"a"}),
    "another network": lambda members, _: members.update({"models/other.json": members[GRAPH]}),
    "a guard": in_graph(guard),
    "a guard in brackets": in_graph(guard_in_brackets),
    "an enum in the tree": in_graph(enumeration),
    "a defaultdict in the tree": in_graph(default_factory),
    "a named tuple": in_graph(namedtuple),
    "a custom object": in_graph(custom_object),
    "an operator as an argument": in_graph(operator_argument),
    "an operator that writes a file": in_graph(saves_a_file),
    "torch.load": in_graph(target("torch.load")),
    "torch.hub.load": in_graph(target("torch.hub.load")),
    "torch.ops.load_library": in_graph(target("torch.ops.load_library")),
    "torch.os.system": in_graph(target("torch.os.mkdir")),
    "_operator.methodcaller": in_graph(target("_operator.methodcaller")),
    "an extension": in_graph(target("#evil:os.system")),
    "another library's operator": in_graph(target("torch.ops.torchao.quantize.default")),
    "a file of tensors": in_graph(target("torch.ops.aten.from_file.default")),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_member_runs_nothing(
    kind: str, received: Path, payload: Payload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(payload.marker.parent))
    forge(received, lambda members: FORGED[kind](members, payload))
    check_refused(received, payload)


@pytest.mark.parametrize("gives", ["None", "((__import__('torch').zeros(2, 3, 48, 64),), {})"])
def test_sample_inputs_are_not_read(gives: str, received: Path, payload: Payload) -> None:
    pickled = saved(replace(payload, gives=gives))
    forge(received, lambda members: members.update({SAMPLES: pickled}))
    use(received)
    assert not payload.marker.exists()


def texts(value: Any, keys: Keys = ()) -> Iterator[Keys]:
    """Yield the keys that lead to each text of a document."""
    if isinstance(value, str):
        yield keys
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from texts(inner, (*keys, key))


NAMED = ("tensor_values", "sym_int_values", "config")


def kind_of(keys: Keys) -> Keys:
    """Replace the numbers and names among keys by `*`, which leaves the kind of a text."""
    return tuple(
        "*" if isinstance(key, int) or before in NAMED else key
        for before, key in zip(("", *keys[:-1]), keys, strict=True)
    )


def one_text_per_kind(document: Any) -> list[Keys]:
    firsts: dict[Keys, Keys] = {}
    for keys in texts(document):
        firsts.setdefault(kind_of(keys), keys)
    return list(firsts.values())


def put(document: Any, keys: Keys, value: object) -> None:
    for key in keys[:-1]:
        document = document[key]
    document[keys[-1]] = value


SHAPES = ("{}", "x; {}; y", "x = {}", "x\n    {}\n    y", "'), {}, ('", '"), {}, ("', "x): pass\n{}\ndef f(y")
"""Ways to put code into a text that is evaluated, or that becomes part of executed source."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [GRAPH, WEIGHTS])
def test_a_text_is_never_code(name: str, shape: str, received: Path, payload: Payload) -> None:
    document = json.loads(read_members(received / PROGRAM)[name])
    kinds = {kind_of(keys)[-1] for keys in one_text_per_kind(document)}
    assert name != GRAPH or {"expr_str", "target", "name", "as_name", "in_spec", "nn_module_stack"} <= kinds
    for keys in one_text_per_kind(document):
        copy = shutil.copytree(received, received.with_name("copy"))
        evil = shape.format(payload.code)
        forge(copy, lambda members, keys=keys, evil=evil: edit(members, name, lambda graph: put(graph, keys, evil)))
        check_refused(copy, payload)
        shutil.rmtree(copy)


def test_a_name_is_never_code(received: Path, payload: Payload) -> None:
    document = json.loads(read_members(received / PROGRAM)[GRAPH])
    for name in ("tensor_values", "sym_int_values"):
        evil = json.loads(json.dumps(document))
        values = evil["graph_module"]["graph"][name]
        values[payload.code] = values.pop(next(iter(values)))
        forge(received, lambda members, evil=evil: members.update({GRAPH: json.dumps(evil).encode()}))
        check_refused(received, payload)


def test_the_command_line_refuses_a_forged_run(received: Path, payload: Payload) -> None:
    forge(received, lambda members: pickled_weight(members, payload))
    refused(srptq("cost", received), PROGRAM, "a pickle, which could run code", "run `srptq quantize` again")
    assert not payload.marker.exists()
