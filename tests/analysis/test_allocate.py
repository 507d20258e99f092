"""The integer program finds what trying every mixture of bits finds."""

from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from srptq_plugin.analysis.allocate import Choice, Measure, Problem, Product

WIDTHS = (2, 4, 8)
NAMES = ("a", "b", "c", "d")


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    names = NAMES[: draw(st.integers(1, 4))]
    noise = st.floats(1e-3, 1e3)
    choices = [
        Choice(
            name,
            {bits: draw(noise) for bits in draw(st.sets(st.sampled_from(WIDTHS), min_size=1))},
            draw(st.integers(0, 50)),
        )
        for name in names
    ]
    factor = st.none() | st.sampled_from(names)
    layers = [Product(draw(st.integers(1, 50)), draw(factor), draw(factor)) for _ in range(draw(st.integers(0, 4)))]
    return Problem(choices, layers)


def all_mixtures(problem: Problem) -> list[Mapping[str, int]]:
    names = [choice.name for choice in problem.choices]
    return [dict(zip(names, bits, strict=True)) for bits in product(*(choice.noise for choice in problem.choices))]


@given(problem=problems(), measure=st.sampled_from(["size", "bops"]), share=st.floats(0, 1.2))
def test_no_mixture_within_a_budget_is_less_noisy(problem: Problem, measure: Measure, share: float) -> None:
    limit = share * problem.cost(measure, problem.most())
    within = [bits for bits in all_mixtures(problem) if problem.cost(measure, bits) <= limit]
    solution = problem.least_noise(measure, limit)
    if solution is None:
        assert not within
    else:
        assert problem.cost(measure, solution) <= limit
        assert problem.noise(solution) == pytest.approx(min(map(problem.noise, within)), rel=1e-5)


@example(problem=Problem([Choice("a", {2: 1e-3, 4: 500.0})], []), measure="size", share=0.5)
@given(problem=problems(), measure=st.sampled_from(["size", "bops"]), share=st.floats(0, 1.2))
def test_no_mixture_within_the_noise_is_cheaper(problem: Problem, measure: Measure, share: float) -> None:
    limit = share * problem.noise(problem.least())
    within = [bits for bits in all_mixtures(problem) if problem.noise(bits) <= limit]
    solution = problem.least_cost(measure, limit)
    if solution is None:
        assert not within
    else:
        assert problem.noise(solution) <= limit * (1 + 1e-6)
        assert problem.cost(measure, solution) == pytest.approx(
            min(problem.cost(measure, bits) for bits in within), rel=1e-5
        )


def test_layer_costs_the_product_of_its_bits() -> None:
    choices = [Choice("weight", {4: 1.0, 8: 0.0}), Choice("map", {4: 1.5, 8: 0.0})]
    problem = Problem(choices, [Product(10, "weight", "map"), Product(1, None, "map")])
    assert problem.cost("bops", {"weight": 4, "map": 8}) == 10 * 32 + 32 * 8
    assert problem.least_noise("bops", 10 * 32 + 32 * 8) == {"weight": 4, "map": 8}
    assert problem.least_noise("bops", 10 * 32 + 32 * 8 - 1) == {"weight": 8, "map": 4}
    assert problem.least_noise("bops", 10) is None
