"""Image files as every task reads them: upright, in RGB, at their full range, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from kd_core.data.images import (
    SUFFIXES,
    eight_bits,
    image_files,
    image_size,
    passed_over,
    read_image,
    reads_avif,
    to_rgb,
)
from kd_core.errors import KDError
from kd_core.notes import Note

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOURS = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)


def pixels(path: Path, **options: Any) -> np.ndarray:
    image = read_image(path, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_the_size_is_told_by_the_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (320, 240)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    assert image_size(path) == (240, 320)
    with pytest.raises(KDError, match=r"a\.png: is not a readable image"):
        read_image(path)
    path.write_bytes(b"no image")
    with pytest.raises(KDError, match=r"a\.png: is not a readable image"):
        image_size(path)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured(tmp_path: Path, ending: str, orientation: int) -> None:
    big = Image.fromarray(COLOURS).resize((32, 24), Image.Resampling.NEAREST)
    exif = big.getexif()
    exif[0x0112] = orientation
    options = {"quality": 100} if ending in ("jpg", "webp") else {}
    big.save(tmp_path / f"a.{ending}", exif=exif, **options)
    big.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(big)).astype(int)
    actual = pixels(tmp_path / f"a.{ending}").astype(int)
    assert actual.shape == ((24, 32, 3) if orientation < 5 else (32, 24, 3))
    assert image_size(tmp_path / f"a.{ending}") == actual.shape[:2]
    assert np.abs(actual - expected).mean() < (40 if ending in ("jpg", "webp") else 1e-9)


def test_damaged_exif_says_nothing(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=b"Exif\0\0nonsense")
    assert np.array_equal(pixels(tmp_path / "a.png"), COLOURS)


@pytest.mark.parametrize(("ending", "dtype", "factor"), [("png", np.uint16, 257), ("tif", np.uint16, 257)])
def test_sixteen_bits_keep_their_range(tmp_path: Path, ending: str, dtype: Any, factor: int) -> None:
    Image.fromarray(PIXELS.astype(dtype) * dtype(factor)).save(tmp_path / f"a.{ending}")
    assert np.array_equal(pixels(tmp_path / f"a.{ending}"), np.dstack([PIXELS] * 3))


def test_other_depths_have_a_white_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(PIXELS.astype(np.float32) / 255).save(path)
    assert np.array_equal(pixels(path)[..., 0], PIXELS)
    Image.fromarray(PIXELS.astype(np.uint16) * 16).save(path)
    assert np.array_equal(pixels(path, white=4080)[..., 0], PIXELS)
    Image.fromarray(PIXELS.astype(np.int32) * 1000).save(path)
    with pytest.raises(KDError, match=r"a\.tif: holds integers from 0 to 220000, and white is 65535\n +hint: `data\.w"):
        read_image(path)
    assert np.array_equal(pixels(path, white=255_000)[..., 0], PIXELS)


@pytest.mark.parametrize("values", [[[0.0, 2.0]], [[-0.1, 1.0]], [[float("nan"), 0.5]]])
def test_floats_beyond_white_are_refused(values: list[list[float]]) -> None:
    with pytest.raises(KDError, match=r"holds floats from .* and white is 1"):
        eight_bits(np.array(values, np.float32))


def transparent(kind: str) -> Image.Image:
    """A black shape at the right, all else transparent, in one of the ways in which that is kept."""
    alpha = np.zeros((2, 2), np.uint8)
    alpha[:, 1] = 255
    black = np.zeros((2, 2), np.uint8)
    if kind in ("RGBA", "LA"):
        bands = [black] * (len(kind) - 1) + [alpha]
        return Image.merge(kind, [Image.fromarray(band) for band in bands])
    image = Image.fromarray(alpha // 255)
    if kind == "palette":
        image.putpalette([0] * 6)
        image.info["transparency"] = bytes([0, 255])
        return image
    image = Image.fromarray(np.where(alpha == 255, 0, 7).astype(np.uint8))
    image = image if kind == "L" else image.convert("RGB")
    image.info["transparency"] = 7 if kind == "L" else (7, 7, 7)
    return image


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "L", "RGB"])
def test_what_is_transparent_is_white(tmp_path: Path, kind: str) -> None:
    image = transparent(kind)
    image.save(tmp_path / "a.png", transparency=image.info.get("transparency"))
    assert pixels(tmp_path / "a.png")[..., 0].tolist() == [[255, 0], [255, 0]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "RGBX"])
def test_modes_without_transparency_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOURS).convert(mode)
    image.save(tmp_path / "a.tif")
    assert np.array_equal(pixels(tmp_path / "a.tif"), np.asarray(image.convert("RGB")))


def test_a_mode_that_is_no_colour_is_refused(tmp_path: Path) -> None:
    Image.new("LAB", (2, 2)).save(tmp_path / "a.tif")
    with pytest.raises(KDError, match=r"a\.tif: is an image of the mode LAB, which cannot be converted to RGB"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_the_first_frame_counts(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((0, 0, 0), (255, 255, 255))]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    assert pixels(tmp_path / f"a.{ending}").max() < 9


def test_grey_stays_grey_where_that_is_asked_for() -> None:
    assert to_rgb(Image.new("L", (2, 2), 7), keep_grey=True).mode == "L"
    sixteen = to_rgb(Image.fromarray(np.full((2, 2), 514, np.uint16)), keep_grey=True)
    assert (sixteen.mode, sixteen.getpixel((0, 0))) == ("L", 2)
    assert to_rgb(Image.new("RGBA", (2, 2)), keep_grey=True).mode == "RGB"


def test_other_formats_are_refused_whatever_their_ending(tmp_path: Path) -> None:
    for kind in ("EPS", "TGA", "ICO", "PCX"):
        Image.new("RGB", (16, 16)).save(tmp_path / "a.png", kind)
        with pytest.raises(KDError, match=r"a\.png: is not a readable image \(of none of the formats AVIF, BMP, GIF"):
            read_image(tmp_path / "a.png")


@pytest.mark.skipif(not reads_avif(), reason="this Pillow was built without AVIF")
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_avif_is_read_where_pillow_can(tmp_path: Path, orientation: int) -> None:
    big = Image.fromarray(COLOURS).resize((64, 48), Image.Resampling.NEAREST)
    exif = big.getexif()
    exif[0x0112] = orientation
    big.save(tmp_path / "A.AVIF", exif=exif, quality=95)
    assert image_files(tmp_path) == ([tmp_path / "A.AVIF"], {})
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "A.AVIF")).convert("RGB"))
    assert np.array_equal(pixels(tmp_path / "A.AVIF"), expected)
    assert expected.shape == ((64, 48, 3) if orientation == 6 else (48, 64, 3))
    (tmp_path / "A.AVIF").write_bytes((tmp_path / "A.AVIF").read_bytes()[:200])
    with pytest.raises(KDError, match=r"A\.AVIF: is not a readable image"):
        read_image(tmp_path / "A.AVIF")


def test_avif_is_counted_with_the_reason_where_pillow_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd_core.data.images.reads_avif", lambda: False)
    (tmp_path / "a.avif").write_bytes(b"x")
    files, others = image_files(tmp_path)
    assert files == []
    [note] = passed_over(others, tmp_path)
    assert note.text.endswith("by the ending: 1 .avif (this Pillow was built without AVIF)")


def test_hidden_files_are_no_data_and_others_are_counted(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jfif", "._a.jpg", ".DS_Store", "Thumbs.db", "notes.txt", "list", ".ipynb/c.png"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.webp").write_bytes(b"x")
    (tmp_path / "x" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "x" / "up").symlink_to(tmp_path / "x")
    files, others = image_files(tmp_path / "x")
    assert [path.relative_to(tmp_path / "x").as_posix() for path in files] == ["a.jfif", "b.PNG", "link/d.webp"]
    assert others == {".txt": 1, "no ending": 1}
    [note] = passed_over(others, Path("x"))
    assert note == Note.warning("2 files are passed over in x, by the ending: 1 no ending, 1 .txt")
    assert passed_over({}, Path("x")) == []
    assert all(ending == ending.lower() for ending in SUFFIXES)
