"""The example plugins, installed as a reader would: what each does, and all of them in one run."""

import ast
import math
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import plugin_parts
import pytest
import torch
from helpers import networks, trainings
from helpers.photographs import pixels, save
from helpers.shown_plugins import FOLDERS, ROOT, example_entry_points, install
from hypothesis import given
from hypothesis import strategies as st

from srptq_plugin import Bounds, IntGrid, Recipe, Registry, SrptqError, load_model, quantize
from srptq_plugin.cli import main
from srptq_plugin.planning.plan import QConfig
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugin_api import Request
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import KINDS
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.qat.training import train
from srptq_plugin.recipes.recipe_files import RecipeLayer

SMALL = {"patches": 4, "size": 24}
ROWS = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30)
FILES = [path for folder in FOLDERS for path in sorted(folder.glob("*.py"))]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def recipe(**keys: object) -> Recipe:
    return Recipe.from_layers([RecipeLayer("test", {"calibration": SMALL, **keys})])


def test_every_example_is_a_package_with_its_modules() -> None:
    assert sorted(point.value for point in example_entry_points()) == sorted(path.stem for path in FILES)


def test_examples_register_every_kind() -> None:
    names = {point.name for point in example_entry_points()}
    kinds = {kind for plugin in Registry().plugins() if plugin.name in names for kind in plugin.registers}
    assert kinds == set(KINDS)


def test_the_document_shows_every_example() -> None:
    shown = {ROOT / path for path in plugin_parts.EXAMPLES}
    assert shown >= set(FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples_import_the_public_interface_only(path: Path) -> None:
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    assert {str(node.module) for node in nodes if "srptq" in str(node.module)} == {"srptq_plugin.plugin_api"}


def test_all_examples_work_in_one_run(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    chosen = recipe(
        target="tiny-npu",
        toolkit="bare",
        activations={"observer": "mean-sigma", "options": {"k": 4}, "quantizer": "stretched"},
        reconstruction={"name": "shrink", "candidates": 2},
    )
    run = quantize(chosen, model="tiny-sr", model_args={"upscale": 3}, out=tmp_path / "run")
    assert run.summary["model"]["scale"] == 3
    assert 0 <= run.summary["reconstruction"]["shrunk"] <= len(run.table.plan.groups)
    assert run.summary["verify"]["passed"]


def test_the_plugins_command_lists_examples_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    last_words = {row[1]: row[-1] for row in rows if len(row) > 1}
    assert last_words["mean-sigma"] == "k"
    assert last_words["stretched"] == "pull"
    assert last_words["tiny-npu"] == "shifts"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"activations": {"observer": "mean-sigma", "options": {"k": 0}}},
            r"activations\.options\.k: 0 is not allowed",
        ),
        (
            {"activations": {"observer": "mean-sigma", "options": {"kk": 3}}},
            r"activations\.options\.kk: unknown key; did you mean 'k'",
        ),
        (
            {"activations": {"observer": "mean-sigma", "options": {"k": "three"}}},
            r"activations\.options\.k: 'three' is not allowed",
        ),
        (
            {"activations": {"observer": "mean-sgma"}},
            r"activations\.observer: unknown observer 'mean-sgma'; did you mean 'mean-sigma'",
        ),
        (
            {"weights": {"quantizer": "stretched", "quantizer_options": {"pul": 1}}},
            r"weights\.quantizer_options\.pul: unknown key; did you mean 'pull'",
        ),
        ({"reconstruction": {"name": "shrink", "least": 2}}, r"reconstruction\.least: 2 is not allowed"),
    ],
)
def test_wrong_options_of_examples_are_named(keys: dict[str, object], message: str) -> None:
    with pytest.raises(SrptqError, match=message):
        BoundRecipe.of(recipe(target="paper", **keys), Registry())


def test_the_observer_agrees_between_toolkits(tmp_path: Path) -> None:
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
def test_the_observer_bounds_mean_and_deviation(batches: list[list[float]], k: float) -> None:
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


def stretched_graph(**options: float) -> tuple[PreparedGraph, list[Any]]:
    """Return a network with the example's quantizers of activations, and the ones of them that learn."""
    plan = networks.plan("edsr", networks.recipe(4, "onnxruntime"))
    kind = Registry().quantizer("stretched").load()
    qconfig = QConfig(plan.qconfigs["activation"].observer, kind, options)
    prepared = networks.realize("edsr", replace(plan, qconfigs={**plan.qconfigs, "activation": qconfig}))
    return prepared, [q for q in prepared.quantizers.values() if isinstance(q, kind) and not q.fixed]


def test_the_quantizer_learns_its_factor() -> None:
    prepared, quantizers = stretched_graph(rate=0.02, pull=0.25)
    training = trainings.begun(prepared)
    list(train(training, trainings.batch, trainings.closeness))
    assert quantizers
    assert any(quantizer.log_factor.item() for quantizer in quantizers)
    assert {quantizer.pull for quantizer in quantizers} == {0.25 * (1 - 3 / 4)}


def test_the_quantizer_s_loss_pulls_the_factor() -> None:
    """Check that a strong pull holds the factor closer to 1 than none does."""
    reached: list[float] = []
    scores = map(float, count())  # each score is the best so far, so the last factors are kept
    for pull in (0.0, 1e6):
        prepared, quantizers = stretched_graph(rate=0.02, pull=pull)
        list(train(trainings.begun(prepared), trainings.batch, lambda _: next(scores)))
        reached.append(sum(abs(quantizer.log_factor.item()) for quantizer in quantizers))
    assert reached[1] < reached[0]


def test_the_quantizer_goes_on_from_its_bounds() -> None:
    kind = Registry().quantizer("stretched").load()
    quantizer = kind("a/site", IntGrid(4), bounds=Bounds.of(-1.0, 3.0))
    quantizer.log_factor.data.fill_(0.5)
    before = quantizer.qparams()
    assert before.bounds.upper.item() == pytest.approx(3 * math.exp(0.5), rel=0.1)
    quantizer.set_bounds(before.bounds)
    after = quantizer.qparams()
    assert torch.equal(after.scale, before.scale)
    assert torch.equal(after.zero_point, before.zero_point)


def test_a_training_with_the_quantizer_writes_a_run(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    training = {"steps": 4, "every": 2, "batch": 2, "patch": 16}
    activations = {"quantizer": "stretched", "quantizer_options": {"rate": 0.01}}
    chosen = recipe(target="onnxruntime", toolkit="bare", activations=activations, training=training)
    for number in range(3):
        save(pixels(24, 30, seed=number), tmp_path / "images" / f"{number}.png")
    run = quantize(chosen, model=networks.network("edsr"), out=tmp_path / "run")
    trained = train_run(chosen, run.folder, images=tmp_path / "images", out=tmp_path / "trained")
    assert trained.summary["verify"]["passed"]


@pytest.mark.parametrize("bits", [4, 8])
def test_the_reconstruction_never_adds_noise(bits: int) -> None:
    images = networks.images(4, seed=5)
    prepared = networks.realize("edsr", networks.plan("edsr", networks.recipe(bits, "onnxruntime")))
    prepared.observe([images])
    teacher, _ = prepared.float_forward(images)
    before = prepared.noise(images, teacher)
    shrink = Registry().reconstruction("shrink").load()
    figures = shrink(prepared, images, least=0.5, candidates=3)
    after = prepared.noise(images, teacher)
    assert after < before if figures["shrunk"] else after == before


def test_the_family_reads_the_scale_from_weights() -> None:
    entry = Registry().model("tiny-sr")
    family = entry.load()
    state = family.build(Request(None, entry.options.parse({"upscale": 3}, ""))).module.state_dict()
    module = family.build(Request(state, entry.options())).module
    assert module(torch.zeros(1, 3, 4, 5)).shape == (1, 3, 12, 15)
    with pytest.raises(SrptqError, match=r"upscale=2 was given, but the weights have 3"):
        family.build(Request(state, entry.options.parse({"upscale": 2}, "")))
    with pytest.raises(SrptqError, match=r"tiny-sr: the weights are not 0\.weight and 0\.bias"):
        family.build(Request({}, entry.options()))


def test_a_checkpoint_alone_names_the_family(tmp_path: Path) -> None:
    torch.save(load_model("tiny-sr", args={"upscale": 3}).module.state_dict(), tmp_path / "tiny.pt")
    record = load_model(tmp_path / "tiny.pt").record
    assert (record.name, record.scale) == ("tiny-sr", 3)
