import logging
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import skimage
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from srptq_plugin.data.images import (
    Image,
    downscale,
    list_images,
    load_images,
    most_detailed,
    noise_patches,
    random_patches,
    read_image,
    sample_images,
    to_pixels,
    to_tensor,
    upscale,
)
from srptq_plugin.errors import SrptqError

COLORS = {3: 2, 4: 6}


def noise(*shape: int, high: int = 256, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, high, shape)


def pixels(*shape: int) -> NDArray[np.uint8]:
    return noise(*shape).astype(np.uint8)


def png16(levels: NDArray[np.int64]) -> bytes:
    """Return a 16-bit color PNG, which Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = levels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, COLORS[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in levels)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".tif", ".PNG"])
def test_lossless_files_are_read_exactly(tmp_path: Path, suffix: str) -> None:
    image = pixels(6, 5, 3)
    PIL.Image.fromarray(image).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), image)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_files_are_read(tmp_path: Path, suffix: str) -> None:
    PIL.Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / f"a{suffix}")
    assert np.abs(read_image(str(tmp_path / f"a{suffix}")).astype(int) - 90).max() <= 2


def test_gray_is_replicated(tmp_path: Path) -> None:
    gray = pixels(6, 5)
    PIL.Image.fromarray(gray).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.stack([gray] * 3, axis=-1))


def test_palettes_are_resolved(tmp_path: Path) -> None:
    image = np.full((4, 4, 3), (10, 200, 30), np.uint8)
    PIL.Image.fromarray(image).quantize(2).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bit_gray_is_rounded(tmp_path: Path, suffix: str) -> None:
    levels = noise(40, 50, high=65536)
    PIL.Image.fromarray(levels.astype(np.uint16)).save(tmp_path / f"a{suffix}")
    expected = np.rint(levels / 257).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), np.stack([expected] * 3, axis=-1))


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colors_are_rounded(tmp_path: Path, channels: int) -> None:
    levels = noise(40, 50, channels, high=65536)
    (tmp_path / "a.png").write_bytes(png16(levels))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rint(levels[..., :3] / 257))


def test_alpha_is_dropped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = pixels(6, 5, 4)
    PIL.Image.fromarray(image).save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image[..., :3])
    assert "a.png: transparency dropped" in caplog.text


def test_opaque_alpha_is_dropped_silently(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = np.dstack([pixels(6, 5, 3), np.full((6, 5), 255, np.uint8)])
    PIL.Image.fromarray(image).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image[..., :3])
    assert not caplog.text


def test_orientation_is_ignored(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(pixels(8, 16, 3)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (8, 16, 3)


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\n\0\0"])
def test_unreadable_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(SrptqError, match=r"broken\.png: not a readable image"):
        read_image(tmp_path / "broken.png")


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    PIL.Image.fromarray(pixels(64, 64, 3)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    with pytest.raises(SrptqError, match=r"cut\.png"):
        read_image(tmp_path / "cut.png")


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_deeper_files_are_refused(tmp_path: Path, kind: type[np.generic]) -> None:
    PIL.Image.fromarray(np.zeros((4, 4), kind)).save(tmp_path / "a.tiff")
    with pytest.raises(SrptqError, match="levels of 32 bits"):
        read_image(tmp_path / "a.tiff")


def test_folders_list_images_sorted(tmp_path: Path) -> None:
    for name in ["b.PNG", "a.jpg", "notes.txt", "._b.png"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG"]


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, message in [("none", "does not exist"), ("file", "is a file"), (".", "no image in")]:
        with pytest.raises(SrptqError, match=message):
            list_images(tmp_path / folder)


def references(data: Path, name: str, scale: int) -> list[Path]:
    folder = data / name / "HR"
    return list_images(folder if folder.is_dir() else data / name / f"HR_x{scale}")


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("name", "step"), [("Set5", 1), ("Set14", 1), ("B100", 12)])
def test_lr_images_are_reproduced_bit_for_bit(data: Path, name: str, step: int, scale: int) -> None:
    for path in references(data, name, scale)[::step]:
        expected = read_image(data / name / f"LR_x{scale}" / path.name)
        np.testing.assert_array_equal(downscale(read_image(path), scale), expected, err_msg=path.name)


@given(st.integers(0, 255), st.integers(4, 23), st.integers(4, 23), st.integers(1, 4))
def test_flat_images_stay_flat(level: int, height: int, width: int, scale: int) -> None:
    image = np.full((height, width, 3), level, np.uint8)
    small, large = downscale(image, scale), upscale(image, scale)
    assert small.shape == (height // scale, width // scale, 3)
    assert large.shape == (height * scale, width * scale, 3)
    assert (small == level).all()
    assert (large == level).all()


def test_scale_one_changes_nothing() -> None:
    image = pixels(9, 7, 3)
    np.testing.assert_array_equal(downscale(image, 1), image)
    np.testing.assert_array_equal(upscale(image, 1), image)


def test_impossible_scales_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match="scale 0"):
        downscale(pixels(4, 4, 3), 0)
    PIL.Image.fromarray(pixels(3, 9, 3)).save(tmp_path / "thin.png")
    with pytest.raises(SrptqError, match=r"thin\.png: image of 9x3 pixels is too small to shrink by 4"):
        load_images(tmp_path, scale=4)


def test_photographs_are_loaded_whole_or_downscaled(tmp_path: Path) -> None:
    image = pixels(9, 12, 3)
    PIL.Image.fromarray(image).save(tmp_path / "a.png")
    (whole,), (downscaled,) = load_images(tmp_path), load_images(tmp_path, scale=2)
    assert whole.name == downscaled.name == "a.png"
    np.testing.assert_array_equal(whole.pixels, image)
    np.testing.assert_array_equal(downscaled.pixels, downscale(image, 2))


def test_sample_images_need_no_download() -> None:
    samples = sample_images(4)
    assert len({image.name for image in samples}) == len(samples) >= 4
    assert all(min(image.pixels.shape[:2]) >= 64 for image in samples)


def test_missing_sample_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skimage, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(SrptqError, match="give a folder of images"):
        sample_images(4)


@given(st.integers(1, 30), st.integers(0, 2**32))
def test_patches_come_evenly_from_all_images(count: int, seed: int) -> None:
    images = [Image(str(level), np.full((20, 24, 3), level, np.uint8)) for level in range(7)]
    patches = random_patches(images, count, 16, seed)
    uses = np.bincount(patches[:, 0, 0, 0], minlength=7)
    assert patches.shape == (count, 16, 16, 3)
    assert uses.max() - uses.min() <= 1


@given(st.integers(1, 12), st.integers(0, 100))
def test_most_detailed_patches_keep_their_order(count: int, seed: int) -> None:
    patches = np.random.default_rng(seed).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)

    def roughness(patch: NDArray[np.uint8]) -> float:
        rows = [[sum(map(float, pixel)) / 3 for pixel in row] for row in patch]
        columns = [list(column) for column in zip(*rows, strict=True)]
        return sum(abs(a - b) for lines in (rows, columns) for line in lines for a, b in pairwise(line))

    roughest = sorted(range(12), key=lambda n: -roughness(patches[n]))
    np.testing.assert_array_equal(most_detailed(patches, count), patches[sorted(roughest[:count])])


def test_the_seed_determines_the_patches() -> None:
    images = [Image("a", pixels(40, 50, 3))]
    first = random_patches(images, 4, 16, seed=1)
    np.testing.assert_array_equal(random_patches(images, 4, 16, seed=1), first)
    assert not np.array_equal(random_patches(images, 4, 16, seed=2), first)


def test_noise_patches_have_a_1_f_spectrum() -> None:
    patches = noise_patches(40, 32, seed=3)
    assert np.array_equal(patches, noise_patches(40, 32, seed=3))
    assert not np.array_equal(patches, noise_patches(40, 32, seed=4))
    assert {(int(patch.min()), int(patch.max())) for patch in patches} == {(0, 255)}
    spectrum = np.abs(np.fft.fft2(patches, axes=(1, 2)))[:, 0, 1:13].mean((0, 2))
    slope, _ = np.polyfit(np.log(np.arange(1, 13)), np.log(spectrum), 1)
    assert slope == pytest.approx(-1, abs=0.1)


def test_impossible_patches_are_refused() -> None:
    images = [Image("big.png", pixels(40, 40, 3)), Image("small.png", pixels(40, 30, 3))]
    with pytest.raises(SrptqError, match=r"small\.png: 30x40 .* patches of at most 30"):
        random_patches(images, 4, 32, 0)
    with pytest.raises(SrptqError, match="not a multiple of 8"):
        random_patches(images, 4, 20, 0, multiple=8)
    for sources, count in [(images, 0), ([], 4)]:
        with pytest.raises(SrptqError, match="1 or more"):
            random_patches(sources, count, 8, 0)


@pytest.mark.parametrize("input_range", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
def test_tensors_preserve_every_level(input_range: tuple[float, float]) -> None:
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = to_tensor(image, input_range)
    assert tensor.shape == (3, 16, 16)
    assert (float(tensor.min()), float(tensor.max())) == input_range
    np.testing.assert_array_equal(to_pixels(tensor, input_range), image)
    np.testing.assert_array_equal(to_pixels(to_tensor(image[None], input_range), input_range), image[None])


def test_nan_outputs_are_refused() -> None:
    with pytest.raises(SrptqError, match="NaN or infinity"):
        to_pixels(torch.full((3, 2, 2), torch.nan), (0.0, 1.0))
