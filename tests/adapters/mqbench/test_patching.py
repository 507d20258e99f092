"""Every change can be taken back, and what others changed since is theirs."""

from itertools import permutations
from types import SimpleNamespace

import pytest

from srptq_adapters.mqbench.patching import entered, inserted, swapped


def test_an_attribute_is_swapped_and_comes_back() -> None:
    owner = SimpleNamespace(call=min)
    undo = swapped(owner, "call", max)
    assert owner.call is max
    undo()
    assert owner.call is min


def test_an_attribute_that_others_replaced_since_stays_theirs() -> None:
    owner = SimpleNamespace(call=min)
    undo = swapped(owner, "call", max)
    owner.call = sum
    undo()
    assert owner.call is sum


def test_an_entry_comes_and_goes() -> None:
    table = {"a": 1}
    undo = entered(table, "b", 2)
    assert table == {"a": 1, "b": 2}
    undo()
    assert table == {"a": 1}


def test_an_entry_that_others_replaced_or_took_out_since_stays_so() -> None:
    table: dict[str, object] = {"a": min}
    undos = [entered(table, name, max) for name in "bc"]
    table["b"] = sum
    del table["c"]
    for undo in undos:
        undo()
    assert table == {"a": min, "b": sum}


@pytest.mark.parametrize(
    ("where", "wanted"),
    [({}, "abx"), ({"behind": "a"}, "axb"), ({"before": "a"}, "xab"), ({"before": "b"}, "axb")],
)
def test_an_item_goes_where_it_is_wanted(where: dict[str, str], wanted: str) -> None:
    items = list("ab")
    undo = inserted(items, "x", **where)
    assert "".join(items) == wanted
    undo()
    assert "".join(items) == "ab"


@pytest.mark.parametrize("order", permutations(range(3)))
def test_items_are_taken_out_in_any_order(order: tuple[int, ...]) -> None:
    items = list("ab")
    undos = [inserted(items, "x", behind="a"), inserted(items, "y", behind="x"), inserted(items, "z")]
    for each in order:
        undos[each]()
    assert items == list("ab")


def test_an_item_that_others_took_out_since_is_not_missed() -> None:
    items = list("ab")
    undo = inserted(items, "x")
    items.remove("x")
    undo()
    undo()
    assert items == list("ab")
