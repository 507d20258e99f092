"""initialize(): a model of MQBench, and one of torchao, starts from a run of torchao."""

from collections.abc import Callable
from typing import Any

import mqbench  # pyright: ignore[reportMissingImports]
import pytest
import torch
from helpers import networks
from helpers.mqbench_starting import IMAGES, IN_THE_RUN, by_name, kinds
from mqbench.fake_quantize.quantize_base import QuantizeBase  # pyright: ignore[reportMissingImports]
from mqbench.utils.state import enable_quantization  # pyright: ignore[reportMissingImports]
from torch import Tensor, fx, nn

import srptq_plugin
from srptq_adapters.mqbench.grids import read_grid
from srptq_plugin.planning.readback import PlacedQuantizer
from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.runs.run import Run

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")

from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from srptq_adapters.torchao import SRQuantizer

Prepare = Callable[..., fx.GraphModule]
LEFT = {"/input", "sub_mean.weight", "tail/conv", "add_mean.weight"}
"""Tensors that the pipeline folds or keeps float: mean shifts and their inputs."""
STANDIN = str(vars(mqbench)["__version__"]).endswith("+standin")
real = pytest.mark.skipif(STANDIN, reason="needs the real MQBench")
KINDS = ["Fixed", "Learnable", "PACT", pytest.param("DSQ", marks=real), "Bounded"]


def expected_bounds(run: Run, placed: PlacedQuantizer) -> Bounds:
    bounds = run.table.qparams[IN_THE_RUN.get(placed.name, placed.name)].bounds
    if read_grid(placed.quantizer).channel_axis is not None:
        return bounds
    return Bounds.of(bounds.lower.min(), bounds.upper.max())


@pytest.mark.parametrize("backend", ["Academic", "SNPE"])
@pytest.mark.parametrize("quantizer", KINDS)
def test_scales_and_zero_points_follow_the_bounds(quantizer: str, backend: str, run: Run, prepare: Prepare) -> None:
    model = prepare("edsr", backend, **kinds(quantizer))
    started = srptq_plugin.initialize(model, run.folder)
    places = by_name(model)
    assert set(started.sites) | set(started.left) == places.keys()
    assert started.sites
    for name in started.sites:
        module: Any = places[name].quantizer
        qparams = project(expected_bounds(run, places[name]), read_grid(module))
        torch.testing.assert_close(module.scale.detach().reshape(-1), qparams.scale.reshape(-1), rtol=0, atol=0)
        assert module.zero_point.detach().reshape(-1).tolist() == qparams.zero_point.reshape(-1).tolist()


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_bounds_are_per_tensor_or_per_channel(per: str, run: Run, prepare: Prepare) -> None:
    scheme = {"bit": 4, "symmetry": True, "per_channel": per == "channel", "pot_scale": False}
    model = prepare(w_qscheme=scheme)
    srptq_plugin.initialize(model, run.folder)
    head: Any = model.get_submodule("head.weight_fake_quant")
    assert head.scale.numel() == (6 if per == "channel" else 1)
    bounds = run.table.qparams["head.weight"].bounds
    assert head.scale.max() == pytest.approx(float(bounds.upper.max()) / 7)


@pytest.mark.parametrize("backend", ["Academic", "SNPE"])
@pytest.mark.parametrize("quantizer", KINDS)
def test_started_quantizers_quantize_and_others_observe(
    quantizer: str, backend: str, run: Run, prepare: Prepare, caplog: pytest.LogCaptureFixture
) -> None:
    model = prepare("edsr", backend, **kinds(quantizer))
    started = srptq_plugin.initialize(model, run.folder)
    modules: dict[str, Any] = {name: placed.quantizer for name, placed in by_name(model).items()}
    assert set(started.left) == LEFT
    for name, module in modules.items():
        observes = name in started.left
        assert (bool(module.observer_enabled[0]), bool(module.fake_quant_enabled[0])) == (observes, not observes)
    assert all(name in caplog.text for name in started.left)


def test_pact_starts_at_the_bounds_of_the_run(run: Run, prepare: Prepare) -> None:
    model = prepare(**kinds("PACT"))
    srptq_plugin.initialize(model, run.folder)
    pact: Any = model.get_submodule("head_post_act_fake_quantizer")
    real_bounds = project(run.table.qparams["head/conv"].bounds, read_grid(pact)).bounds
    assert float(pact.alpha) == pytest.approx(float(real_bounds.upper))
    assert float(pact.n_alpha) == pytest.approx(float(real_bounds.lower))


@pytest.mark.parametrize("quantizer", KINDS)
def test_started_model_draws_nearly_the_float_output(quantizer: str, run: Run, prepare: Prepare) -> None:
    eight = {"bit": 8, "symmetry": True, "per_channel": True, "pot_scale": False}
    schemes = {"w_qscheme": eight, "a_qscheme": eight | {"symmetry": False, "per_channel": False}}
    model = prepare(**kinds(quantizer), **schemes)
    srptq_plugin.initialize(model, run.folder)
    exact = networks.network("edsr")(IMAGES)
    with torch.no_grad():
        model.train(quantizer == "DSQ")  # DSQ observes in training only.
        model(IMAGES)
        enable_quantization(model)
        model.eval()
        error = (model(IMAGES) - exact).abs()
    assert 0 < error.mean() < 0.02 * (exact.max() - exact.min())


def scales(model: nn.Module) -> list[Tensor]:
    quantizers: list[Any] = [module for module in model.modules() if isinstance(module, QuantizeBase)]
    return [quantizer.scale.detach().clone() for quantizer in quantizers]


@real
@pytest.mark.parametrize("quantizer", ["Learnable", "PACT", "DSQ", "Bounded"])
def test_three_steps_of_training_lower_the_loss(quantizer: str, run: Run, prepare: Prepare) -> None:
    model = prepare(**kinds(quantizer)).train()
    srptq_plugin.initialize(model, run.folder)
    with torch.no_grad():
        model(IMAGES)
    enable_quantization(model)
    start, target = scales(model), networks.network("edsr")(IMAGES).detach()
    losses = train(model, target, steps=3)
    assert losses[-1] < losses[0]
    if quantizer in ("Learnable", "Bounded"):
        assert not all(map(torch.equal, scales(model), start))


def train(model: nn.Module, target: Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], 1e-3)
    losses: list[float] = []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        loss = (model(IMAGES) - target).abs().mean()
        loss.backward()
        losses.append(loss.item())
        if len(losses) <= steps:
            optimizer.step()
    return losses


def test_torchao_model_starts_from_the_same_run(run: Run) -> None:
    module = torch.export.export(networks.folded("edsr"), (IMAGES,)).module()
    model = prepare_pt2e(module, SRQuantizer.from_recipe(run.recipe))
    started = srptq_plugin.initialize(model, run.folder)
    assert not started.left
    assert set(started.sites) == set(run.table.qparams)
    for name, placed in by_name(model).items():
        quantizer: Any = placed.quantizer
        assert quantizer.mode is Mode.QUANTIZE
        assert torch.equal(quantizer.qparams().scale, run.table.qparams[name].scale)
        assert torch.equal(quantizer.qparams().zero_point, run.table.qparams[name].zero_point)
