"""Training in several processes: the same gates, statistics and result in all of them."""

import pytest
import torch
from helpers.processes import Result, together, train_gates

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
Both = tuple[list[Result], Result]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Train in two processes, and in one."""
    (alone,) = together(train_gates, 1, tmp_path_factory.mktemp("one"))
    return together(train_gates, 2, tmp_path_factory.mktemp("two")), alone


def test_all_processes_end_with_the_same_network(both: Both) -> None:
    (one, other), _ = both
    assert one["scores"] == other["scores"]
    assert any("gate" in name for name in one["state"])
    for name, tensor in one["state"].items():
        assert torch.equal(tensor, other["state"][name]), name


def test_gate_means_match_a_single_process(both: Both) -> None:
    (one, _), alone = both
    means = [name for name in alone["known"] if name.endswith("gate.mean")]
    assert means
    for name in means:
        assert alone["known"][name].abs().max() > 0
        torch.testing.assert_close(one["known"][name], alone["known"][name], rtol=1e-4, atol=1e-6)
