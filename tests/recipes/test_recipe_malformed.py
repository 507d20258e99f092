"""Malformed recipes: one error names the file, the key and a correct value."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from srptq_plugin.errors import SrptqError
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.recipe_files import RecipeLayer, parse

NAN, INF, HUGE = float("nan"), float("inf"), 10**400
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(HUGE)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
KEYS = st.sampled_from(
    [
        *Recipe.model_fields,
        "extends",
        "activations.bits",
        "weights.options.ratio",
        "stages.head.weights",
        "oops",
    ]
)
IN_A_FOLDER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(name: str | Path, *overrides: str) -> str:
    with pytest.raises(SrptqError) as raised:
        Recipe.load(name, overrides)
    return str(raised.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("activations.bits=0", "--set: activations.bits: 0 is not allowed; give a whole number from 1 to 16"),
        ("activations.bits='8'", "activations.bits: '8' is not allowed"),
        ("activations.bits=8.0", "activations.bits: 8.0 is not allowed"),
        ("activations.bits=true", "activations.bits: True is not allowed"),
        (f"weights.bits=0x{'f' * 5000}", "weights.bits: a huge int is not allowed"),
        (f"weights.bits={'1' * 5000}", "--set weights.bits: not YAML"),
        (
            "activations.bit=8",
            "activations.bit: unknown key; did you mean 'bits'? keys: bits, observer, options",
        ),
        ("activaton.bits=8", "activaton: unknown key; did you mean 'activations'? keys: activations, "),
        ("activations.per_channel=true", "activations.per_channel: unknown key"),
        ("weights.per_channel=1", "weights.per_channel: 1 is not allowed; give true or false"),
        ("target=null", "target: null is not allowed; give text"),
        ("stages.hed.bits=8", "stages.hed: 'hed' is not allowed; give 'head', 'body', 'upsample' or 'tail'"),
        ("stages.head=8", "stages.head: 8 is not allowed; give a mapping of activations, quantize, weights"),
        ("stages=8", "stages: 8 is not allowed; give a mapping"),
        ("placement=all", "placement: 'all' is not allowed; give 'convs' or 'full'"),
        ("overrides={}", "overrides: {} is not allowed; give a list"),
        ("overrides=[{bits: 8}]", "overrides.0: {'bits': 8} is not allowed; give either sites or tensors, a glob"),
        (
            "reconstruction=pac",
            "reconstruction: 'pac' is not allowed; give null, or a mapping such as {name: pac}",
        ),
        ("reconstruction={name: x, y: .inf}", "reconstruction.y: inf is not allowed"),
        (
            "activations.options={a: 2001-01-01}",
            "activations.options.a: datetime.date(2001, 1, 1) is not allowed",
        ),
        ("calibration.scale=0", "calibration.scale: 0 is not allowed; give a whole number from 1 to 16"),
        ("activations", "--set 'activations': give key=value"),
        ("activations..bits=8", "give key=value, such as activations.bits=4"),
        ("weights={bits: 8, bits: 4}", "--set weights:1: the key 'bits' is here twice"),
        ("weights={8: 4}", "a key that is not a word"),
        ("weights=&a [*a]", "aliases are not read"),
        ("weights=[", "--set weights:1: "),
    ],
)
def test_a_mistake_is_named_with_its_cure(override: str, message: str) -> None:
    assert message in refusal("openvino-w8a8", override)


def test_all_mistakes_are_listed_with_their_files(tmp_path: Path) -> None:
    base = write(tmp_path, "weights: {bits: 99}\nplacement: none\n", "base")
    path = write(tmp_path, "extends: base.yaml\nactivations: {observer: 3}\n")
    lines = refusal(path, "calibration.seed=-1").splitlines()
    sources = {line.split(": ")[1]: line.split(": ")[0] for line in lines}
    assert sources == {
        "target": str(path.resolve()),
        "placement": str(base.resolve()),
        "weights.bits": str(base.resolve()),
        "activations.observer": str(path.resolve()),
        "calibration.seed": "--set",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing in it; a recipe is a mapping of keys such as 'target: openvino'"),
        ("- target", "['target'] in it; a recipe is a mapping"),
        ("target: paper\nweights: {bits: 8\n", "mine.yaml:3: "),
        ("target: paper\ntarget: openvino", "mine.yaml:2: the key 'target' is here twice"),
        ("target: !!python/name:os.system x", "mine.yaml:1: could not determine a constructor"),
        ("target: !!int x", "mine.yaml: not YAML"),
        ("a: 1\n---\nb: 2", "mine.yaml:2: but found another document"),
        ("target: \x00", "mine.yaml: not YAML"),
        ("[" * 3000, "mine.yaml: not YAML"),
        ("extends: 3", "extends: 3 is not allowed; give a recipe's name or path"),
        ("extends: openvino", "mine.yaml: extends: unknown recipe 'openvino'"),
        ("extends: gone.yaml", "gone.yaml: cannot be read (No such file or directory)"),
        ('extends: "a\\0b.yaml"', "null"),
        ("extends: there/is/none", "not a .yaml file; choices: "),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(write(tmp_path, text))


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(path)
    assert "cannot be read" in refusal(tmp_path / "none.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "cannot be read" in refusal(tmp_path / "folder.yaml")


def load_or_refuse(path: Path) -> None:
    with suppress(SrptqError):
        recipe = Recipe.load(path)
        assert parse(recipe.to_yaml(), "") == recipe.model_dump(mode="json")


@IN_A_FOLDER
@given(st.text())
@example("!!bool x")
@example("!!timestamp x")
@example("!!float x")
@example("target: '1e3'")
@example("? {a: 1}\n: 2")
@example("<<: {target: paper}")
@example("target: paper\nactivations: {options: {a: 0o9}}")
def test_any_text_gives_a_recipe_or_one_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    load_or_refuse(path)


@IN_A_FOLDER
@given(st.dictionaries(KEYS, VALUES, max_size=4))
@example({"activations.bits": HUGE})
@example({"weights.options.ratio": NAN, "oops": INF})
@example({"stages.head.weights": [], "reconstruction": {"name": "x", "": {"": None}}})
@example({"overrides": [{}, None, {"sites": ""}]})
@example({"export": {"\ud800": "\udfff"}})
@example({"export": {"x": "\ud800"}})
def test_any_values_give_a_recipe_or_one_error(tmp_path: Path, values: dict[str, Any]) -> None:
    data: dict[str, Any] = {"target": "paper"}
    for key, value in values.items():
        *parents, last = key.split(".")
        inner = data
        for parent in parents:
            inner[parent] = inner = inner[parent] if isinstance(inner.get(parent), dict) else {}
        inner[last] = value
    load_or_refuse(write(tmp_path, _dump(data)))


def _dump(data: object) -> str:
    """Write YAML. It is JSON with other names for NaN and infinity."""
    return json.dumps(data).replace("NaN", ".nan").replace("Infinity", ".inf")


@given(st.sampled_from(["weights.bits", "activations.bits"]), st.integers() | st.floats() | st.text())
@example("weights.bits", 1)
@example("weights.bits", 0)
def test_any_other_number_of_bits_is_refused(key: str, bits: float | str) -> None:
    layers = [RecipeLayer("mine.yaml", {"target": "paper", key.split(".", maxsplit=1)[0]: {"bits": bits}})]
    if isinstance(bits, int) and 1 <= bits <= 16:
        assert Recipe.from_layers(layers)
    else:
        with pytest.raises(SrptqError, match=f"mine.yaml: {key}: "):
            Recipe.from_layers(layers)


def test_a_missing_target_is_blamed_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("weights: {bits: 8}")
    with pytest.raises(SrptqError, match=r"mine\.yaml: target: missing"):
        Recipe.resolve(path, changes={"calibration": {"scale": 2}})
