"""The plugins in documents and examples, installed as a reader would, each alone and all in one run."""

import ast
import math
from pathlib import Path

import pytest
import torch
from helpers import networks
from helpers.documents import Block
from helpers.shown_plugins import FOLDERS, HOOKS, example_entry_points, install, plugin_of
from hypothesis import given
from hypothesis import strategies as st

from srptq_plugin import IntGrid, Recipe, Registry, SrptqError, quantize
from srptq_plugin.cli import main
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import HOOKS as KNOWN
from srptq_plugin.recipes.recipe_files import RecipeLayer

SMALL = {"patches": 4, "size": 24}
ROWS = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def recipe(**keys: object) -> Recipe:
    return Recipe.from_layers([RecipeLayer("test", {"calibration": SMALL, **keys})])


@pytest.mark.parametrize("block", HOOKS, ids=str)
def test_a_hook_in_a_document_registers_entries(block: Block) -> None:
    (info,) = Registry([plugin_of(block)], entry_points=False).plugins()
    assert info.registers


SHOWN = {
    **{str(block): block.text for block in HOOKS},
    **{path.name: path.read_text(encoding="utf-8") for folder in FOLDERS for path in folder.glob("*.py")},
}


@pytest.mark.parametrize("name", SHOWN)
def test_plugins_import_the_public_interface_only(name: str) -> None:
    nodes = (node for node in ast.walk(ast.parse(SHOWN[name])) if isinstance(node, ast.ImportFrom))
    modules = {str(node.module) for node in nodes if str(node.module).startswith("srptq_plugin")}
    assert modules <= {"srptq_plugin", "srptq_plugin.plugin_api"}


def test_every_hook_is_shown() -> None:
    shown = {name for block in HOOKS for name in vars(plugin_of(block))}
    assert shown == set(KNOWN)


def test_all_plugins_work_in_one_run(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    chosen = recipe(
        target="my-npu",
        toolkit="bare",
        activations={"observer": "halves", "options": {"share": 0.8}, "quantizer": "stepped"},
        reconstruction={"name": "widen", "factor": 1.2},
    )
    run = quantize(chosen, model="tiny-sr", model_args={"upscale": 3}, out=tmp_path / "run")
    assert run.summary["model"]["scale"] == 3
    assert run.summary["reconstruction"] == {"widened": len(run.table.plan.groups)}
    assert run.summary["verify"]["passed"]


def test_the_example_observer_agrees_between_toolkits(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    activations = {"observer": "mean-sigma", "options": {"k": 2}}
    network = networks.network("edsr")
    tables = {
        name: quantize(
            recipe(target="paper", toolkit=name, activations=activations), model=network, out=tmp_path / name
        ).table
        for name in ("torchao", "mqbench")
    }
    expected, qparams = tables["torchao"].qparams, tables["mqbench"].qparams
    assert qparams.keys() == expected.keys()
    assert all(torch.equal(qparams[site].scale, expected[site].scale) for site in expected)


@given(batches=st.lists(ROWS, min_size=1, max_size=4), k=st.floats(0.1, 5))
def test_the_example_observer_bounds_mean_and_deviation(batches: list[list[float]], k: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        observer = Registry().observer("mean-sigma").load()(IntGrid(8), k=k)
    ends: list[tuple[float, float]] = []
    for batch in batches:
        observer.update(torch.tensor(batch))
        mean = math.fsum(batch) / len(batch)
        reach = k * math.sqrt(math.fsum((value - mean) ** 2 for value in batch) / len(batch))
        ends.append((max(min(batch), mean - reach), min(max(batch), mean + reach)))
    bounds = observer.bounds()
    assert bounds.lower.item() == pytest.approx(math.fsum(lower for lower, _ in ends) / len(ends), abs=1e-9)
    assert bounds.upper.item() == pytest.approx(math.fsum(upper for _, upper in ends) / len(ends), abs=1e-9)


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        ({"observer": "mean-sigma", "options": {"k": 0}}, "activations.options: observer mean-sigma: k: 0; give"),
        ({"observer": "mean-sigma", "options": {"kk": 3}}, "activations.options: observer mean-sigma: .*'kk'"),
        ({"observer": "mean-sigma", "options": {"k": "three"}}, "activations.options: observer mean-sigma: .*'str'"),
        ({"observer": "mean-sgma"}, "activations.observer: unknown observer 'mean-sgma'; did you mean 'mean-sigma'"),
        ({"quantizer": "stepped", "quantizer_options": {"stp": 1}}, "activations.quantizer_options: stepped: .*'step'"),
    ],
)
def test_wrong_options_of_plugins_are_named(activations: dict[str, object], message: str) -> None:
    with pytest.raises(SrptqError, match=message):
        BoundRecipe.of(recipe(target="paper", activations=activations), Registry())


def test_the_plugins_command_lists_the_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert "mean-sigma" in out
    assert "tiny-npu" in out


def test_every_example_is_a_package_with_its_module() -> None:
    assert FOLDERS
    modules = {point.value for point in example_entry_points()}
    assert modules == {path.stem for folder in FOLDERS for path in folder.glob("*.py")}
