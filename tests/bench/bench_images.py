"""Images a second that are read for training: torchvision's reference loader against ours, with Pillow and torchvision.

Batches of 32 crops of 224 pixels, in turn, for several rounds, each side by as many workers. With 0 the processor time
of the process counts::

    python tests/bench/bench_images.py PHOTOS [--workers 1] [--rounds 5]

PHOTOS is a folder of JPEG files, of which two classes are made. The reference is what torchvision's references for
classification use: ImageFolder, RandomResizedCrop, RandomHorizontalFlip and PILToTensor, shuffled.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from kd_vision.data.spec import DataSpec
from kd_vision.task import ImageClassification

BATCH = 32


def reference(root: Path, workers: int) -> Callable[[int], Iterable[Any]]:
    """The loader of torchvision's references."""
    transform = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    images = ImageFolder(root / "train", transform)
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda epoch: loader


def ours(root: Path, workers: int, decoder: str) -> Callable[[int], Iterable[Any]]:
    """Our loader, with one of its decoders."""
    data = DataSpec(name="image_folder", root=str(root), workers=workers, val=0, decoder=decoder)
    train = ImageClassification().load(data, seed=0).train

    def batches(epoch: int) -> Iterable[Any]:
        return train.batches(torch.randperm(len(train)).split(BATCH), epoch=epoch, seed=0, augment=True)

    return batches


def speed(batches: Callable[[int], Iterable[Any]], images: int, clock: Callable[[], float]) -> float:
    """Images a second of an epoch."""
    started = clock()
    for _ in batches(0):
        pass
    return images / (clock() - started)


def main() -> None:
    """Print each side's images a second, and the median of its ratios to the reference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(options.photos.rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(files):
            target = Path(folder) / "train" / "ab"[number % 2] / f"{number}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.resolve())
        root, workers = Path(folder), options.workers
        clock = time.perf_counter if workers else time.process_time
        sides = {
            "reference": reference(root, workers),
            "ours, Pillow": ours(root, workers, "pillow"),
            "ours, torchvision": ours(root, workers, "torchvision"),
        }
        for batches in sides.values():  # processes are started, files are in memory
            speed(batches, len(files), clock)
        speeds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side, batches in sides.items():
                speeds[side].append(speed(batches, len(files), clock))
    for side, values in speeds.items():
        ratios = [value / base for value, base in zip(values, speeds["reference"], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{side:<18} {statistics.median(values):6.1f} images/s, {statistics.median(ratios):.2f} x ({spread})")


if __name__ == "__main__":
    main()
