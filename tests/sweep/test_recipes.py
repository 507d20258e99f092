"""Hostile recipes: damaged files, values of wrong types, and odd arguments of `--set`."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml
from helpers.mutations import Mutation, binary, edits
from helpers.sweeping import Sweep
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srptq_plugin.recipes.recipe import Recipe

FILE = "mine.yaml"
FULL = Recipe.load("openvino-w8a8").to_yaml().encode()
AS_JSON = json.dumps(yaml.safe_load(FULL)).encode()
PLANNED = ("quantize", "--weights", "gone.pth")
"""A command that reads a recipe, checks its names, and stops at the missing weights."""
EXAMPLES = settings(
    max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


def check(sweep: Sweep, content: bytes) -> None:
    (sweep.place / FILE).write_bytes(content)
    sweep("recipes", FILE, names=[FILE])


@pytest.mark.parametrize("mutation", binary(16, 30, 16, 10), ids=str)
def test_damaged_recipes(sweep: Sweep, mutation: Mutation) -> None:
    check(sweep, mutation(FULL))


@pytest.mark.parametrize("mutation", edits(90), ids=str)
def test_edited_recipes(sweep: Sweep, mutation: Mutation) -> None:
    (sweep.place / FILE).write_bytes(mutation(AS_JSON))
    sweep(*PLANNED, "--recipe", FILE, names=[FILE, "recipe", "options", "gone.pth"])


TEXTS: Mapping[str, str] = {
    "tabs": "target: paper\n\tweights: {bits: 8}",
    "a tag": "target: !!python/object/apply:os.system [touch touched]",
    "a new object": "!!python/object/new:os.system [touch touched]",
    "binary": "target: !!binary aGVsbG8=",
    "a set": "target: !!set {a, b}",
    "an ordered map": "!!omap [target: paper]",
    "laughs": "\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]),
    "a merge of itself": "a: &a {<<: *a}",
    "a merge of text": "<<: text\ntarget: paper",
    "a merge of lists": "<<: [[1]]\ntarget: paper",
    "dates": "target: 2001-01-01T00:00:00Z",
    "a date that is none": "target: 2001-99-99",
    "a time in sixties": "target: paper\ncalibration: {patches: 190:20:30}",
    "two documents": "target: paper\n---\ntarget: paper",
    "no end": "target: 'paper",
    "a byte order mark": "\ufefftarget: paper",
    "a null byte": "target: pa\0per",
    "an escape": "target: \x1b[2J",
    "an escape in quotes": 'target: "\\e[2J"',
    "an escape as a key": '"\\e[2J": 3\ntarget: paper',
    "a newline as a key": '"a\\nb": 3\ntarget: paper',
    "half a letter as a key": '"\\ud800": 3\ntarget: paper',
    "a surrogate": 'target: "\\ud800"',
    "a long key": f"{'k' * 3000}: 3\ntarget: paper",
    "a complex key": "? [a, b]\n: c",
    "deep lists": "target: " + "[" * 400 + "]" * 400,
    "deep mappings": "target: " + "{a: " * 400 + "}" * 400,
    "many mistakes": "target: paper\n" + "\n".join(f"key{n}: {n}" for n in range(50)),
    "many overrides": f"target: paper\noverrides: [{', '.join(['{bits: 99}'] * 50)}]",
    "itself": "extends: mine.yaml",
    "a folder": "extends: .",
    "nothing": "extends: ''",
    "the root": "extends: /",
    "a device": "extends: /dev/null",
    "a device as a recipe": "extends: /dev/zero.yaml",
    "a number": "extends: 3",
    "a list of recipes": "extends: [paper-w4a4, paper-w8a8]",
    "a long name": f"extends: {'x' * 5000}.yaml",
    "a name with a null byte": 'extends: "a\\0.yaml"',
    "above": "extends: ../../../../../../../../etc/passwd",
    "an octal number": "target: paper\ncalibration: {patches: 0o17}",
    "a huge exponent": "target: paper\ntraining: {average: 1e999}",
    "not a number": "target: paper\ntraining: {average: .nan}",
    "stages of a list": "target: paper\nstages: [head, body]",
    "a reconstruction of a list": "target: paper\nreconstruction: [pac]",
    "overrides of text": "target: paper\noverrides: body",
    "options of a list": "target: paper\nweights: {options: [1]}",
}


@pytest.mark.parametrize("name", TEXTS)
def test_odd_yaml(sweep: Sweep, name: str) -> None:
    check(sweep, TEXTS[name].encode("utf-8", "surrogatepass"))


PLACES: Mapping[str, Callable[[Path], object]] = {
    "nowhere": Path.exists,
    "a folder": Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a link to itself": lambda path: path.symlink_to(FILE),
    "a link to a folder": lambda path: path.symlink_to("."),
    "a device": lambda path: path.symlink_to("/dev/null"),
    "unreadable": lambda path: (path.touch(), path.chmod(0)),
    "Latin 1": lambda path: path.write_bytes("name: für\ntarget: paper".encode("latin-1")),
    "UTF-16": lambda path: path.write_bytes("target: paper".encode("utf-16")),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("command", [("recipes", FILE), (*PLANNED, "--recipe", FILE)], ids=["recipes", "quantize"])
def test_recipes_that_are_no_regular_file(sweep: Sweep, command: tuple[str, ...], name: str) -> None:
    PLACES[name](sweep.place / FILE)
    sweep(*command, names=[FILE, "recipe"])


NAMES = ("", " ", ".", "..", "/", "a/b", "~", "openvino", "OPENVINO-W8A8", "-", "*", "x" * 300, "x" * 300 + ".yaml")


@pytest.mark.parametrize(
    "name", [*NAMES, "\x1b[2J", "a\nb", "\udcff.yaml", ".yaml", "é.yaml", "/dev/null", "http://a/b.yaml"]
)
def test_odd_names_of_recipes(sweep: Sweep, name: str) -> None:
    sweep("recipes", name, names=["recipe", "arguments"])
    sweep(*PLANNED, "--recipe", name, names=["recipe", "arguments", "gone.pth"])


KEYS = (
    *("target", "toolkit", "preset", "name", "export", "export.profile", "placement", "equalize", "stages"),
    *("weights.bits", "weights.observer", "weights.options", "weights.options.ratio", "weights.quantizer"),
    *("weights.quantizer_options", "weights.quantize", "weights.per_channel", "activations.bits", "activations"),
    *("activations.observer", "activations.options", "activations.options.a", "activations.quantizer"),
    *("activations.quantizer_options", "activations.quantizer_options.a", "stages.head", "stages.head.weights"),
    *("stages.body.quantize", "skips", "skips.bits", "overrides", "reconstruction", "reconstruction.name"),
    *("reconstruction.epochs", "reconstruction.weights", "reconstruction.value_rate", "calibration"),
    *("calibration.images", "calibration.scale", "calibration.patches", "calibration.size", "calibration.choose"),
    *("calibration.seed", "training", "training.steps", "training.average", "extends", "recipe", "weights.bits.deep"),
)
VALUES = ("", "1e400", "[1, {a: [b]}]")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", VALUES)
def test_odd_values_of_set(sweep: Sweep, key: str, value: str) -> None:
    sweep(*PLANNED, "--set", f"{key}={value}", names=[key.partition(".")[0], "gone.pth", "placement"])


ODD = ("", "=", "==", "a", "=8", "a=", ".=8", "a.=8", ".a=8", "a..b=8", " = ", "--set", "-", "\x1b=1", "weights=\x1b")


@pytest.mark.parametrize(
    "text", [*ODD, "a.b.c.d.e.f=1", "." * 500 + "=1", "a" * 9000 + "=1", "weights.bits=8 9", "\udcff=1"]
)
def test_odd_settings(sweep: Sweep, text: str) -> None:
    sweep(*PLANNED, "--set", text, names=["--set", "arguments"])


@EXAMPLES
@given(st.text(max_size=40))
def test_any_setting(sweep: Sweep, text: str) -> None:
    sweep(
        *PLANNED, f"--set={os.fsdecode(text.encode('utf-8', 'surrogatepass'))}", names=["--set", "argument", "gone.pth"]
    )


@EXAMPLES
@given(st.sampled_from(KEYS), st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.integers(), max_size=3))
def test_any_value(sweep: Sweep, key: str, value: object) -> None:
    sweep(*PLANNED, "--set", f"{key}={value}", names=[key.partition(".")[0], "gone.pth", "placement"])
