"""Hostile images and folders, for every command that reads images."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from helpers.mutations import Mutation, binary
from helpers.photographs import pixels
from helpers.sweeping import Sweep

Runs = Callable[[str], Path]
SIZE = (24, 28)


def written(suffix: str, mode: str = "RGB", **options: object) -> bytes:
    """Encode a small image in a format and a mode."""
    file = io.BytesIO()
    image = PIL.Image.fromarray(pixels(*SIZE))
    image.convert(mode).save(file, suffix, **options)
    return file.getvalue()


FORMATS: Mapping[str, bytes] = {
    "png": written("png"),
    "jpg": written("jpeg"),
    "bmp": written("bmp"),
    "tif": written("tiff"),
    "webp": written("webp"),
}


def verify(sweep: Sweep, runs: Runs, content: bytes, name: str) -> None:
    """Run `srptq verify` on one image. For a simulation, it reads nothing but images."""
    (sweep.place / "lr").mkdir()
    (sweep.place / "lr" / name).write_bytes(content)
    sweep("verify", runs("paper"), "--images", "lr", names=[name])


@pytest.mark.parametrize("mutation", binary(4, 6, 4, 8), ids=str)
@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_images(sweep: Sweep, runs: Runs, suffix: str, mutation: Mutation) -> None:
    verify(sweep, runs, mutation(FORMATS[suffix]), f"a.{suffix}")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("other", FORMATS)
def test_wrong_suffixes_of_images(sweep: Sweep, runs: Runs, suffix: str, other: str) -> None:
    verify(sweep, runs, FORMATS[suffix], f"a.{other}")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, depth: int = 8, colors: int = 2, body: bytes = b"", more: bytes = b"") -> bytes:
    """Return a PNG file with this header, which the body need not match."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colors, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + header + more + data + chunk(b"IEND", b"")


def animated(suffix: str) -> bytes:
    file = io.BytesIO()
    frames = [PIL.Image.fromarray(pixels(*SIZE, seed=n)) for n in range(3)]
    frames[0].save(file, suffix, save_all=True, append_images=frames[1:])
    return file.getvalue()


def tiff(kind: type[np.generic], *shape: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(np.ones(shape, kind)).save(file, "tiff")
    return file.getvalue()


SAMPLES = struct.pack("<HHI", 277, 3, 1)
"""The start of the TIFF entry for samples per pixel: tag 277, type short, count 1."""
MODES = ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "F")
ODD: Mapping[str, bytes] = {
    **{f"{mode}.png": written("png", mode) for mode in ("1", "L", "LA", "P", "RGBA")},
    **{f"{mode}.tif": written("tiff", mode) for mode in MODES},
    **{f"{mode}.jpg": written("jpeg", mode) for mode in ("L", "CMYK", "YCbCr")},
    **{f"{mode}.bmp": written("bmp", mode) for mode in ("1", "L", "P")},
    **{f"{mode}.webp": written("webp", mode) for mode in ("RGBA", "L")},
    **{f"animated.{suffix}": animated(kind) for suffix, kind in (("png", "png"), ("tif", "tiff"), ("webp", "webp"))},
    "gif.png": animated("gif"),
    "ico.png": written("ico"),
    "transparent.png": written("png", "P", transparency=0),
    "color-key.png": written("png", "RGB", transparency=(1, 2, 3)),
    "progressive.jpg": written("jpeg", "RGB", progressive=True),
    **{f"{side}-high.png": png(3, side, body=b"\0" * 10 * max(side, 1)) for side in (0, 1, 2)},
    **{f"{side}-wide.png": png(side, 3, body=b"\0" * 10 * 3) for side in (0, 1, 2)},
    "huge.png": png(2**31 - 1, 2**31 - 1),
    "very-huge.png": png(2**32 - 1, 2**32 - 1),
    "bomb.png": png(20_000, 20_000),
    "wide.png": png(2**31 - 1, 1),
    "half-a-bomb.png": png(10_000, 9_500, depth=1, colors=0),
    "one-pixel.png": png(1, 1, body=b"\0abc"),
    "no-pixels.png": png(24, 28),
    "short.png": png(24, 28, body=b"\0" * 100),
    "no-palette.png": png(2, 2, colors=3, body=b"\0\x01\x02" * 2),
    "bits.png": png(4, 4, depth=3, body=bytes(100)),
    "colors.png": png(4, 4, colors=5, body=bytes(100)),
    "long-text.png": png(2, 2, body=bytes(14), more=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(70_000_000)))),
    "bad-exif.png": png(2, 2, body=bytes(14), more=chunk(b"eXIf", b"nonsense")),
    "bad-profile.png": png(2, 2, body=bytes(14), more=chunk(b"iCCP", b"a\0\0nonsense")),
    "sixteen.png": png(4, 4, depth=16, body=b"\0" * 25 * 4),
    "sixteen-short.png": png(4, 4, depth=16, body=b"\0" * 30),
    "sixteen-alpha.png": png(4, 4, depth=16, colors=6, body=b"\0" * 33 * 4),
    "sixteen-gray-alpha.png": png(4, 4, depth=16, colors=4, body=b"\0" * 17 * 4),
    "float.tif": tiff(np.float32, 4, 4),
    "many-samples.tif": FORMATS["tif"].replace(SAMPLES + b"\3\0", SAMPLES + b"\0\x08"),
    "int32.tif": tiff(np.int32, 4, 4),
    "negative.tif": tiff(np.int16, 4, 4),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_images(sweep: Sweep, runs: Runs, name: str) -> None:
    verify(sweep, runs, ODD[name], name)


def put(content: bytes = FORMATS["png"], *names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    return make


def both(*makes: Callable[[Path], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for make_part in makes:
            make_part(folder)

    return make


FINE = FORMATS["png"]
SMALL = png(12, 14, body=bytes(37 * 14))
FOLDERS: Mapping[str, Callable[[Path], object]] = {
    "empty": Path.exists,
    "nowhere": Path.rmdir,
    "a file": both(Path.rmdir, Path.touch),
    "no images": put(b"x", "notes.txt", "a.gif", "a.json"),
    "a hidden image": put(FINE, ".a.png", "._b.png"),
    "no suffix": put(FINE, "a", "png"),
    "a folder called so": lambda folder: (folder / "a.png").mkdir(),
    "a link to nothing": lambda folder: (folder / "a.png").symlink_to("gone"),
    "a link to itself": lambda folder: (folder / "a.png").symlink_to("a.png"),
    "a link to the folder": lambda folder: (folder / "a.png").symlink_to("."),
    "a link in a circle": both(Path.rmdir, lambda folder: folder.symlink_to(folder.name)),
    "a link to an image": both(put(FINE, "b.png"), lambda folder: (folder / "a.png").symlink_to("b.png")),
    "a device": lambda folder: (folder / "a.png").symlink_to("/dev/zero"),
    "nothing from a device": lambda folder: (folder / "a.png").symlink_to("/dev/null"),
    "a pipe": lambda folder: os.mkfifo(folder / "a.png"),
    "a pipe and an image": both(put(FINE, "b.png"), lambda folder: os.mkfifo(folder / "a.png")),
    "unreadable": both(put(FINE, "a.png"), lambda folder: (folder / "a.png").chmod(0)),
    "an unreadable folder": both(put(FINE, "a.png"), lambda folder: folder.chmod(0)),
    "one of two": both(put(FINE, "a.png"), put(b"broken", "b.png")),
    "odd names": put(FINE, "a\nb.png", "\x1b[2J.png", "é ü.png", "x" * 200 + ".png"),
    "broken odd names": put(b"broken", "a\nb.png", "\x1b[2J.png"),
    "a broken odd name in bytes": put(b"broken", os.fsdecode(b"\xff\xfe.png")),
    "an odd name in bytes": put(FINE, os.fsdecode(b"\xff\xfe.png")),
    "upper case": put(FINE, "A.PNG"),
    "pairs": both(put(FINE, "HR/a.png"), put(SMALL, "LR_x2/a.png")),
    "pairs of one size": both(put(FINE, "HR/a.png"), put(FINE, "LR_x2/a.png")),
    "pairs of other names": both(put(FINE, "HR/a.png"), put(SMALL, "LR_x2/b.png")),
    "low alone": put(FINE, "LR_x2/a.png"),
    "low and an empty folder": both(put(FINE, "LR_x2/a.png"), lambda folder: (folder / "HR").mkdir()),
    "low and a file": both(put(FINE, "LR_x2/a.png"), put(FINE, "HR")),
    "low of another scale": both(put(FINE, "HR/a.png"), put(SMALL, "LR_x3/a.png")),
    "a broken pair": both(put(FINE, "HR/a.png"), put(b"broken", "LR_x2/a.png")),
    "a pair of three": both(put(FINE, "HR/a.png", "HR/b.png"), put(SMALL, "LR_x2/a.png", "LR_x2/c.png")),
    "high is a file": put(FINE, "HR"),
    "too small": put(png(2, 2, body=bytes(14)), "a.png"),
}
COMMANDS: Mapping[str, Callable[[Path], tuple[str | Path, ...]]] = {
    "verify": lambda run: ("verify", run, "--images", "data"),
    "evaluate": lambda run: ("evaluate", run, "--data", "data"),
    "calibrate": lambda _: ("quantize", "--images", "data", "--set", "calibration.size=4000", "--out", "out"),
    "train": lambda run: ("train", "paper-w8a8", "--run", run, "--images", "data", "--set", "training.patch=4000"),
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_odd_folders(sweep: Sweep, runs: Runs, command: str, name: str) -> None:
    (sweep.place / "data").mkdir()
    FOLDERS[name](sweep.place / "data")
    sweep(*COMMANDS[command](runs("paper")))
