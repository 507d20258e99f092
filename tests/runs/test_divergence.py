"""Simulation and runtime, compared inside the network: with sound files, and with files of one wrong layer."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import networks
from helpers.runtimes import integers
from helpers.small_runs import require_runtime, small
from onnx import numpy_helper

from srptq_plugin.errors import SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.plugins.protocols import Inspectable
from srptq_plugin.runs.divergence import Divergence, find_divergence, why_not
from srptq_plugin.runs.run import RECIPE, SUMMARY, Run

pytest.importorskip("torchao")
TARGETS = ("onnxruntime", "openvino")
LEVELS = 3
INNER = "body.0.first/conv", "body.0/relu"
"""A convolution, and the site behind its activation."""
EDITS = (
    (RECIPE, "target: o", "target: tensorrt\n#", "hands out no tensors"),
    (SUMMARY, '"artifacts": [', '"artifacts": [], "before": [', "nothing was exported"),
)
"""A file of a run, text in it and its replacement, and why the run is not compared then."""


@pytest.fixture(scope="module", params=[(target, bits) for target in TARGETS for bits in (8, 4)], ids=str)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Quantize a toy EDSR for each target. Tests do not change the folder."""
    target, bits = request.param
    require_runtime(target)
    recipe = small(target, bits, reconstruction=None)
    return quantize(recipe, model=networks.network("edsr"), out=tmp_path_factory.mktemp("runs") / "run", device="cpu")


def divergence(run: Run) -> Divergence:
    return find_divergence(run, [networks.images(1, 24, 30).numpy(), networks.images(1, 17, 22, seed=1).numpy()])


def changed(run: Run, folder: Path, conv: str, behind: str) -> Run:
    """Copy a run, and add levels of the site behind a convolution to its first bias in the file."""
    copy = Run.open(shutil.copytree(run.folder, folder / "changed"))
    file = next(path for path in copy.artifacts if path.suffix == ".onnx")
    model = onnx.load(file)
    step = float(run.table.qparams[behind].scale)
    nodes = {name: node for node in model.graph.node for name in node.output}
    node = next(node for node in model.graph.node if node.op_type == "Conv" and _key(node) == conv)
    stored = nodes[node.input[2]].input if node.input[2] in nodes else [node.input[2]]
    constants = {constant.name: constant for constant in model.graph.initializer}
    values = numpy_helper.to_array(constants[stored[0]]).copy()
    scale = numpy_helper.to_array(constants[stored[1]])[0] if len(stored) > 1 else 1
    values[0] += np.round(LEVELS * step / scale).astype(values.dtype) if len(stored) > 1 else LEVELS * step
    constants[stored[0]].CopyFrom(numpy_helper.from_array(values, stored[0]))
    onnx.save(model, file)
    if copy.artifacts[0].suffix == ".xml":
        openvino = pytest.importorskip("openvino")
        openvino.save_model(openvino.Core().read_model(file), copy.artifacts[0], compress_to_fp16=False)
    return copy


def _key(node: onnx.NodeProto) -> str:
    scopes = next((prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"), "[]")
    names = [name.strip("[]' ") for name in scopes.split(",")]
    return f"{names[-2]}/conv" if len(names) > 1 else ""


def test_sound_files_differ_at_ties_alone(run: Run) -> None:
    inside = divergence(run)
    assert inside.undisturbed
    assert not inside.unseen
    assert sum(site.own.values for site in inside.sites) < 2e-4 * sum(site.values for site in inside.sites)
    assert max(site.own.most for site in inside.sites) <= 1


def test_differences_begin_where_a_site_differs_itself(run: Run) -> None:
    sites = divergence(run).sites
    first = next((n for n, site in enumerate(sites) if site.own.values), len(sites))
    assert all(not site.whole.values for site in sites[:first])
    if first < len(sites):
        assert sites[first].whole == sites[first].own


def test_a_wrong_layer_is_the_one_named(run: Run, tmp_path: Path) -> None:
    conv, site = INNER
    wrong = divergence(changed(run, tmp_path, conv, site))
    assert [site.name for site in wrong.sites if site.own.most > 1] == [site]
    named = next(difference for difference in wrong.sites if difference.name == site)
    assert named.own.most in (LEVELS, LEVELS + 1)
    assert named.own.values <= named.values // networks.FEATURES + 1
    assert all(other.own.values <= 0.01 * other.values for other in wrong.sites if other.name != site)


def test_tensors_are_those_of_the_file(run: Run) -> None:
    if run.recipe.target != "onnxruntime":
        pytest.skip("the oracle reads ONNX files alone")
    image, target = networks.images(1, 20, 24), run.target
    assert isinstance(target, Inspectable)
    _, tensors = target.inspect(run.artifacts, run.table)(image.numpy())
    written = [values.astype(np.float64) for scale, values in integers(run.artifacts[0], image) if len(scale) == 1]
    assert len(tensors) == len(written)
    for name, values in tensors.items():
        qparams = run.table.qparams[name]
        levels = np.round(values / float(qparams.scale) + float(qparams.zero_point))
        # the oracle computes in floats, so a few values near a tie are rounded the other way
        assert any(other.shape == levels.shape and np.abs(other - levels).mean() < 0.01 for other in written), name


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit[0])
def test_other_runs_say_why_not(run: Run, tmp_path: Path, edit: tuple[str, str, str, str]) -> None:
    file, old, new, reason = edit
    folder = shutil.copytree(run.folder, tmp_path / "other")
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    other = Run.open(folder)
    assert reason in why_not(other)
    with pytest.raises(SrptqError, match="give a run for onnxruntime or openvino"):
        divergence(other)
