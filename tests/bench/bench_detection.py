"""Images a second of object detection on COCO 2017: a loop as torchvision's reference scripts write it against ours.

Both sides train the same detector on images scaled alike with the same batch, and score it on the validation images
with COCO's metrics, in processes of their own with as many threads and workers, in turn, for several rounds::

    python tests/bench/bench_detection.py [--model fasterrcnn_mobilenet_v3_large_320_fpn] [--size 320] [--batch 4]
    python tests/bench/bench_detection.py --part teacher

The part ``teacher`` is Faster R-CNN with ResNet-50: a whole forward pass in evaluation mode against one that ends at
the feature pyramid, as a teacher's does whose pyramid alone is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sides import compare

ROOT = Path(__file__).parents[2]
WARM = 2
SCORE = 0.001
"""The least score of a detection, so that a model that has hardly learned detects as much as one that has."""
CONFIG = """
task: object_detection
data: {{name: coco2017, root: {root}, workers: {workers}, augment: hflip, group_by_aspect_ratio: 0}}
models:
  student: {{arch: torchvision.{model}, min_size: {size}, max_size: {longer}, box_score_thresh: {score}}}
runtime: {runtime}
stages:
  train:
    steps: 1000
    batch_size: {batch}
    eval_batch_size: 1
    drop_last: true
    losses: {{detector: {{loss: identity, value: student.output/loss, mean_over: samples}}}}
    optimizer: !call:torch.optim.SGD {{lr: 0.001, momentum: 0.9, weight_decay: 1.0e-4}}
"""


def ours(options: argparse.Namespace, runtime: str) -> tuple[float, float]:
    """Images a second of training, and of scoring, as the commands do them."""
    from steps import WATCHED, Steps

    import kd_vision.detection.models
    import kd_vision.detection.task  # noqa: F401  which register what the config names
    from kd_core.evaluation import evaluate
    from kd_core.experiment import Experiment

    Steps.warm = WARM
    steps = WARM + options.steps
    overrides = [WATCHED, f"stages.train.steps={steps}", f"stages.train.validate={{every_steps: {steps}}}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speed.yaml"
        path.write_text(CONFIG.format(**{**vars(options), "runtime": runtime, "score": SCORE}))
        Experiment.load(path, overrides=[*overrides, "data.limit=40"]).train(Path(folder) / "run")
        started = time.perf_counter()
        done = evaluate(Path(folder) / "run", overrides=["data.limit=null"])
        assert done.samples is not None
        return options.batch / Steps.seconds(), done.samples / (time.perf_counter() - started)


def reference(options: argparse.Namespace) -> tuple[float, float]:
    """The same of a loop over torchvision's data set and models, and pycocotools."""
    import torch
    import torchvision
    from torch.utils.data import DataLoader

    model = torchvision.models.get_model(
        f"detection/{options.model}".rpartition("/")[2],
        weights=None,
        weights_backbone=None,
        num_classes=91,
        min_size=options.size,
        max_size=options.longer,
        box_score_thresh=SCORE,
    )
    rows = [row for row in Boxes(options.root, "train2017") if len(row[1]["boxes"])][:40]
    random.seed(0)
    images_and_boxes: Any = Training(options.root, rows)
    loader = DataLoader(
        images_and_boxes, options.batch, True, num_workers=options.workers, collate_fn=lists, drop_last=True
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.001, 0.9, weight_decay=1e-4)
    model.train()
    times: list[float] = []
    while len(times) < WARM + options.steps:
        for images, targets in loader:
            losses = sum(model(images, targets).values())
            optimizer.zero_grad()
            losses.backward()
            optimizer.step()
            losses.item()  # the scripts log it
            times.append(time.perf_counter())
            if len(times) == WARM + options.steps:
                break
    trained = options.steps * options.batch / (times[-1] - times[WARM - 1])
    return trained, scoring(model.eval(), options)


def scoring(model: Any, options: argparse.Namespace) -> float:
    """Images a second, with pycocotools' metrics of boxes."""
    import torch
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    from torch.utils.data import DataLoader

    started = time.perf_counter()
    truth = COCO(str(options.root / "annotations" / "instances_val2017.json"))
    rows = list(Boxes(options.root, "val2017"))
    images_and_boxes: Any = Training(options.root, rows, flip=0)
    loader = DataLoader(images_and_boxes, 1, num_workers=options.workers, collate_fn=lists)
    found: list[dict[str, Any]] = []
    with torch.inference_mode():
        for images, targets in loader:
            for detected, target in zip(model(images), targets, strict=True):
                corners = detected["boxes"]
                boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
                for box, score, label in zip(
                    boxes, detected["scores"].tolist(), detected["labels"].tolist(), strict=True
                ):
                    number = int(target["image_id"])
                    found.append({"image_id": number, "category_id": label, "bbox": box, "score": score})
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return len(rows) / (time.perf_counter() - started)


class Boxes:
    """The images of a split with their boxes, crowds left out: (path, target)."""

    def __init__(self, root: Path, split: str) -> None:
        self.folder = root / split
        self.content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())

    def __iter__(self) -> Any:
        import torch

        boxes: dict[int, list[dict[str, Any]]] = {}
        for annotation in self.content["annotations"]:
            if not annotation.get("iscrowd"):
                boxes.setdefault(annotation["image_id"], []).append(annotation)
        for image in self.content["images"]:
            here = boxes.get(image["id"], [])
            corners = torch.tensor([annotation["bbox"] for annotation in here]).reshape(-1, 4)
            corners[:, 2:] += corners[:, :2]
            labels = torch.tensor([annotation["category_id"] for annotation in here], dtype=torch.int64)
            kept = (corners[:, 2:] > corners[:, :2]).all(1)
            target = {"boxes": corners[kept], "labels": labels[kept], "image_id": torch.tensor(image["id"])}
            yield self.folder / image["file_name"], target


class Training:
    """Images that are read and flipped with their boxes, as tensors."""

    def __init__(self, root: Path, rows: list[Any], flip: float = 0.5) -> None:
        self.rows, self.flip = rows, flip

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        import torch
        from PIL import Image
        from torchvision.transforms import functional as F

        path, target = self.rows[row]
        image = F.convert_image_dtype(F.pil_to_tensor(Image.open(path).convert("RGB")), torch.float)
        if random.random() < self.flip:
            image, boxes = image.flip(-1), target["boxes"].clone()
            boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
            target = {**target, "boxes": boxes}
        return image, target


def lists(samples: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """Images and targets of a batch."""
    return [image for image, _ in samples], [target for _, target in samples]


def teacher(options: argparse.Namespace) -> None:
    """Seconds of a forward pass of a teacher: whole, and as far as its pyramid."""
    import torch

    import kd_vision.detection.models  # noqa: F401  which registers it
    from kd_core.models.registry import MODELS
    from kd_core.taps.wires import Tap
    from kd_core.taps.wrappers import Teacher

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    values = {"norm": "frozen", "min_size": options.size, "max_size": options.longer}
    model = MODELS.get("torchvision.fasterrcnn_resnet50_fpn")(**values)
    images = [torch.rand(3, options.size * 3 // 4, options.size) for _ in range(options.batch)]
    whole = Teacher(model, [Tap("")])
    stopped = Teacher(model, [Tap("@features")], early_stop=True)
    for wrapper in (whole, stopped, stopped):
        wrapper(images)
    ratios = []
    for number in range(options.rounds):
        first, second = seconds(lambda: whole(images)), seconds(lambda: stopped(images))
        ratios.append(first / second)
        print(f"round {number + 1}: whole {first:6.2f} s, to the pyramid {second:6.2f} s", flush=True)
    print(f"teacher: {statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})")


def seconds(run: Callable[[], Any]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


SIDES = {
    "reference": reference,
    "ours, default": lambda options: ours(options, "default"),
    "ours, fast": lambda options: ours(options, "fast"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("KD_TEST_DATA", ROOT.parent / "shared" / "data")) / "coco2017_subset"
    parser.add_argument("--root", type=Path, default=default)
    parser.add_argument("--part", choices=("loops", "teacher"), default="loops")
    parser.add_argument("--model", default="fasterrcnn_mobilenet_v3_large_320_fpn")
    parser.add_argument("--size", type=int, default=320, help="Pixels of the shorter side.")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds of the process that trains, not the clock's.")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.root, options.longer = options.root.resolve(), 2 * options.size
    if options.cpu:  # where others load the machine
        time.perf_counter = time.process_time
    if options.side:
        print(*SIDES[options.side](options))
    elif options.part == "teacher":
        teacher(options)
    else:
        compare(SIDES, rounds=options.rounds, threads=options.threads)


if __name__ == "__main__":
    main()
