"""Several processes give what one gives: bounds, scores and analyses to the bit, tuned networks nearly so."""

import os
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.descents import descents
from helpers.photographs import pixels, save
from helpers.processes import Result, refusal_of, together
from torch.multiprocessing.spawn import ProcessExitedException

from srptq_plugin.analysis.analyze import analyze
from srptq_plugin.analysis.kept_rows import KeptRows
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.calibration.observation import observe as observe_batches
from srptq_plugin.evaluation.evaluate import evaluate
from srptq_plugin.pipeline import quantize
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.reconstruction import pac_state
from srptq_plugin.runs.run import Run

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
TABLE = "quant_table.safetensors"
MOVING = {"observer": "dbdc", "options": {"average": "ema"}}
"""An observer for which the order of batches matters."""
TRAINING = {"steps": 4, "every": 2, "batch": 4, "patch": 16, "value_rate": 0.05, "bound_rate": 2e-3}


def recipe(target: str = "paper", **keys: Any) -> Recipe:
    calibration = {"patches": 8, "size": 16, "batch": 3, "even_areas": True}
    return networks.recipe(6 if target == "paper" else 8, target, calibration=calibration, **keys)


def tuned(batch: int) -> Recipe:
    options = {"name": "pac", "epochs": 3, "batch": batch, "start": "image", "blocks": "sensitivity"}
    return recipe(reconstruction={**options, "bias_correction": True}, activations=MOVING)


def observe(_rank: int, _count: int, folder: Path) -> Result:
    """Quantize without tuning, for a runtime, with every phase before tuning."""
    phases = {"float_above": 0.02, "equalize": True, "activations": MOVING}
    run = quantize(recipe("onnxruntime", **phases), model=networks.network("edsr"), out=folder / "observed")
    return {"table": (run.folder / TABLE).read_bytes(), "passed": run.summary["verify"]["passed"]}


def work_on(rank: int, count: int, folder: Path) -> Result:
    """Observe, analyze, evaluate, tune and train."""
    observed = observe(rank, count, folder)
    subject = Subject.of_run(Run.open(folder / "observed"), patches=5)
    analysis = analyze(subject, rows=KeptRows(folder / "rows")).record()
    resumed = analyze(subject, rows=KeptRows(folder / "rows", resume=True)).record()
    scores = evaluate(Run.open(folder / "observed"), folder / "images").record()
    run = quantize(tuned(4), model=networks.network("edsr"), out=folder / "tuned")
    refused = refusal_of(partial(quantize, tuned(3), model=networks.network("edsr"), out=folder / "refused"))
    chosen = recipe(training=TRAINING, activations=MOVING)
    trained = train_run(chosen, run.folder, images=folder / "images", out=folder / "trained", scale=2)
    tables = {"tuned_table": (run.folder / TABLE).read_bytes()}
    measured = {"analysis": analysis, "resumed": resumed, "scores": scores, "losses": run.summary["reconstruction"]}
    after = {name: evaluate(made, folder / "images").record() for name, made in (("tuned", run), ("trained", trained))}
    return {**observed, **tables, **measured, **after, "refused": refused}


def tune(rank: int, _count: int, folder: Path, lost: int) -> Result:
    """Tune, from a state if there is one. The process `lost` kills itself on the way."""

    def kill(what: str, done: int, _total: int) -> None:
        if (rank, what, done) == (lost, "tuning", 3):
            os.kill(os.getpid(), signal.SIGKILL)

    pac_state.SECONDS, pac_state.SHARE = 0.0, float("inf")  # every step is saved
    run = quantize(tuned(4), model=networks.network("edsr"), out=folder / "run", resume=True, progress=kill)
    return {"table": (run.folder / TABLE).read_bytes()}


def with_images(folder: Path) -> Path:
    for seed in range(5):
        save(pixels(32, 36, seed=seed), folder / "images" / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Result:
    with descents(1):  # as the processes do, which have no fixtures
        return work_on(0, 1, with_images(tmp_path_factory.mktemp("one")))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    folder = with_images(tmp_path_factory.mktemp("two"))
    return together(partial(work_on, folder=folder), 2, folder)


def psnr(record: Mapping[str, Any], output: str) -> float:
    return next(row["psnr"] for row in record["rows"] if row["output"] == output)


def test_observed_bounds_are_equal(alone: Result, both: list[Result]) -> None:
    assert both[0]["table"] == both[1]["table"] == alone["table"]


def bounds_of(_rank: int, _count: int) -> Result:
    """Observe five batches with an observer for which their order matters."""
    prepared = networks.realize("edsr", networks.plan("edsr", recipe(activations=MOVING)))
    observe_batches(prepared, networks.images(9, seed=1).split(2))
    known = {group: quantizer for group, quantizer in prepared.quantizers.items() if not quantizer.has_pending}
    return {group: quantizer.bounds.outermost for group, quantizer in known.items() if quantizer.has_bounds}


def test_four_processes_observe_the_same_bounds(tmp_path: Path) -> None:
    first, *_ = together(bounds_of, 4, tmp_path)
    here = bounds_of(0, 1)
    assert first == here
    assert len(here) > 10


def test_analyses_and_evaluations_are_equal(alone: Result, both: list[Result]) -> None:
    for name in ("analysis", "resumed", "scores"):
        assert both[0][name] == both[1][name] == alone[name], name
    assert alone["resumed"] == alone["analysis"]


@pytest.mark.parametrize("name", ["tuned", "trained"])
def test_tuned_and_trained_networks_score_alike(alone: Result, both: list[Result], name: str) -> None:
    assert both[0][name] == both[1][name]
    assert psnr(both[0][name], "float") == psnr(alone[name], "float")
    assert psnr(both[0][name], "simulated") == pytest.approx(psnr(alone[name], "simulated"), abs=0.02)


def test_tuning_in_two_processes_lowers_the_loss(both: list[Result]) -> None:
    assert both[0]["losses"] == both[1]["losses"]
    assert both[0]["losses"]["loss_after"] < both[0]["losses"]["loss_before"]


def test_after_a_lost_process_both_resume(both: list[Result], tmp_path: Path) -> None:
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        together(partial(tune, folder=tmp_path, lost=1), 2, tmp_path)
    assert (tmp_path / "run.quantizing" / "reconstruction.pt").is_file()
    assert not (tmp_path / "run" / TABLE).exists()
    (tmp_path / "store").unlink()
    resumed = together(partial(tune, folder=tmp_path, lost=2), 2, tmp_path)
    assert [result["table"] for result in resumed] == [both[0]["tuned_table"]] * 2


def test_batches_that_cannot_be_shared_are_refused(alone: Result, both: list[Result]) -> None:
    message = "reconstruction.batch: 3 patches cannot be shared by 2 processes; give a multiple of 2, or start fewer"
    assert all(message in result["refused"] for result in both)
    assert not alone["refused"]
