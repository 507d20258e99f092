"""The contract of quantizers that train: the base class keeps it, and a training calls a plugin's as it says."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from helpers import networks
from torch import Tensor, nn

from srptq_plugin.planning.plan import QConfig
from srptq_plugin.plugin_api import BoundedFakeQuantize, Bounds, IntGrid, TrainableQuantizer
from srptq_plugin.qat.training import Training, train
from srptq_plugin.recipes.schema import TrainingSettings

IMAGES = networks.images(4, seed=5)
STEPS = 4


class Damped(BoundedFakeQuantize):
    """A plugin's quantizer: a learned factor on its output, and a loss that pulls the factor to zero."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.factor = nn.Parameter(torch.tensor(1.0))
        self.calls: list[Any] = []

    @classmethod
    def on_train_begin(cls, members: Sequence[Any], run_float: Callable[[], object]) -> None:
        shapes: list[torch.Size] = []
        hooks = [member.register_forward_hook(partial(_keep_shape, shapes)) for member in members]
        run_float()
        for member, hook in zip(members, hooks, strict=True):
            hook.remove()
            member.calls += [type(member.bounds), len(shapes) == len(members)]

    def extra_parameters(self) -> Iterator[tuple[nn.Parameter, float]]:
        yield self.factor, 0.01

    def on_progress(self, fraction: float) -> None:
        self.calls.append(fraction)

    def quantize_tensor(self, values: Tensor) -> Tensor:
        if self.training:
            self.calls.append("quantize")
        return super().quantize_tensor(values) * self.factor

    def auxiliary_loss(self) -> Tensor | None:
        self.calls.append("loss")
        return self.factor.square()


def _keep_shape(shapes: list[torch.Size], _module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
    shapes.append(inputs[0].shape)


def as_contract(quantizer: BoundedFakeQuantize) -> TrainableQuantizer:
    """Pass a quantizer where the contract is expected: the type checker compares all signatures."""
    return quantizer


def test_the_base_class_keeps_the_contract() -> None:
    quantizer = as_contract(BoundedFakeQuantize("a/site", IntGrid(4), bounds=Bounds.of(-1.0, 1.0)))
    methods = {name: value for name, value in vars(TrainableQuantizer).items() if inspect.isfunction(value)}
    names = {"set_bounds", "refresh", "quantize_tensor", "extra_parameters", "auxiliary_loss", "state", "restore"}
    assert names < methods.keys()
    for name, method in methods.items():
        if not name.startswith("_"):
            assert inspect.signature(getattr(BoundedFakeQuantize, name)) == inspect.signature(method), name
    assert list(quantizer.extra_parameters()) == []
    assert quantizer.auxiliary_loss() is None


def test_a_training_calls_back_in_order() -> None:
    plan = networks.plan("edsr", networks.recipe(4, "onnxruntime"))
    qconfig = QConfig(plan.qconfigs["activation"].observer, Damped)
    prepared = networks.realize("edsr", replace(plan, qconfigs={**plan.qconfigs, "activation": qconfig}))
    prepared.observe([IMAGES])
    prepared.on_train_begin(IMAGES)
    training = Training(prepared, TrainingSettings(steps=STEPS, every=2), peak=1.0)
    scores = iter([1.0, 2.0, 3.0])  # the last state is the best, so it stays in place
    assert len(list(train(training, lambda _step: (IMAGES, None), lambda _prepared: next(scores)))) == 3
    damped = [
        quantizer for quantizer in prepared.quantizers.values() if isinstance(quantizer, Damped) and not quantizer.fixed
    ]
    assert damped
    for quantizer in damped:
        assert quantizer.calls[:2] == [Bounds, True]
        assert quantizer.calls[2:] == [call for n in range(STEPS) for call in (n / STEPS, "quantize", "loss")]
        assert quantizer.factor.item() < 1
