import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from srptq_plugin.data.images import list_images, read_image, upscale
from srptq_plugin.data.metrics import level_differences, luma, psnr, psnr_y, ssim_y
from srptq_plugin.errors import SrptqError


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [("Set5", 2, 33.679), ("Set5", 4, 28.432), ("Set14", 2, 30.329), ("Set14", 4, 26.093)],
)
def test_bicubic_reference_values(data: Path, name: str, scale: int, expected: float) -> None:
    folder = data / name / "HR"
    scores: list[float] = []
    for path in list_images(folder if folder.is_dir() else data / name / f"HR_x{scale}"):
        enlarged = upscale(read_image(data / name / f"LR_x{scale}" / path.name), scale)
        scores.append(psnr_y(enlarged, read_image(path), scale))
    assert np.mean(scores) == pytest.approx(expected, abs=0.001)


def test_luma_has_studio_range() -> None:
    corners = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8)
    np.testing.assert_allclose(luma(corners), [[16, 235, 81.481]])


@given(st.integers(0, 2**32), st.integers(0, 3))
def test_ssim_equals_scikit_image(seed: int, border: int) -> None:
    a, b = noise(seed, 24, 27, 3), noise(seed + 1, 24, 27, 3)
    mixed = (a // 2 + b // 2).astype(np.uint8)
    inside = (slice(border, 24 - border), slice(border, 27 - border))
    expected = structural_similarity(
        luma(a)[inside],
        luma(mixed)[inside],
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim_y(mixed, a, border) == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 2**32), st.integers(0, 5))
def test_metrics_ignore_the_border(seed: int, border: int) -> None:
    a = noise(seed, 24, 24, 3)
    b = a.copy()
    b[:border] = b[:, :border] = 0
    b[24 - border :] = b[:, 24 - border :] = 0
    assert psnr_y(a, b, border) == math.inf
    assert ssim_y(a, b, border) == pytest.approx(1)


def test_psnr_of_a_known_error() -> None:
    assert psnr(np.zeros(10), np.full(10, 0.1), peak=1.0) == pytest.approx(20)
    assert psnr(np.zeros(10, np.uint8), np.full(10, 200, np.uint8), peak=255) == pytest.approx(2.1102, abs=1e-3)


def test_level_differences_of_a_known_error() -> None:
    error = np.zeros(100_000, np.float32)
    error[:50], error[50:1000] = 1.0, 0.5
    assert level_differences(error, np.zeros_like(error), peak=1.0) == (255.0, 127.5)


def test_images_of_different_sizes_are_refused() -> None:
    a = noise(0, 12, 12, 3)
    with pytest.raises(SrptqError, match="exactly scale times"):
        psnr_y(a, a[1:], 2)
    with pytest.raises(SrptqError, match="no pixel inside a border of 6"):
        psnr_y(a, a, 6)
    with pytest.raises(SrptqError, match="at least 11x11"):
        ssim_y(a, a, 1)
    with pytest.raises(SrptqError, match="must be equal"):
        psnr(a, a[1:], 255)
    with pytest.raises(SrptqError, match="must be equal"):
        level_differences(a[:0], a[:0], 255)
