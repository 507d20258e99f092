"""The integer program against a search through all choices."""

import random
from itertools import chain, combinations

import pytest

from srptq_plugin.accuracy.finer_plans import Choice, cheapest, finest
from srptq_plugin.accuracy.options import Options, Wider

OPERATIONS = ("a", "b", "c", "d")
GROUPS = ("t", "u", "v", "w")


def drawn(seed: int) -> Options:
    draw = random.Random(seed)  # noqa: S311 - no secret
    noise = [draw.random() for _ in GROUPS]
    return Options(
        {group: made / sum(noise) for group, made in zip(GROUPS, noise, strict=True)},
        {name: draw.uniform(0.1, 1) for name in OPERATIONS},
        {group: draw.sample(OPERATIONS, draw.randint(1, 2)) for group in GROUPS[:3]},
        [
            Wider(group, bits, 1 - 4.0 ** (4 - bits), bits * draw.uniform(0.01, 0.05))
            for group in GROUPS[1:]
            for bits in (8, 16)
        ],
        ("a", "b"),
    )


def subsets(values: list[str]) -> list[tuple[str, ...]]:
    return list(chain.from_iterable(combinations(values, count) for count in range(len(values) + 1)))


def every_choice(options: Options) -> list[tuple[float, float]]:
    """Return price and noise of every choice that leaves one layer in integers."""
    outcomes: list[tuple[float, float]] = []
    for floats in subsets(list(OPERATIONS)):
        if set(options.layers) <= set(floats):
            continue
        unrounded = {group for group, needed in options.needed.items() if set(needed) <= set(floats)}
        for wider in combinations([None, *options.wider], 3):
            chosen = [option for option in wider if option]
            if len({option.group for option in chosen}) < len(chosen):
                continue
            saved = {option.group: option.saved for option in chosen} | dict.fromkeys(unrounded, 1.0)
            left = sum(noise * (1 - saved.get(group, 0)) for group, noise in options.noise.items())
            outcomes.append((sum(options.price[name] for name in floats) + sum(o.price for o in chosen), left))
    return outcomes


def noise_of(options: Options, choice: Choice) -> float:
    bits = {(option.group, option.bits): option.saved for option in options.wider}
    saved = {group: bits[group, width] for group, width in choice.bits}
    saved |= {group: 1.0 for group, needed in options.needed.items() if set(needed) <= set(choice.floats)}
    return sum(noise * (1 - saved.get(group, 0)) for group, noise in options.noise.items())


@pytest.mark.parametrize("seed", range(8))
def test_the_program_finds_the_cheapest_choice(seed: int) -> None:
    options = drawn(seed)
    for share in (0.7, 0.3, 0.05):
        possible = [price for price, left in every_choice(options) if left <= share]
        choice = cheapest(options, share)
        assert (choice is None) == (not possible)
        if choice:
            assert noise_of(options, choice) <= share + 1e-6
            assert choice.price <= min(possible) * 1.002


@pytest.mark.parametrize("seed", range(4))
def test_the_finest_choice_leaves_the_least_noise(seed: int) -> None:
    options = drawn(seed)
    choice = finest(options)
    assert choice is not None
    assert noise_of(options, choice) == pytest.approx(min(left for _, left in every_choice(options)), abs=1e-4)
    assert not set(options.layers) <= set(choice.floats)


def test_a_network_without_options_has_no_finer_plan() -> None:
    assert finest(Options({"t": 1.0}, {}, {}, (), ("a",))) is None
    assert cheapest(Options({"t": 1.0}, {}, {}, (), ("a",)), 0.5) is None
