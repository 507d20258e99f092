"""DDTB in runs: training starts from a run, resumes, and starts models of torchao."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.gated import IMAGES, recipe
from helpers.photographs import pixels, save

import srptq_plugin
from srptq_plugin.cli.cost_command import cost_report
from srptq_plugin.costs.estimate import Estimate
from srptq_plugin.costs.gates import GateCosts
from srptq_plugin.pipeline import quantize
from srptq_plugin.qat.ddtb import HIDDEN, INSIDE, DdtbFakeQuantize
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import Run

CALIBRATION = {"patches": 4, "size": 16, "batch": 2}
TRAINING = {"steps": 6, "every": 2, "batch": 2, "patch": 16, "value_rate": 0.05, "bound_rate": 2e-3}
SHORT: dict[str, Any] = {"calibration": CALIBRATION, "training": TRAINING}


@pytest.fixture
def low(tmp_path: Path) -> Path:
    for n in range(4):
        save(pixels(24, 30, seed=n), tmp_path / "low" / f"{n}.png")
    return tmp_path / "low"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Make a run with bounded quantizers, their bounds tuned."""
    pytest.importorskip("torchao")
    chosen = recipe(activations={"observer": "dbdc"}, reconstruction={"name": "pac", "epochs": 1}, **SHORT)
    return quantize(chosen, model=networks.network("edsr"), out=tmp_path_factory.mktemp("ddtb") / "run")


def test_starts_from_a_bounded_or_gated_run(run: Run, low: Path, tmp_path: Path) -> None:
    one = train_run(recipe(**SHORT), run.folder, images=low, out=tmp_path / "one")
    assert one.summary["training"]["psnr"] >= one.summary["training"]["psnr_before"]
    assert set(one.table.states) == {site["group"] for site in one.summary["sites"] if site["dynamic"]}
    still = recipe(calibration=CALIBRATION, training={**TRAINING, "steps": 1, "value_rate": 0.0, "bound_rate": 0.0})
    two = train_run(still, one.folder, images=low, out=tmp_path / "two")
    gated = [group for group, state in two.table.states.items() if "gate.narrow" in state]
    assert gated == [group for group, state in one.table.states.items() if "gate.narrow" in state]
    assert two.summary["training"]["psnr_before"] == pytest.approx(one.summary["training"]["psnr"], abs=1e-4)


@pytest.fixture
def gated(run: Run, low: Path, tmp_path: Path) -> Run:
    """Train bounds and gates only, so that they are the whole difference between the runs."""
    chosen = recipe(calibration=CALIBRATION, training={**TRAINING, "value_rate": 0.0})
    return train_run(chosen, run.folder, images=low, out=tmp_path / "gated")


def test_gates_count_in_the_cost_of_a_run(run: Run, gated: Run) -> None:
    """Count each gate by hand: two kernels at two bits, four vectors of a batch norm, and one addition a value."""
    size = (1, 3, 24, 30)
    plain, estimate = Estimate.of_run(run, size), Estimate.of_run(gated, size)
    gates = {group: state for group, state in gated.table.states.items() if "gate.narrow" in state}
    states = list(gates.values())
    areas = [24 * 30 * (4 if group.startswith("shuffle") else 1) for group in gates]
    products = [HIDDEN * state["gate.narrow"].shape[1] + 2 * HIDDEN for state in states]
    assert plain.gates == GateCosts()
    assert (estimate.gates.number, estimate.gates.macs) == (len(states), sum(products))
    assert estimate.gates.bops == sum(products) * INSIDE.bits**2
    assert estimate.gates.bytes == sum(-(-n * INSIDE.bits // 8) + 4 * HIDDEN * 4 for n in products)
    channels = [state["gate.narrow"].shape[1] for state in states]
    assert estimate.gates.additions == sum(c * area for c, area in zip(channels, areas, strict=True))
    assert estimate.quantized.bops - plain.quantized.bops == estimate.gates.bops
    assert estimate.quantized.size - plain.quantized.size == estimate.gates.bytes
    assert any("additions for means" in str(block) for block in cost_report(estimate.record()))


@pytest.mark.parametrize(("bits", "name"), [(2, "paper-w2a2-ddtb"), (3, "paper-w3a3-ddtb")])
@pytest.mark.parametrize("gated_share", [0, 0.1, 0.3, 0.5])
def test_gates_are_ablated_by_set(bits: int, name: str, gated_share: float) -> None:
    chosen = Recipe.load(name, [f"activations.quantizer_options.gated={gated_share}"])
    assert (chosen.weights.bits, chosen.activations.bits, chosen.activations.quantizer) == (bits, bits, "ddtb")
    assert chosen.activations.quantizer_options["gated"] == gated_share


def prepared_model(chosen: Recipe) -> torch.fx.GraphModule:
    """Prepare as a script for torchao does."""
    quantizer = pytest.importorskip("srptq_adapters.torchao").SRQuantizer.from_recipe(chosen)
    flow = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    return flow.prepare_pt2e(torch.export.export(networks.folded("edsr"), (IMAGES,)).module(), quantizer)


def test_initialize_takes_over_gates(gated: Run, caplog: pytest.LogCaptureFixture) -> None:
    model = prepared_model(recipe())
    assert not srptq_plugin.initialize(model, gated.folder).left
    assert "gates" not in caplog.text
    restored = {
        module.name: module.gate for module in model.modules() if isinstance(module, DdtbFakeQuantize) and module.gate
    }
    assert set(restored) == {group for group, state in gated.table.states.items() if "gate.narrow" in state}
    assert model(IMAGES).detach().numpy() == pytest.approx(gated.simulation()(IMAGES.numpy()), abs=1e-6)


def test_initialize_names_gates_without_a_place(gated: Run, caplog: pytest.LogCaptureFixture) -> None:
    srptq_plugin.initialize(prepared_model(recipe(activations={"observer": "dbdc"})), gated.folder)
    (group, *_) = (group for group, state in gated.table.states.items() if "gate.narrow" in state)
    assert re.search(rf"has gates for .*{re.escape(group)}.*, which these have not; prepare with its rec", caplog.text)


def test_an_interrupted_run_resumes_to_the_same_file(run: Run, low: Path, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, _total: int) -> None:
        if what == "training" and done == 3:
            raise KeyboardInterrupt

    whole = train_run(recipe(**SHORT), run.folder, images=low, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_run(recipe(**SHORT), run.folder, images=low, out=tmp_path / "parts", progress=interrupt)
    parts = train_run(recipe(**SHORT), run.folder, images=low, out=tmp_path / "parts", resume=True)
    table = "quant_table.safetensors"
    assert (parts.folder / table).read_bytes() == (whole.folder / table).read_bytes()
