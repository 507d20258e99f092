"""Sums and leaky ReLUs by multipliers of integers."""

from dataclasses import replace

import torch
from helpers import networks
from hypothesis import given
from hypothesis import strategies as st

from srptq_plugin.deploy.fixed_point import FixedPointLeakyRelu, FixedPointSum, use_fixed_point
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.graph.rules import Rules
from srptq_plugin.plugins.registry import Registry

SCALES = st.tuples(*3 * [st.floats(2**-10, 8, width=32)])
INTEGERS = st.tuples(st.integers(-255, 255), st.integers(-255, 255))


def rules_of(target: str, preset: str) -> Rules:
    return Registry().target(target).load().presets[preset]


@given(SCALES, INTEGERS, st.sampled_from([1, -1]))
def test_a_sum_is_within_a_step(scales: tuple[float, ...], integers: tuple[int, int], sign: int) -> None:
    (one, two, step), (a, b) = scales, integers
    first, second = torch.tensor([a * one]), torch.tensor([b * two])
    output = FixedPointSum(scales, sign, 20)(first, second)
    exact = (a * one + sign * b * two) / step
    # Half a step by rounding, and an error of 2^-21 of each product by its multiplier.
    slack = 0.5 + (abs(a) * one + abs(b) * two) / step * 2**-20 + 1e-5 * abs(exact)
    assert abs(float(output) / step - exact) <= slack


def test_halves_round_up() -> None:
    halve = FixedPointSum([1.0, 1.0, 2.0], 1, 20)
    sums = halve(torch.tensor([1.0, 3.0, -1.0, -3.0]), torch.zeros(4))
    assert (sums / 2).tolist() == [1.0, 2.0, 0.0, -1.0]


def test_few_bits_change_sums() -> None:
    values = torch.arange(-128.0, 128.0)
    exact = FixedPointSum([0.3, 0.7, 1.1], 1, 40)(values * 0.3, values * 0.7)
    coarse = FixedPointSum([0.3, 0.7, 1.1], 1, 6)(values * 0.3, values * 0.7)
    assert 0 < float((exact - coarse).abs().max()) <= 1.1 * 2


def test_a_network_keeps_its_blocks_and_output() -> None:
    table = QuantTable.of(networks.calibrated("edsr", 8, "executorch"))
    image, rules = networks.images(1), rules_of("executorch", "xnnpack")
    with torch.no_grad():
        expected = table.simulate(networks.graph("edsr"))(image)
        fixed = use_fixed_point(table.simulate(networks.graph("edsr")), rules)
        coarse = use_fixed_point(table.simulate(networks.graph("edsr")), replace(rules, sum_multiplier_bits=4))
        assert len(fixed.features(image)[1]) == len(table.plan.blocks)
        assert torch.nn.functional.mse_loss(fixed(image), expected) < 1e-5
        assert not torch.equal(coarse(image), expected)


@given(st.floats(0.25, 4, width=32), st.floats(0.01, 0.5), st.integers(-128, 127))
def test_a_leaky_relu_is_within_a_step(ratio: float, slope: float, integer: int) -> None:
    output = float(FixedPointLeakyRelu([ratio, 1.0], slope, 8)(torch.tensor([integer * ratio])))
    exact = integer * ratio * (slope if integer < 0 else 1)
    # Half a step by rounding, and half of 1 / 256 by its multiplier.
    assert abs(output - exact) <= 0.5 + abs(integer) / 512 + 1e-4


def test_a_network_multiplies_in_leaky_relus() -> None:
    rules = rules_of("litert", "default")
    table = QuantTable.of(networks.calibrated("imdn", 8, "litert"))
    image = networks.images(1)
    with torch.no_grad():
        expected = table.simulate(networks.graph("imdn"))(image)
        coarse = use_fixed_point(table.simulate(networks.graph("imdn")), replace(rules, leaky_multiplier_bits=2))(image)
    assert not torch.equal(coarse, expected)
