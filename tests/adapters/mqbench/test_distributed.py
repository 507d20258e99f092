"""A plain MQBench script in two processes, each with its share of the batches."""

import mqbench  # pyright: ignore[reportMissingImports]
import pytest
import torch
from helpers.processes import Result, calibrate_mqbench, together

pytestmark = [
    pytest.mark.skipif(str(vars(mqbench)["__version__"]).endswith("+standin"), reason="needs the real MQBench"),
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo"),
]
Both = tuple[Result, Result, Result]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Run two processes with half of the batches each, and one with all."""
    (alone,) = together(calibrate_mqbench, 1, tmp_path_factory.mktemp("one"))
    one, other = together(calibrate_mqbench, 2, tmp_path_factory.mktemp("two"))
    return one, other, alone


def test_dbdc_bounds_are_equal_in_both_processes(results: Both) -> None:
    one, other, _ = results
    assert torch.equal(one["calibrated"], other["calibrated"])


def test_dbdc_bounds_equal_one_process_with_all_batches(results: Both) -> None:
    one, _, alone = results
    torch.testing.assert_close(one["calibrated"], alone["calibrated"], rtol=1e-6, atol=0)


def test_pac_tunes_both_processes_to_the_same_bounds(results: Both) -> None:
    one, other, _ = results
    assert torch.equal(one["tuned"], other["tuned"])
    assert not torch.equal(one["tuned"], one["calibrated"])


def test_unequal_numbers_of_images_are_refused_everywhere(results: Both) -> None:
    for result in results[:2]:
        assert "the processes have [4, 2] images; give each of them as many" in result["refused"]
    assert not results[2]["refused"]
