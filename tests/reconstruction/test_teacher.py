"""The cache of the float network's outputs, in memory and in a file."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers import networks
from helpers.tunings import IMAGES, Bits, copy_bounds, moved, observed
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.reconstruction.pac import reconstruct
from srptq_plugin.reconstruction.teacher import Teacher, normalized


@pytest.fixture
def prepared() -> PreparedGraph:
    return observed()


@pytest.fixture
def filed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Return a function that switches the teacher to a file under `tmp_path`."""

    def switch() -> None:
        monkeypatch.setattr("srptq_plugin.reconstruction.teacher.IN_MEMORY", 1)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    return switch


def read_outputs(prepared: PreparedGraph) -> Iterator[Tensor]:
    with Teacher(prepared, IMAGES, 4) as teacher:
        for samples in (torch.tensor([5, 0]), torch.tensor([3])):
            output, maps = teacher(samples)
            yield output.clone()
            yield from (features.clone() for features in maps)


def test_a_file_gives_the_same_outputs(prepared: PreparedGraph, filed: Callable[[], None], tmp_path: Path) -> None:
    in_memory = list(read_outputs(prepared))
    filed()
    assert all(map(torch.equal, in_memory, read_outputs(prepared)))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_reports_the_room_needed(
    prepared: PreparedGraph, filed: Callable[[], None], tmp_path: Path
) -> None:
    filed()
    tmp_path.rmdir()
    with pytest.raises(SrptqError, match=rf"outputs, \d+ MiB in .* \(.*{re.escape(str(tmp_path))}.*set TMPDIR"):
        reconstruct(prepared, IMAGES, epochs=1)


def test_tuning_from_a_file_gives_the_same_bounds(filed: Callable[[], None]) -> None:
    results: list[Bits] = []
    for switch in (lambda: None, filed):
        switch()
        prepared = networks.calibrated("edsr", 4)
        reconstruct(prepared, IMAGES, epochs=2, schedule="joint")
        results.append(copy_bounds(prepared))
    assert not moved(*results)


def test_a_teacher_returns_the_float_outputs(prepared: PreparedGraph) -> None:
    """Check outputs to the bit, and maps to float16."""
    samples = torch.tensor([4, 1, 3])
    with Teacher(prepared, IMAGES, 2) as teacher:
        output, maps = teacher(samples)
    expected, targets = prepared.float_forward(IMAGES[samples])
    assert torch.equal(output, expected)
    for features, target in zip(maps, targets, strict=True):
        torch.testing.assert_close(features, normalized(target).half())
        torch.testing.assert_close(features.float().square().mean(1), torch.ones(3), rtol=1e-3, atol=0)


def test_a_map_of_zeros_stays_zero() -> None:
    zeros = torch.zeros(2, 3, 4, 4)
    assert torch.equal(normalized(zeros), torch.zeros(2, 48))
