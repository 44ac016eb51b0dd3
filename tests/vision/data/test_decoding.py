"""JPEG files decoded by torchvision: Pillow's pixels, and Pillow wherever torchvision would not tell or differ."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kd_core.data.images import read_image
from kd_core.errors import KDError
from kd_vision.data.augment import Augmentation
from kd_vision.data.decoding import decoded_jpeg
from kd_vision.data.spec import DataSpec
from kd_vision.task import ImageClassification

PIXELS = np.linspace(0, 255, 40 * 60 * 3).astype(np.uint8).reshape(40, 60, 3)


def jpeg(mode: str = "RGB", orientation: int = 1, **options: object) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).convert(mode).save(buffer, "jpeg", exif=exif, **options)
    return buffer.getvalue()


def by_pillow(content: bytes, folder: Path) -> Tensor:
    (folder / "image.jpg").write_bytes(content)
    return torch.from_numpy(np.array(read_image(folder / "image.jpg"))).permute(2, 0, 1)


@pytest.mark.parametrize(
    "content",
    [
        *(jpeg(orientation=turn) for turn in range(1, 9)),
        jpeg("L"),
        jpeg(progressive=True),
        jpeg(subsampling=0, quality=100),
    ],
)
def test_pixels_are_pillows(tmp_path: Path, content: bytes) -> None:
    assert torch.equal(decoded_jpeg(content), by_pillow(content, tmp_path))


def test_photographs_are_pillows(real_data: Path) -> None:
    photos = sorted((real_data / "coco2017_subset" / "val2017").glob("*.jpg"))[:10]
    for path in photos:
        ours = torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)
        assert torch.equal(decoded_jpeg(path.read_bytes()), ours)


def test_what_is_left_to_pillow() -> None:
    whole, buffer = jpeg(), io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "png")
    for content in (jpeg("CMYK"), whole[:-200], whole[:4] + b"x" * 300 + b"\xff\xd9", buffer.getvalue(), b""):
        assert decoded_jpeg(content) is None


def test_training_images_are_decoded_so_and_evaluated_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        for split in ("train", "test"):
            (folder := tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                (folder / f"{number}.jpg").write_bytes(jpeg(orientation=number + 1))
    cut = tmp_path / "train" / "b" / "1.jpg"
    splits = {
        decoder: ImageClassification().load(
            DataSpec(name="image_folder", root=str(tmp_path), size=24, workers=0, val=0, decoder=decoder), seed=0
        )
        for decoder in ("pillow", "torchvision")
    }
    images = {
        decoder: next(split.train.batches([torch.arange(4)], epoch=0, seed=1, augment=True)).inputs[""]
        for decoder, split in splits.items()
    }
    assert 0 < (images["pillow"].int() - images["torchvision"].int()).abs().max() <= 1  # by resizing
    assert all(batch.is_contiguous() for batch in images.values())
    reader = splits["torchvision"].train.reader
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    reader.sample(0, seed=0, epoch=0, augment=True)
    assert (states[0], states[1]) == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
    assert torch.equal(states[2], torch.get_rng_state())
    given: list[bool] = []

    def theirs(image: Any) -> Any:
        given.append(image.is_contiguous())
        return image

    replace(reader, augmentation=Augmentation((), (theirs,))).sample(0, seed=0, epoch=0, augment=True)
    assert given == [True]  # what a transform of the user's gets
    assert splits["torchvision"].train.strong().reader.decoder == "torchvision"
    (one, other) = (
        next(split.test.batches([torch.arange(4)], epoch=0, seed=1, augment=False)).inputs[""]
        for split in splits.values()
    )
    assert torch.equal(one, other)
    cut.write_bytes(cut.read_bytes()[:-300])
    with pytest.raises(KDError, match=r"1\.jpg: is not a readable image"):
        list(splits["torchvision"].train.batches([torch.arange(4)], epoch=0, seed=1, augment=True))
