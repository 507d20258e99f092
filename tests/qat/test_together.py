"""Training in several processes: gates, with the statistics in them, and what is kept are the same in all."""

import pytest
import torch
from helpers.processes import Result, together, train_gates

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
Both = tuple[list[Result], Result]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Of two processes, and of one."""
    (alone,) = together(train_gates, 1, tmp_path_factory.mktemp("one"))
    return together(train_gates, 2, tmp_path_factory.mktemp("two")), alone


def test_all_processes_end_with_the_same_network(both: Both) -> None:
    (one, other), _ = both
    assert one["scores"] == other["scores"]
    assert any("gate" in name for name in one["state"])
    for name, each in one["state"].items():
        assert torch.equal(each, other["state"][name]), name


def test_the_means_in_gates_are_those_of_one_process_with_all_images(both: Both) -> None:
    (one, _), alone = both
    means = [name for name in alone["known"] if name.endswith("gate.mean")]
    assert means
    for name in means:
        assert alone["known"][name].abs().max() > 0
        torch.testing.assert_close(one["known"][name], alone["known"][name], rtol=1e-4, atol=1e-6)
