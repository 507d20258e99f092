"""PaC in several processes, as one on all images."""

import pytest
import torch
from helpers.processes import IMAGES, Result, together, tune

from srptq_plugin.utils.distributed import all_gather, all_reduce_mean, world_size

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
Both = tuple[list[Result], Result]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Of two processes, and of one."""
    (alone,) = together(tune, 1, tmp_path_factory.mktemp("one"))
    return together(tune, 2, tmp_path_factory.mktemp("two")), alone


def test_alone_nothing_is_exchanged() -> None:
    values = torch.arange(3.0)
    all_reduce_mean([values])
    assert world_size() == 1
    assert all_gather(values)[0] is values
    assert values.tolist() == [0, 1, 2]


def test_both_processes_end_with_the_same_bounds(both: Both) -> None:
    (one, other), _ = both
    assert torch.equal(one["bounds"], other["bounds"])
    assert one["figures"]["loss_after"] == other["figures"]["loss_after"] < one["figures"]["loss_before"]


def test_which_are_those_of_one_process_with_all_images(both: Both) -> None:
    (one, _), alone = both
    torch.testing.assert_close(one["bounds"], alone["bounds"], rtol=1e-5, atol=1e-7)
    assert one["figures"]["loss_before"] == pytest.approx(alone["figures"]["loss_before"], rel=1e-5)
    assert one["figures"]["loss_after"] == pytest.approx(alone["figures"]["loss_after"], rel=1e-3)


def test_biases_are_corrected_by_all_images(both: Both) -> None:
    (one, other), alone = both
    assert torch.equal(one["biases"], other["biases"])
    torch.testing.assert_close(one["biases"], alone["biases"], rtol=1e-4, atol=1e-5)


def test_the_shares_span_the_same_colors() -> None:
    for rank in range(2):
        assert IMAGES[rank::2].aminmax() == (0, 1)


def test_unequal_numbers_of_images_are_refused_everywhere(both: Both) -> None:
    for result in both[0]:
        assert "the processes have [4, 3] images; give each of them as many" in result["refused"]
    assert not both[1]["refused"]
