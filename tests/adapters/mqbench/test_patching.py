"""Undoing of changes to other modules, which leaves later changes by others alone."""

from itertools import permutations
from types import SimpleNamespace

import pytest

from srptq_adapters.mqbench.patching import entered, inserted, swapped


def test_swapped_attribute_is_restored() -> None:
    owner = SimpleNamespace(call=min)
    undo = swapped(owner, "call", max)
    assert owner.call is max
    undo()
    assert owner.call is min


def test_attribute_replaced_by_others_stays() -> None:
    owner = SimpleNamespace(call=min)
    undo = swapped(owner, "call", max)
    owner.call = sum
    undo()
    assert owner.call is sum


def test_entry_is_added_and_removed() -> None:
    table = {"a": 1}
    undo = entered(table, "b", 2)
    assert table == {"a": 1, "b": 2}
    undo()
    assert table == {"a": 1}


def test_entry_changed_by_others_stays() -> None:
    table: dict[str, object] = {"a": min}
    undos = [entered(table, name, max) for name in "bc"]
    table["b"] = sum
    del table["c"]
    for undo in undos:
        undo()
    assert table == {"a": min, "b": sum}


@pytest.mark.parametrize(
    ("where", "expected"),
    [({}, "abx"), ({"behind": "a"}, "axb"), ({"before": "a"}, "xab"), ({"before": "b"}, "axb")],
)
def test_item_is_inserted_at_its_place(where: dict[str, str], expected: str) -> None:
    items = list("ab")
    undo = inserted(items, "x", **where)
    assert "".join(items) == expected
    undo()
    assert "".join(items) == "ab"


@pytest.mark.parametrize("order", permutations(range(3)))
def test_items_are_removed_in_any_order(order: tuple[int, ...]) -> None:
    items = list("ab")
    undos = [inserted(items, "x", behind="a"), inserted(items, "y", behind="x"), inserted(items, "z")]
    for index in order:
        undos[index]()
    assert items == list("ab")


def test_item_removed_by_others_is_not_missed() -> None:
    items = list("ab")
    undo = inserted(items, "x")
    items.remove("x")
    undo()
    undo()
    assert items == list("ab")
