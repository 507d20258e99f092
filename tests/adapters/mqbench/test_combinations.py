"""Pairs of MQBench settings, with ours among them: prepared, calibrated, reconstructed and run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import pytest
import torch
from helpers import networks
from mqbench import advanced_ptq  # pyright: ignore[reportAttributeAccessIssue]
from mqbench import prepare_by_platform as platform  # pyright: ignore[reportAttributeAccessIssue]
from mqbench.fake_quantize.quantize_base import QuantizeBase  # pyright: ignore[reportMissingImports]
from mqbench.utils.state import enable_calibration, enable_quantization  # pyright: ignore[reportMissingImports]
from torch import fx

from srptq_adapters.mqbench.grids import read_grid
from srptq_plugin.reconstruction import pac

pytestmark = pytest.mark.usefixtures("real", "active")

FACTORS: Mapping[str, tuple[Any, ...]] = {
    "bits": (2, 3, 4, 5, 6, 7, 8),
    "backend": ("Academic", "Tensorrt", "SNPE", "OPENVINO", "QDQ", "PPLCUDA"),
    "activations": ("Fixed", "Learnable", "DSQ", "PACT", "QDrop", "Bounded"),
    "weights": ("Fixed", "Learnable", "DSQ", "AdaRound", "Bounded"),
    "steps": (("none", 1.0), ("pac", 1.0), ("layer", 1.0), ("block", 1.0), ("block", 0.5)),
    "observer": ("dbdc", "MinMaxObserver", "EMAMinMaxObserver", "EMAQuantileObserver"),
    "network": ("edsr", "imdn"),
    "per_channel": (False, True),
    "symmetric": (False, True),
}
IMAGES = networks.images(4, seed=3)
BATCHES = list(IMAGES.split(2))
PAC = {"pattern": "pac", "epochs": 2, "schedule": "joint", "activation_rate": 1e-2, "weight_rate": 1e-2}
STOCK = {"scale_lr": 4e-5, "warm_up": 0.2, "weight": 0.01, "max_count": 2, "b_range": [20, 2], "keep_gpu": True}
Case = dict[str, Any]


@dataclass(frozen=True)
class Losses:
    """The figures of each run of PaC."""

    figures: list[Mapping[str, float]]


def allowed(case: Case) -> bool:
    """Tell whether MQBench can run a case.

    Its own patterns learn rounding in one kind of quantizer only, and run no network that splits tensors.
    """
    fits = case.get("weights", "AdaRound") == "AdaRound" and case.get("network", "edsr") == "edsr"
    return fits or case.get("steps", ("none",))[0] in ("none", "pac")


def pairs(case: Case) -> set[Any]:
    return set(combinations(((name, case[name]) for name in FACTORS if name in case), 2))


def pairwise() -> Iterator[Case]:
    """Yield cases in which all allowed pairs of values meet. A greedy search makes them few."""
    single = ([(name, value) for value in values] for name, values in FACTORS.items())
    every = [pair for one, other in combinations(single, 2) for pair in product(one, other)]
    left = dict.fromkeys(pair for pair in every if allowed(dict(pair)))
    while left:
        case: Case = dict(next(iter(left)))
        for name, values in FACTORS.items():
            if name not in case:
                fits = [case | {name: value} for value in values if allowed(case | {name: value})]
                case = max(fits, key=lambda candidate: len(pairs(candidate) & left.keys()))
        for pair in pairs(case):
            left.pop(pair, None)
        yield {name: case[name] for name in FACTORS}


CASES = list(pairwise())


def case_name(case: Case) -> str:
    return "-".join(str(value) if not isinstance(value, tuple) else f"{value[0]}{value[1]}" for value in case.values())


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Losses:
    losses, reconstruct = Losses([]), pac.reconstruct

    def watched(*args: Any, **options: Any) -> Mapping[str, float]:
        losses.figures.append(reconstruct(*args, **options))
        return losses.figures[-1]

    monkeypatch.setattr(pac, "reconstruct", watched)
    return losses


def calibrated(case: Case) -> fx.GraphModule:
    symmetric = case["symmetric"]
    shared = {"bit": case["bits"], "pot_scale": False}
    qconfig = {
        "w_observer": "MinMaxObserver",
        "a_observer": case["observer"],
        "w_fakequantize": f"{case['weights']}FakeQuantize",
        "a_fakequantize": f"{case['activations']}FakeQuantize",
        "w_qscheme": shared | {"symmetry": True, "per_channel": case["per_channel"]},
        "a_qscheme": shared | {"symmetry": symmetric, "per_channel": False},
    }
    backend = platform.BackendType[case["backend"]]
    network = networks.network(case["network"])
    model = platform.prepare_by_platform(network, backend, {"extra_qconfig_dict": qconfig})
    model.train("DSQ" in (case["weights"], case["activations"]))  # DSQ observes in training only.
    enable_calibration(model)
    with torch.no_grad():
        for batch in BATCHES:
            model(batch)
    enable_quantization(model)
    return model.eval()


def reconstructed(model: fx.GraphModule, case: Case) -> fx.GraphModule:
    first, prob = case["steps"]
    if first in ("layer", "block"):
        stock = STOCK | {"pattern": first, "prob": prob, "round_mode": "learned_hard_sigmoid"}
        model = advanced_ptq.ptq_reconstruction(model, BATCHES, stock)
    if first != "none":
        model = advanced_ptq.ptq_reconstruction(model, BATCHES, PAC)
    enable_quantization(model)
    return model


def assert_on_its_grid(quantizer: Any, case: Case) -> None:
    grid = read_grid(quantizer)
    scale, zero_point = quantizer.scale.detach(), quantizer.zero_point.detach()
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()
    assert torch.equal(zero_point, zero_point.round())
    assert ((zero_point >= grid.qmin) & (zero_point <= grid.qmax)).all()
    assert (scale.numel() > 1) <= (case["per_channel"] and grid.channel_axis is not None)
    if grid.symmetric and grid.signed:
        assert not zero_point.any()


def test_cases_cover_all_allowed_pairs() -> None:
    met = set[Any]().union(*map(pairs, CASES))
    for one, other in combinations(FACTORS, 2):
        for values in product(FACTORS[one], FACTORS[other]):
            pair = tuple(zip((one, other), values, strict=True))
            assert (pair in met) == allowed(dict(pair))


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_combinations_run_and_pac_lowers_the_loss(case: Case, losses: Losses) -> None:
    torch.manual_seed(0)
    model = reconstructed(calibrated(case), case)
    with torch.no_grad():
        drawn, again = model(IMAGES), model(IMAGES)
    assert torch.isfinite(drawn).all()
    assert torch.equal(drawn, again)
    quantizers = [module for module in model.modules() if isinstance(module, QuantizeBase)]
    assert quantizers
    for quantizer in quantizers:
        assert_on_its_grid(quantizer, case)
    if case["steps"][0] != "none":
        advanced_ptq.ptq_reconstruction(model, BATCHES, PAC | {"epochs": 1, "batch": 4})
        tuned, repeated = losses.figures
        assert tuned["loss_after"] <= tuned["loss_before"]
        assert repeated["loss_before"] == pytest.approx(tuned["loss_after"], rel=1e-4)
