"""The float network of a run folder: read exactly, and refused if it is damaged or holds more than arithmetic."""

from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from helpers.forging import (
    CONSTANTS,
    GRAPH,
    IMAGE,
    SAMPLES,
    WEIGHTS,
    Payload,
    check_refused,
    edit,
    forge,
    read_members,
    saved,
    to_old_archive,
    use,
    write,
)
from helpers.mutations import flips, truncations

from srptq_plugin.errors import SrptqError
from srptq_plugin.runs.run import PROGRAM, Run

pytest.importorskip("torchao")


def test_an_honest_network_is_read_exactly(honest: Path) -> None:
    program, reference = Run.open(honest).program(), torch.export.load(honest / PROGRAM)
    assert str(program.graph) == str(reference.graph)
    assert program.module().code == reference.module().code
    assert program.range_constraints == reference.range_constraints
    assert program.module_call_graph == reference.module_call_graph
    for node, expected in zip(program.graph.nodes, reference.graph.nodes, strict=True):
        assert str(node.meta["val"]) == str(expected.meta["val"])
        assert node.meta.get("nn_module_stack") == expected.meta.get("nn_module_stack")
    assert list(program.state_dict) == list(reference.state_dict)
    for name, tensor in reference.state_dict.items():
        assert torch.equal(program.state_dict[name], tensor)
        assert type(program.state_dict[name]) is type(tensor)


def test_an_archive_of_an_older_torch_is_read(received: Path, payload: Payload) -> None:
    run, members = Run.open(received), read_members(received / PROGRAM)
    expected, program = run.float()(IMAGE), run.program()
    write(received / PROGRAM, to_old_archive(members, program), root="")
    assert (Run.open(received).float()(IMAGE) == expected).all()
    write(received / PROGRAM, to_old_archive(members, program, saved({"mean": payload})), root="")
    check_refused(received, payload)


def test_a_compressed_member_is_refused(received: Path, payload: Payload) -> None:
    members = read_members(received / PROGRAM) | {"data/weights/weight_0": bytes(10**7)}
    write(received / PROGRAM, members, compression=ZIP_DEFLATED)
    assert (received / PROGRAM).stat().st_size < 10**6
    check_refused(received, payload)


def test_a_duplicate_member_is_refused(received: Path, payload: Payload) -> None:
    with ZipFile(received / PROGRAM, "a") as archive:
        archive.writestr("other/data/sample_inputs/model.pt", saved(payload))
    check_refused(received, payload)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
        "Pow(9, 999999999)",
        "(" * 90000 + "s0" + ")" * 90000,
        "(" * 5000 + "s0" + ")" * 5000,
        "-" * 40000 + "s0",
        "s0" + "+s0" * 9000,
        "9" * 5000,
        "Symbol('s0', integer='x')",
        "Symbol('__class__')",
        "Float('x', precision=53)",
        "s0.__class__",
        "[s0]",
        "lambda: s0",
        "f'{s0}'",
        "Mul(*s0)",
        "Mul(**s0)",
        "s0 if s0 else s0",
        "(s0 := 3)",
        "\\x5f",
        "s0 # s0",
    ],
)
def test_a_size_other_than_arithmetic_is_refused(text: str, received: Path, payload: Payload) -> None:
    def change(document: Any) -> None:
        for sizes in document["graph_module"]["graph"]["tensor_values"].values():
            for size in sizes["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = text

    forge(received, lambda members: edit(members, GRAPH, change))
    check_refused(received, payload)


MEMBERS = (GRAPH, WEIGHTS, CONSTANTS, SAMPLES, "archive_format", "archive_version", ".data/version", "byteorder")


@pytest.mark.parametrize("name", [*MEMBERS, "data/weights/weight_0"])
def test_a_damaged_member_is_read_or_refused(name: str, received: Path) -> None:
    original = read_members(received / PROGRAM)
    for mutation in [*truncations(2), *flips(6 if name in (GRAPH, WEIGHTS) else 1), *flips(1, 40)]:
        write(received / PROGRAM, original | {name: mutation(original[name])})
        with suppress(SrptqError):
            use(received)


def test_damage_anywhere_is_read_or_refused(received: Path) -> None:
    original = (received / PROGRAM).read_bytes()
    for mutation in [*truncations(4), *flips(6), *flips(6, 50)]:
        (received / PROGRAM).write_bytes(mutation(original))
        with suppress(SrptqError):
            use(received)
