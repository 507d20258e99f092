"""Loading test pairs: the layouts of folders, and images that cannot be scored."""

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
    """Write three pairs, in folders `HR` and `LR_x2`."""
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
def test_misfit_image_is_named_and_left_out(
    spoil: Callable[[Path], None], part: str, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(data)
    with caplog.at_level(logging.WARNING, "srptq_plugin.evaluation.pairs"):
        pairs = load_pairs(data, 2)
    assert [pair.low.name for pair in pairs.usable] == ["0.png", "2.png"]
    assert len(pairs.skipped) == 1
    assert part in pairs.skipped[0]
    assert [record.getMessage() for record in caplog.records] == [f"left out: {pairs.skipped[0]}"]


def test_strict_names_all_misfits(data: Path) -> None:
    high_undecodable(data)
    (data / "HR" / "2.png").rename(data / "HR" / "two.png")
    with pytest.raises(SrptqError) as caught:
        load_pairs(data, 2, strict=True)
    head, *rest = str(caught.value).splitlines()
    assert head == f"{data}: 3 of 4 images cannot be scored; without `strict` they are left out"
    parts = ["1.png: not a readable image", "HR: no 2.png", "LR_x2: no two.png"]
    assert all(part in line for part, line in zip(parts, rest, strict=True))


def test_strict_accepts_a_good_folder(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_pairs(data, 2, strict=True).skipped == ()
    assert not caplog.records


def test_no_pair_left_is_refused(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(3):
        (data / "LR_x2" / f"{n}.png").rename(data / "LR_x2" / f"{n}x2.png")
    with pytest.raises(SrptqError, match=r"6 of 6 images cannot be scored\n.*LR_x2: no 0\.png") as caught:
        load_pairs(data, 2)
    assert "`strict`" not in str(caught.value)
    assert not caplog.records


def test_unusable_photographs_are_left_out(data: Path, tmp_path: Path) -> None:
    high_undecodable(data)
    save(pixels(14, 40), data / "HR" / "2.png")
    pairs = load_pairs(tmp_path / "HR", 2)
    assert [pair.high.name for pair in pairs.usable] == ["0.png"]
    assert "1.png: not a readable" in pairs.skipped[0]
    assert "2.png: 40x14 pixels" in pairs.skipped[1]


def test_photographs_are_cropped_to_the_scale(tmp_path: Path) -> None:
    high = pixels(40, 52)
    save(np.pad(high, ((0, 1), (0, 3), (0, 0)), mode="edge"), tmp_path / "a.png")
    (pair,) = load_pairs(tmp_path, 4).usable
    np.testing.assert_array_equal(pair.high.pixels, high)
    np.testing.assert_array_equal(pair.low.pixels, downscale(high, 4))


def test_hr_folder_of_the_scale_is_preferred(data: Path) -> None:
    (data / "HR").rename(data / "HR_x2")
    save(pixels(80, 80), data / "HR" / "other.png")
    pairs = load_pairs(data, 2)
    assert [pair.high.pixels.shape for pair in pairs.usable] == [(40, 52, 3), (36, 44, 3), (30, 30, 3)]
    assert pairs.skipped == ()


def test_hr_folder_alone_is_downscaled(data: Path) -> None:
    (data / "HR" / "2.png").unlink()
    pairs = load_pairs(data, 4).usable
    assert [pair.low.pixels.shape for pair in pairs] == [(10, 13, 3), (9, 11, 3)]
    assert [pair.high.pixels.shape for pair in pairs] == [(40, 52, 3), (36, 44, 3)]


@pytest.mark.parametrize("missing", ["nowhere", "empty"])
def test_folder_without_images_is_refused(missing: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SrptqError, match=missing):
        load_pairs(tmp_path / missing, 2)


def test_pixels_are_read_unchanged(data: Path) -> None:
    pair = load_pairs(data, 2).usable[1]
    np.testing.assert_array_equal(pair.high.pixels, np.asarray(PIL.Image.open(data / "HR" / "1.png")))
    np.testing.assert_array_equal(pair.low.pixels, np.asarray(PIL.Image.open(data / "LR_x2" / "1.png")))
