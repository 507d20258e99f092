"""Hostile run folders: files that are missing, damaged, edited, or of another network or version."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import networks
from helpers.mutations import Mutation, edits, flips, flips_in_front, replacements, scribbles, truncations
from helpers.photographs import pixels, save
from helpers.sweeping import Sweep
from safetensors import safe_open
from safetensors.torch import save as to_safetensors

from srptq_plugin.pipeline import quantize
from srptq_plugin.runs.run import NETWORK, PROGRAM, RECIPE, SUMMARY, TABLE

Runs = Callable[[str], Path]
RUN = "run"
COST = ("cost", RUN)
EVALUATE = ("evaluate", RUN, "--data", "hr")
VERIFY = ("verify", RUN)
ANALYZE = ("analyze", RUN, "--by", "stage", "--patches", "1", "--device", "cpu")
QUANTIZE = ("quantize", "--out", RUN, "--weights", "gone.pth")
FILES = {"onnxruntime": "model_onnxruntime.onnx", "snpe": "model_snpe.encodings", "openvino": "model_openvino.xml"}
"""The file that each target runs."""


LOCAL = [str(Path(__file__).parents[2]).encode(), sys.prefix.encode()]


@pytest.fixture
def copied(sweep: Sweep, runs: Runs) -> Callable[[str], Path]:
    """Return a function that copies a run, to be damaged, and makes an image to evaluate on."""

    def copy(target: str) -> Path:
        save(pixels(24, 28), sweep.place / "hr" / "a.png")
        return shutil.copytree(runs(target), sweep.place / RUN)

    return copy


def damage(path: Path, mutation: Mutation) -> None:
    path.write_bytes(mutation(path.read_bytes()))


Copied = Callable[[str], Path]
BYTES = [*replacements()[::2], *truncations(6), *flips(8), *scribbles(6)]
FEW = [*truncations(2), *flips(4), *scribbles(2)]
"""Fewer mutations, for files that take long to read."""


@pytest.mark.parametrize("mutation", BYTES, ids=str)
@pytest.mark.parametrize("name", [SUMMARY, RECIPE])
def test_damaged_texts(sweep: Sweep, copied: Copied, name: str, mutation: Mutation) -> None:
    damage(copied("paper") / name, mutation)
    sweep(*VERIFY, names=[name, "recipe", "quantizer", "observer"])


@pytest.mark.parametrize("mutation", [*BYTES, *flips_in_front(10, 7000)], ids=str)
def test_damaged_tables(sweep: Sweep, copied: Copied, mutation: Mutation) -> None:
    damage(copied("paper") / TABLE, mutation)
    sweep(*EVALUATE, names=[TABLE])


@pytest.mark.parametrize("mutation", BYTES, ids=str)
def test_damaged_programs(sweep: Sweep, copied: Copied, mutation: Mutation) -> None:
    damage(copied("paper") / PROGRAM, mutation)
    sweep(*COST, names=[PROGRAM])


def test_a_program_of_unknown_types(sweep: Sweep, copied: Copied) -> None:
    path = copied("paper") / PROGRAM
    path.write_bytes(path.read_bytes().replace(b"builtins.tuple", b"builtins.tuplE", 1))
    sweep(*COST, names=[PROGRAM])


@pytest.mark.parametrize("mutation", FEW, ids=str)
@pytest.mark.parametrize("target", FILES)
def test_damaged_files_of_targets(sweep: Sweep, copied: Copied, target: str, mutation: Mutation) -> None:
    damage(copied(target) / FILES[target], mutation)
    sweep(*VERIFY, names=[FILES[target]])


@pytest.mark.parametrize("mutation", FEW[::2], ids=str)
def test_damaged_networks(sweep: Sweep, copied: Copied, mutation: Mutation) -> None:
    damage(copied("onnxruntime") / NETWORK, mutation)
    sweep(*VERIFY, names=[NETWORK])


READ = ("schema", "model", "artifacts", "target", "recipe", "toolkit")


@pytest.mark.parametrize("mutation", edits(50, READ), ids=str)
def test_edited_summaries(sweep: Sweep, copied: Copied, mutation: Mutation) -> None:
    damage(copied("paper") / SUMMARY, mutation)
    sweep(*EVALUATE, names=[SUMMARY, "input range"])


@pytest.mark.parametrize("mutation", edits(40), ids=str)
def test_summaries_edited_anywhere(sweep: Sweep, copied: Copied, mutation: Mutation) -> None:
    damage(copied("paper") / SUMMARY, mutation)
    sweep(*VERIFY, names=[SUMMARY])
    sweep(*QUANTIZE, names=["gone.pth", "--out run"])


MODELS: Sequence[Mapping[str, Any]] = (
    *({"scale": value} for value in (0, -1, 3, 1000, 2.5, 10**30, True)),
    *({"input_range": value} for value in ([0, 0], [1, 0], [0, 1e308], [-1e308, 1e308], [0, 10**400], ["0", "1"])),
    *({"input_range": value} for value in ([None, 1], [0, 1, 2], "01", [float("nan"), 1], [0, float("inf")])),
    *({"input_size": value} for value in ([], [1], [1, 3, 0, 8], [1, 3, -8, 8], [2, 3, 8, 8], "1x3x8x8", 3, [1.5] * 4)),
    *({"input_size": value} for value in ([1, 3, 8, 8], [1, 3, 10**9, 10**9], ["1", "3", "8", "8"], {"0": 1}, True)),
    *({"mean": value} for value in (3, "abc", [1], [1, 2, 3, 4], [None] * 3, {"a": 1}, [[1]])),
    *({"parameters": value} for value in (-1, 1e300, "many", [], None)),
    *({"name": value} for value in (None, 3, [], {}, "\x1b[2J", "x" * 9000)),
)


@pytest.mark.parametrize("change", MODELS, ids=str)
def test_edited_models(sweep: Sweep, copied: Copied, change: Mapping[str, Any]) -> None:
    summary = copied("paper") / SUMMARY
    record = json.loads(summary.read_text())
    summary.write_text(json.dumps({**record, "model": {**record["model"], **change}}))
    sweep(*EVALUATE, names=[SUMMARY, "input range", "a.png"])


ARTIFACTS: Sequence[object] = (
    *(None, 3, "model.onnx", {"a": 1}, [None], [3], [[]], [""], ["."], [".."], ["/dev/null"], ["gone.onnx"]),
    *(["../hr/a.png"], [RECIPE], [TABLE], ["a\0b"], ["\x1b[2J"], ["x" * 300], [FILES["snpe"]], [NETWORK]),
)


@pytest.mark.parametrize("artifacts", ARTIFACTS, ids=str)
def test_edited_artifacts(sweep: Sweep, copied: Copied, artifacts: object) -> None:
    summary = copied("onnxruntime") / SUMMARY
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "artifacts": artifacts}))
    names = [f"run/{name}" for name in artifacts] if isinstance(artifacts, list) else []
    sweep(*VERIFY, names=[SUMMARY, *names, "x1b", "x" * 300])
    sweep(*QUANTIZE, names=["gone.pth", "--out run", "x" * 300])


def in_header(mutation: Mutation) -> Callable[[Path], None]:
    """Return a function that edits the plan in a table's header and leaves its tensors."""

    def edit(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            header, tensors = file.metadata()["srptq"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        path.write_bytes(to_safetensors(tensors, metadata={"srptq": mutation(header.encode()).decode()}))

    return edit


@pytest.mark.parametrize("mutation", edits(36, ("plan", "plan", "plan", "schema")), ids=str)
def test_edited_plans(sweep: Sweep, copied: Copied, mutation: Mutation) -> None:
    in_header(mutation)(copied("paper") / TABLE)
    sweep(*EVALUATE, names=[TABLE])


TENSORS: Mapping[str, Callable[[Any], Any]] = {
    "gone": lambda _: None,
    "empty": lambda tensor: tensor.flatten()[:0],
    "twice": lambda tensor: tensor.flatten().repeat(2),
    "a scalar": lambda tensor: tensor.flatten()[0],
    "flat": lambda tensor: tensor.flatten(),
    "another axis": lambda tensor: tensor[None],
    "doubles": lambda tensor: tensor.double(),
    "integers": lambda tensor: tensor.long(),
    "booleans": lambda tensor: tensor > 0,
    "complex": lambda tensor: tensor.cfloat(),
    "nan": lambda tensor: tensor.float() * float("nan"),
    "infinity": lambda tensor: (tensor.float().abs() + 1) / 0,
    "zeros": lambda tensor: tensor * 0,
    "negative": lambda tensor: -tensor.float().abs() - 1,
    "huge": lambda tensor: tensor.float() * 0 + 3e38,
    "fractions": lambda tensor: tensor.float() + 0.25,
}
KINDS = ("head.weight:integers", "head.weight:scale", "input:zero_point")


@pytest.mark.parametrize("change", TENSORS)
@pytest.mark.parametrize("kind", KINDS)
def test_edited_tensors(sweep: Sweep, copied: Copied, kind: str, change: str) -> None:
    path = copied("paper") / TABLE
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    ending, of_weight = kind.removeprefix("input"), "weight" in kind
    name = next(name for name in tensors if name.endswith(ending) and ("weight" in name) == of_weight)
    edited = {**tensors, name: TENSORS[change](tensors[name])}
    contiguous = {name: tensor.contiguous() for name, tensor in edited.items() if tensor is not None}
    path.write_bytes(to_safetensors(contiguous, metadata))
    sweep(*EVALUATE, names=[TABLE])


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory, runs: Runs) -> Mapping[str, Path]:
    """Return runs of another network and of another target."""
    recipe = networks.recipe(4, "paper", calibration={"patches": 2, "size": 12})
    folder = tmp_path_factory.mktemp("others") / "run"
    return {
        "network": quantize(recipe, model=networks.network("normed"), out=folder, device="cpu").folder,
        "target": runs("snpe"),
    }


@pytest.mark.parametrize("command", [COST, ANALYZE], ids=lambda command: command[0])
@pytest.mark.parametrize("name", [SUMMARY, TABLE, PROGRAM])
@pytest.mark.parametrize("other", ["network", "target"])
def test_files_of_other_runs(
    sweep: Sweep, copied: Copied, others: Mapping[str, Path], *, other: str, name: str, command: Sequence[str]
) -> None:
    shutil.copyfile(others[other] / name, copied("paper") / name)
    sweep(*command, names=[name, TABLE, "model_snpe"], makes=["run/analysis.json"])


STATES: Mapping[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("gone")),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/null")),
    "unreadable": lambda path: path.chmod(0),
}


@pytest.mark.parametrize("name", [SUMMARY, RECIPE, TABLE, PROGRAM, NETWORK, FILES["onnxruntime"]])
@pytest.mark.parametrize("state", STATES)
def test_files_that_cannot_be_read(sweep: Sweep, copied: Copied, state: str, name: str) -> None:
    STATES[state](copied("onnxruntime") / name)
    sweep(*VERIFY, names=[name, "/dev/null"])
    sweep(*QUANTIZE, names=["gone.pth", "--out run"])


def test_networks_name_no_local_folder() -> None:
    content = networks.float_model("mixed").SerializeToString()
    assert not [folder for folder in LOCAL if folder in content]


@pytest.mark.parametrize("target", ["paper", "onnxruntime", "snpe", "openvino", "litert", "ncnn", "executorch"])
def test_runs_name_no_local_folder(runs: Runs, target: str) -> None:
    """Check that cases damage the same bytes on every machine."""
    contents = {path.name: path.read_bytes() for path in runs(target).iterdir()}
    assert not [name for name, content in contents.items() if any(folder in content for folder in LOCAL)]
