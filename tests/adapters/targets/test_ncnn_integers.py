"""ncnn's integer layers, next to the same arithmetic in NumPy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers.onnx_nodes import Array, normal, rng

pytest.importorskip("ncnn")

from srptq_adapters.targets.ncnn import NcnnNet
from srptq_adapters.targets.ncnn_convolutions import CONV, DEPTHWISE, Kernel, fill
from srptq_adapters.targets.ncnn_file import INPUT, OUTPUT, Layer, Scales, Value, write

ACTIVATIONS: Mapping[str, tuple[dict[int, Value], Callable[[Array], Array]]] = {
    "none": ({}, lambda x: x),
    "relu": ({9: 1}, lambda x: np.maximum(x, 0)),
    "leaky relu": ({9: 2, 10: [0.125]}, lambda x: np.where(x > 0, x, x * 0.125)),
    "clip": ({9: 3, 10: [-0.25, 1.5]}, lambda x: np.clip(x, -0.25, 1.5)),
}


@dataclass
class Conv:
    """A convolution of integers at stride 1 that keeps the size."""

    weight: Array
    bias: Array
    scales: Scales
    activation: str = "none"

    @classmethod
    def random(cls, outputs: int, inputs: int, side: int, activation: str, *, seed: int) -> "Conv":
        weight = rng(seed).integers(-127, 128, (outputs, inputs, side, side)).astype(np.int8)
        factors = (500 * rng(seed).uniform(0.5, 2, outputs)).astype(np.float32)
        return cls(weight, normal(outputs, seed=seed), Scales(factors, 50.0), activation)

    def layer(self, kind: str, source: str, output: str) -> Layer:
        side = self.weight.shape[2]
        layer = Layer(kind, f"layer_{output}", [source], [output])
        window: dict[int, Value] = {0: len(self.weight), 1: side, 11: side, 4: side // 2}
        window |= dict.fromkeys((2, 12, 3, 13), 1) | ({7: len(self.weight)} if kind == DEPTHWISE else {})
        fill(layer, {**window, **ACTIVATIONS[self.activation][0]}, Kernel(self.weight, self.bias, self.scales))
        return layer

    def compute(self, integers: Array) -> Array:
        """Return the real values of a map of integers: whole sums, then one multiplication and one addition."""
        outputs, inputs, side, _ = self.weight.shape
        padded = np.pad(integers.astype(np.int64), ((0, 0), (side // 2,) * 2, (side // 2,) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
        weight = self.weight.astype(np.int64)
        if inputs == 1 and outputs == len(integers):
            sums = np.einsum("chwij,cij->chw", windows, weight[:, 0])
        else:
            sums = np.einsum("chwij,ocij->ohw", windows, weight)
        factors = 1 / (self.scales.weights.astype(np.float64) * self.scales.input)
        real = sums * factors[:, None, None] + self.bias[:, None, None]
        return ACTIVATIONS[self.activation][1](real)


def quantized(values: Array, factor: float) -> Array:
    """Round half away from zero, between -127 and 127."""
    scaled = values.astype(np.float64) * factor
    return np.clip(np.trunc(scaled + np.copysign(0.5, scaled)), -127, 127)


def run(layers: Sequence[Layer], folder: Path, image: Array) -> Array:
    chain = [Layer("Input", INPUT, [], [INPUT]), *layers, Layer("Noop", OUTPUT, layers[-1].outputs, [OUTPUT])]
    return np.asarray(NcnnNet(write(chain, folder, "layers")[0])(image[None])[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize(("outputs", "inputs"), [(3, 8), (8, 3), (16, 12), (12, 24)])
def test_a_convolution_adds_whole_products(
    outputs: int, inputs: int, side: int, activation: str, tmp_path: Path
) -> None:
    conv = Conv.random(outputs, inputs, side, activation, seed=outputs)
    image = 2 * normal(inputs, 9, 11)
    measured = run([conv.layer(CONV, INPUT, "y")], tmp_path, image)
    np.testing.assert_allclose(measured, conv.compute(quantized(image, 50.0)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("channels", [6, 16])
@pytest.mark.parametrize("side", [3, 5])
def test_a_depthwise_convolution_adds_whole_products(side: int, channels: int, activation: str, tmp_path: Path) -> None:
    conv = Conv.random(channels, 1, side, activation, seed=channels)
    image = 2 * normal(channels, 9, 11)
    measured = run([conv.layer(DEPTHWISE, INPUT, "y")], tmp_path, image)
    # For eight channels at once ncnn 1.0.20261020 divides by `_mm_rcp_ps`, whose relative error is up to 1.5 * 2^-12.
    tolerance = 1.5 * 2**-12 if channels % 8 == 0 else 1e-5
    np.testing.assert_allclose(measured, conv.compute(quantized(image, 50.0)), rtol=tolerance, atol=1e-3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", [CONV, DEPTHWISE])
@pytest.mark.parametrize("channels", [6, 24])
def test_integers_pass_from_one_convolution_to_the_next(
    channels: int, kind: str, activation: str, tmp_path: Path
) -> None:
    first = Conv.random(channels, 1 if kind == DEPTHWISE else channels, 3, activation, seed=1)
    second = Conv.random(4, channels, 1, "none", seed=2)
    first.scales.output = second.scales.input
    image = normal(channels, 9, 11)
    measured = run([first.layer(kind, INPUT, "z"), second.layer(CONV, "z", "y")], tmp_path, image)
    between = quantized(first.compute(quantized(image, 50.0)), 50.0)
    error = np.abs(measured - second.compute(between))
    step = np.abs(second.weight.astype(np.float64)).max() / float(second.scales.weights.min()) / 50.0
    assert np.median(error) < 1e-5
    assert error.max() < 4 * step  # a value on the border between two integers may fall on either


def test_integers_pass_to_several_convolutions(tmp_path: Path) -> None:
    first, *others = (Conv.random(8, 8, 3, "relu", seed=seed) for seed in range(3))
    first.scales.output = 50.0
    image = normal(8, 9, 11)
    layers = [first.layer(CONV, INPUT, "z"), *(conv.layer(CONV, "z", f"y{n}") for n, conv in enumerate(others))]
    measured = run([*layers, Layer("BinaryOp", "sum", ["y0", "y1"], ["y"], {0: 0})], tmp_path, image)
    between = quantized(first.compute(quantized(image, 50.0)), 50.0)
    expected = others[0].compute(between) + others[1].compute(between)
    assert np.median(np.abs(measured - expected)) < 1e-5


@pytest.mark.parametrize("channels", [16, 64])
@pytest.mark.parametrize("sign", [-1, 1])
def test_no_image_overflows_a_winograd_kernel(channels: int, sign: int, tmp_path: Path) -> None:
    """Run white through weights of one sign. At 64 channels 576 times their sum exceeds 32 bits."""
    conv = Conv(np.full((8, channels, 3, 3), 60, np.int8), np.zeros(8, np.float32), Scales(np.full(8, 100.0), 50.0))
    layer = conv.layer(CONV, INPUT, "y")
    image = np.full((channels, 9, 11), sign * 9.0, np.float32)
    np.testing.assert_allclose(run([layer], tmp_path, image), conv.compute(quantized(image, 50.0)), rtol=1e-6)
    assert ("31=64" in layer.line()) is (channels == 64)
