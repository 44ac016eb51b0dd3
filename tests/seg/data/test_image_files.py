"""Images and masks in files: values read exactly, and what is wrong named with its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd_core.data.images import read_image
from kd_core.errors import KDError
from kd_seg.data.image_files import FilePairs, Pair, identity_values, names_in, read_values
from kd_seg.data.sources import VOID
from kd_seg.results.pictures import colour_map

VALUES = np.array([[0, 1, 2], [3, 20, 255]])


def saved(path: Path, mode: str, values: np.ndarray = VALUES) -> Path:
    """A mask with those values in one of the ways in which masks are kept."""
    eight = values.astype(np.uint8)
    if mode in ("I;16", "I"):
        picture = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.int32))
    elif mode == "P":
        picture = Image.fromarray(eight)
        # every value has the same colour: what counts is the index
        picture.putpalette([7, 8, 9] * 256)
    else:
        stacked = {"L": eight, "RGB": np.stack([eight] * 3, -1)}
        stacked["RGBA"] = np.dstack([stacked["RGB"], np.full_like(eight, 255)])
        stacked["LA"] = np.dstack([eight, np.full_like(eight, 9)])
        picture = Image.fromarray(stacked[mode], mode=None)
    assert picture.mode == mode
    picture.save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "RGB", "RGBA", "LA"])
def test_values_are_read_exactly(tmp_path: Path, mode: str) -> None:
    assert np.array_equal(read_values(saved(tmp_path / "mask.png", mode)), VALUES)


def test_values_of_32_and_of_1_bit(tmp_path: Path) -> None:
    assert np.array_equal(read_values(saved(tmp_path / "mask.tif", "I")), VALUES)
    Image.fromarray(VALUES > 2).save(tmp_path / "bits.png")
    assert np.array_equal(read_values(tmp_path / "bits.png"), VALUES > 2)


def test_the_same_classes_under_another_palette(tmp_path: Path) -> None:
    """A grey one, the devkit's, and one turned round."""
    grey = np.arange(256).repeat(3)
    for name, palette in (("grey", grey), ("devkit", colour_map(256)), ("turned", grey[::-1])):
        picture = Image.fromarray(VALUES.astype(np.uint8))
        picture.putpalette(palette.astype(np.uint8).tobytes())
        picture.save(tmp_path / f"{name}.png")
        assert np.array_equal(read_values(tmp_path / f"{name}.png"), VALUES), name


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (128, 0, 0)), ("RGBA", (0, 1, 0, 255)), ("CMYK", (0, 1, 0, 9))])
def test_colours_are_no_classes(tmp_path: Path, mode: str, colour: tuple[int, ...]) -> None:
    path = tmp_path / ("mask.tif" if mode == "CMYK" else "mask.png")
    Image.new(mode, (3, 2), colour).save(path)
    with pytest.raises(
        KDError, match=rf"{path.name}: is a colour image \({mode}\), not a mask of class ids\n +hint: save"
    ):
        read_values(path)


def test_floats_are_no_classes(tmp_path: Path) -> None:
    Image.new("F", (3, 2), 1.5).save(tmp_path / "mask.tif")
    with pytest.raises(KDError, match=r"mask\.tif: holds floats, and masks hold class ids\n +hint: save"):
        read_values(tmp_path / "mask.tif")


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_broken_picture_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    for read in (read_image, read_values):
        with pytest.raises(KDError, match=r"broken\.png: is not a readable image"):
            read(path)


def test_a_cut_off_picture_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for ending in ("jpg", "png"):
        path = tmp_path / f"cut.{ending}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-400])
        with pytest.raises(KDError, match=rf"cut\.{ending}: is not a readable image"):
            read_image(path)


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    for mode, colour in (("L", 9), ("RGBA", (9, 9, 9, 3)), ("LA", (9, 0)), ("CMYK", (0, 0, 0, 0)), ("1", 1)):
        path = tmp_path / "image.tif"
        Image.new(mode, (3, 2), colour).save(path)
        image = read_image(path)
        assert (image.mode, image.size) == ("RGB", (3, 2)), mode


def test_values_become_classes_and_void() -> None:
    mask = identity_values(21, 255).of(VALUES, Path("mask.png"))
    assert mask.dtype == np.int16
    assert mask.tolist() == [[0, 1, 2], [3, 20, VOID]]
    assert identity_values(3, [0, 9]).of(np.array([[0, 1, 2, 9]]), Path()).tolist() == [[VOID, 1, 2, VOID]]
    assert identity_values(3, []).of(np.array([[0, 1, 2]]), Path()).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("value", "void", "known"),
    [
        (3, 255, r"0 \.\. 2 and 255 for void"),
        (254, 255, r"0 \.\. 2 and 255 for void"),
        (65535, 255, r"0 \.\. 2 and 255 for void"),
        (-1, 255, r"0 \.\. 2 and 255 for void"),
        (3, [], r"0 \.\. 2"),
        (5, [0, 255], r"1 \.\. 2 and 0, 255 for void"),
        (9, [4, 5, 6, 7], r"0 \.\. 2"),
    ],
)
def test_a_value_without_a_class_is_named(value: int, void: int | list[int], known: str) -> None:
    with pytest.raises(KDError, match=rf"^m\.png: holds the value {value}, which is not a class; there are {known}$"):
        identity_values(3, void).of(np.array([[1, value]]), Path("m.png"))


def pair(folder: Path, image: tuple[int, int] = (6, 4), mask: tuple[int, int] = (6, 4)) -> Pair:
    """Files of those sizes (width, height)."""
    Image.new("RGB", image, (1, 2, 3)).save(folder / "one.jpg")
    Image.new("L", mask, 2).save(folder / "one.png")
    return Pair("one", folder / "one.jpg", folder / "one.png")


def test_pairs_are_read(tmp_path: Path) -> None:
    found = FilePairs([pair(tmp_path)], identity_values(3, 255))
    image, mask = found.read(0)
    assert (len(found), found.name(0), image.size, mask.shape) == (1, "one", (6, 4), (4, 6))
    assert (mask == 2).all()


def test_another_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(KDError, match=r"one\.png: is 4 x 6 pixels, its image 6 x 4"):
        FilePairs([pair(tmp_path, mask=(4, 6))], identity_values(3, 255)).read(0)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_missing_file_is_named_before_any_is_read(tmp_path: Path, ending: str) -> None:
    one = pair(tmp_path)
    (tmp_path / f"one.{ending}").unlink()
    with pytest.raises(KDError, match=rf"there is no file .*one\.{ending}, which one needs"):
        FilePairs([one], identity_values(3, 255))


def test_the_fingerprint_is_that_of_the_files_and_classes(tmp_path: Path) -> None:
    one = pair(tmp_path)
    before = FilePairs([one], identity_values(3, 255)).fingerprint
    assert FilePairs([one], identity_values(3, 255)).fingerprint == before
    assert FilePairs([one], identity_values(4, 255)).fingerprint != before
    Image.new("L", (60, 40), 2).save(tmp_path / "one.png")
    assert FilePairs([one], identity_values(3, 255)).fingerprint != before


def test_lists_of_names(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa one\r\n\r\n  b  \r\nc")
    assert names_in(path) == ["a one", "b", "c"]
    for content in (b"", b" \n\n"):
        path.write_bytes(content)
        with pytest.raises(KDError, match=r"list\.txt: lists no image"):
            names_in(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KDError, match=r"list\.txt: is not a readable list of names"):
        names_in(path)
    with pytest.raises(KDError, match=r"list\.txt: is not a readable list of names \(No such file"):
        names_in(tmp_path / "no" / "list.txt")
