"""Test pairs: the layouts of folders, and images that do not fit."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from helpers.photographs import pixels, save

from srptq_plugin.data.images import downscale
from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.pairs import load_pairs


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pairs, in folders `HR` and `LR_x2`."""
    for n, (height, width) in enumerate(((40, 52), (36, 44), (30, 30))):
        high = pixels(height, width, seed=n)
        save(high, tmp_path / "HR" / f"{n}.png")
        save(downscale(high, 2), tmp_path / "LR_x2" / f"{n}.png")
    return tmp_path


def without_low(data: Path) -> None:
    (data / "LR_x2" / "1.png").unlink()


def without_high(data: Path) -> None:
    (data / "HR" / "1.png").unlink()


def of_another_size(data: Path) -> None:
    save(pixels(37, 44), data / "HR" / "1.png")


def too_small(data: Path) -> None:
    save(pixels(14, 40), data / "HR" / "1.png")
    save(pixels(7, 20), data / "LR_x2" / "1.png")


def low_undecodable(data: Path) -> None:
    (data / "LR_x2" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")


def high_undecodable(data: Path) -> None:
    (data / "HR" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")


MISTAKES = [
    (without_low, "LR_x2: no 1.png, which the high-resolution folder has; name both alike"),
    (without_high, "HR: no 1.png, which the low-resolution folder has; name both alike"),
    (of_another_size, "HR/1.png: (37, 44) is not 2 x (18, 22) (height, width); crop it to that"),
    (too_small, "HR/1.png: 40x14 pixels are too few to score; at least 15x15 are needed"),
    (low_undecodable, "LR_x2/1.png: not a readable image"),
    (high_undecodable, "HR/1.png: not a readable image"),
]


@pytest.mark.parametrize(("spoil", "part"), MISTAKES)
def test_an_image_that_does_not_fit_is_named_and_left_out(
    spoil: Callable[[Path], None], part: str, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(data)
    with caplog.at_level(logging.WARNING, "srptq_plugin.evaluation.pairs"):
        found = load_pairs(data, 2)
    assert [pair.low.name for pair in found.usable] == ["0.png", "2.png"]
    assert len(found.skipped) == 1
    assert part in found.skipped[0]
    assert [record.getMessage() for record in caplog.records] == [f"left out: {found.skipped[0]}"]


def test_strict_names_all_of_them(data: Path) -> None:
    high_undecodable(data)
    (data / "HR" / "2.png").rename(data / "HR" / "two.png")
    with pytest.raises(SrptqError) as caught:
        load_pairs(data, 2, strict=True)
    head, *rest = str(caught.value).splitlines()
    assert head == f"{data}: 3 of 4 images cannot be scored; without --strict they are left out"
    parts = ["1.png: not a readable image", "HR: no 2.png", "LR_x2: no two.png"]
    assert all(part in line for part, line in zip(parts, rest, strict=True))


def test_strict_has_nothing_to_say_where_all_fit(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_pairs(data, 2, strict=True).skipped == ()
    assert not caplog.records


def test_no_pair_left_is_an_error(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(3):
        (data / "LR_x2" / f"{n}.png").rename(data / "LR_x2" / f"{n}x2.png")
    with pytest.raises(SrptqError, match=r"6 of 6 images cannot be scored\n.*LR_x2: no 0\.png") as caught:
        load_pairs(data, 2)
    assert "--strict" not in str(caught.value)
    assert not caplog.records


def test_photographs_are_left_out_alike(data: Path, tmp_path: Path) -> None:
    high_undecodable(data)
    save(pixels(14, 40), data / "HR" / "2.png")
    found = load_pairs(tmp_path / "HR", 2)
    assert [pair.high.name for pair in found.usable] == ["0.png"]
    assert ["1.png: not a readable" in found.skipped[0], "2.png: 40x14 pixels" in found.skipped[1]] == [True, True]


def test_photographs_are_cropped_to_the_scale(tmp_path: Path) -> None:
    high = pixels(40, 52)
    save(np.pad(high, ((0, 1), (0, 3), (0, 0)), mode="edge"), tmp_path / "a.png")
    (found,) = load_pairs(tmp_path, 4).usable
    np.testing.assert_array_equal(found.high.pixels, high)
    np.testing.assert_array_equal(found.low.pixels, downscale(high, 4))


def test_high_resolution_images_of_each_scale_go_before_others(data: Path) -> None:
    (data / "HR").rename(data / "HR_x2")
    save(pixels(80, 80), data / "HR" / "other.png")
    found = load_pairs(data, 2)
    assert [pair.high.pixels.shape for pair in found.usable] == [(40, 52, 3), (36, 44, 3), (30, 30, 3)]
    assert found.skipped == ()


def test_a_folder_with_only_high_resolution_images_in_it(data: Path) -> None:
    (data / "HR" / "2.png").unlink()
    found = load_pairs(data, 4).usable
    assert [pair.low.pixels.shape for pair in found] == [(10, 13, 3), (9, 11, 3)]
    assert [pair.high.pixels.shape for pair in found] == [(40, 52, 3), (36, 44, 3)]


@pytest.mark.parametrize("missing", ["nowhere", "empty"])
def test_a_folder_without_images_is_refused(missing: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SrptqError, match=missing):
        load_pairs(tmp_path / missing, 2)


def test_what_is_read_is_what_was_saved(data: Path) -> None:
    pair = load_pairs(data, 2).usable[1]
    np.testing.assert_array_equal(pair.high.pixels, np.asarray(PIL.Image.open(data / "HR" / "1.png")))
    np.testing.assert_array_equal(pair.low.pixels, np.asarray(PIL.Image.open(data / "LR_x2" / "1.png")))
