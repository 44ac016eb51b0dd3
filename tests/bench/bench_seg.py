"""Images a second of segmentation on VOC 2012: a loop as torchvision's reference scripts write it against ours.

Both sides train the same model on the same crops' size with the same batch, and score it on the validation images at
full resolution, in processes of their own with as many threads and workers, in turn, for several rounds::

    python tests/bench/bench_seg.py [--model lraspp_mobilenet_v3_large] [--crop 256] [--batch 8]

The reference is float32, PIL transforms of whole images, and a confusion matrix of every pixel.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from sides import compare

ROOT = Path(__file__).parents[2]
WARM = 3
CONFIG = """
task: semantic_segmentation
data: {{name: voc2012, root: {root}, size: {crop}, crop: {crop}, workers: {workers}}}
models: {{student: {{arch: torchvision.{model}}}}}
runtime: {runtime}
stages:
  train:
    steps: 1000
    batch_size: {batch}
    drop_last: true
    losses: {{ce: {{loss: cross_entropy}}}}
    optimizer: !call:torch.optim.SGD {{lr: 0.01, momentum: 0.9, weight_decay: 1.0e-4}}
    scheduler:
      call: !call:torch.optim.lr_scheduler.PolynomialLR {{total_iters: !run steps, power: 0.9}}
      interval: step
"""


def ours(options: argparse.Namespace, runtime: str) -> tuple[float, float]:
    """Images a second of training, and of scoring, as the commands do them."""
    from steps import WATCHED, Steps

    from kd_core.evaluation import evaluate
    from kd_core.experiment import Experiment

    Steps.warm = WARM
    steps = WARM + options.steps
    overrides = [WATCHED, f"stages.train.steps={steps}", f"stages.train.validate={{every_steps: {steps}}}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speed.yaml"
        path.write_text(CONFIG.format(**{**vars(options), "runtime": runtime}))
        experiment = Experiment.load(path, overrides=overrides)
        experiment.train(Path(folder) / "run")
        started = time.perf_counter()
        done = evaluate(Path(folder) / "run")
        assert done.samples is not None
        return options.batch / Steps.seconds(), done.samples / (time.perf_counter() - started)


def reference(options: argparse.Namespace) -> tuple[float, float]:
    """The same of a loop over torchvision's data set, models and transforms."""
    import torch
    import torchvision
    from torch import nn
    from torch.utils.data import DataLoader

    root = next(folder.parent for folder in options.root.rglob("VOCdevkit"))
    model = torchvision.models.get_model(options.model, weights=None, weights_backbone=None, num_classes=21)

    def data(name: str, transforms: Any) -> Any:
        return torchvision.datasets.VOCSegmentation(root, image_set=name, transforms=transforms)

    loader = DataLoader(
        data("train", Training(options.crop)), options.batch, True, num_workers=options.workers, drop_last=True
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, 1000, 0.9)
    model.train()
    times: list[float] = []
    while len(times) < WARM + options.steps:
        for images, masks in loader:
            loss = nn.functional.cross_entropy(model(images)["out"], masks, ignore_index=255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss.item()  # the scripts log it
            times.append(time.perf_counter())
            if len(times) == WARM + options.steps:
                break
    trained = options.steps * options.batch / (times[-1] - times[WARM - 1])
    return trained, scoring(model.eval(), DataLoader(data("val", as_tensors), 1, num_workers=options.workers))


def scoring(model: Any, loader: Any) -> float:
    """Images a second, with a confusion matrix of 21 classes."""
    import torch

    matrix = torch.zeros(21, 21, dtype=torch.int64)
    started = time.perf_counter()
    with torch.inference_mode():
        for images, masks in loader:
            predicted, truth = model(images)["out"].argmax(1).flatten(), masks.flatten()
            labelled = (truth >= 0) & (truth < 21)
            cells = 21 * truth[labelled].to(torch.int64) + predicted[labelled]
            matrix += torch.bincount(cells, minlength=21**2).reshape(21, 21)
    assert matrix.sum() > 0
    return len(loader) / (time.perf_counter() - started)


class Training:
    """Random resize of the whole image, flip and crop, on PIL images, then normalised tensors."""

    def __init__(self, crop: int) -> None:
        self.crop = crop

    def __call__(self, image: Any, mask: Any) -> tuple[Any, Any]:
        from torchvision.transforms import InterpolationMode, RandomCrop
        from torchvision.transforms import functional as F

        size = random.randint(self.crop // 2, 2 * self.crop)
        image = F.resize(image, [size], antialias=True)
        mask = F.resize(mask, [size], interpolation=InterpolationMode.NEAREST)
        if random.random() < 0.5:
            image, mask = F.hflip(image), F.hflip(mask)
        missing = [max(self.crop - side, 0) for side in image.size]
        image, mask = F.pad(image, [0, 0, *missing]), F.pad(mask, [0, 0, *missing], fill=255)
        window = RandomCrop.get_params(image, (self.crop, self.crop))
        return as_tensors(F.crop(image, *window), F.crop(mask, *window))


def as_tensors(image: Any, mask: Any) -> tuple[Any, Any]:
    """Normalised float32, and int64."""
    import torch
    from torchvision.transforms import functional as F

    pixels = F.convert_image_dtype(F.pil_to_tensor(image), torch.float)
    pixels = F.normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return pixels, F.pil_to_tensor(mask).squeeze(0).to(torch.int64)


def counting() -> float:
    """Seconds that the confusion matrix of 21 classes takes for an image of 512 x 512."""
    import torch

    from kd_seg.metrics import confusion

    random = torch.Generator().manual_seed(0)
    predicted, truth = (torch.randint(21, (1, 512, 512), generator=random) for _ in range(2))
    times = []
    for _ in range(50):
        started = time.perf_counter()
        confusion(predicted.to(torch.uint8), truth, 21)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


SIDES = {
    "reference": reference,
    "ours, default": lambda options: ours(options, "default"),
    "ours, fast": lambda options: ours(options, "fast"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("KD_TEST_DATA", ROOT.parent / "shared" / "data")) / "voc2012_subset"
    parser.add_argument("--root", type=Path, default=default)
    parser.add_argument("--model", default="lraspp_mobilenet_v3_large")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.root = options.root.resolve()
    if options.side:
        print(*SIDES[options.side](options))
        return
    median = compare(SIDES, rounds=options.rounds, threads=options.threads)
    matrix = counting()
    print(f"confusion matrix, 512 x 512: {1e3 * matrix:.2f} ms, {matrix * median:.2%} of scoring an image in fast")


if __name__ == "__main__":
    main()
