"""PaC in several processes equals PaC in one process on all images."""

import pytest
import torch
from helpers.processes import IMAGES, Result, together, tune

from srptq_plugin.utils.distributed import all_gather, all_reduce_mean, world_size

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
Both = tuple[list[Result], Result]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Return the results of two processes, and of this one."""
    return together(tune, 2, tmp_path_factory.mktemp("two")), tune(0, 1)


def test_a_single_process_exchanges_nothing() -> None:
    values = torch.arange(3.0)
    all_reduce_mean([values])
    assert world_size() == 1
    assert all_gather(values)[0] is values
    assert values.tolist() == [0, 1, 2]


def test_both_processes_end_with_the_same_bounds(both: Both) -> None:
    (first, second), _ = both
    assert torch.equal(first["bounds"], second["bounds"])
    assert first["figures"]["loss_after"] == second["figures"]["loss_after"] < first["figures"]["loss_before"]


def test_bounds_equal_a_single_process(both: Both) -> None:
    (first, _), alone = both
    torch.testing.assert_close(first["bounds"], alone["bounds"], rtol=1e-5, atol=1e-7)
    assert first["figures"]["loss_before"] == pytest.approx(alone["figures"]["loss_before"], rel=1e-5)
    assert first["figures"]["loss_after"] == pytest.approx(alone["figures"]["loss_after"], rel=1e-3)


def test_biases_are_corrected_by_all_images(both: Both) -> None:
    (first, second), alone = both
    assert torch.equal(first["biases"], second["biases"])
    torch.testing.assert_close(first["biases"], alone["biases"], rtol=1e-4, atol=1e-5)


def test_both_shares_span_the_same_colors() -> None:
    for rank in range(2):
        assert IMAGES[rank::2].aminmax() == (0, 1)


def test_unequal_numbers_of_images_are_refused_everywhere(both: Both) -> None:
    for result in both[0]:
        assert "the processes have [4, 3] images; give each of them as many" in result["refused"]
    assert not both[1]["refused"]
