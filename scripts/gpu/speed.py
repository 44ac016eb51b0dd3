"""One side of the step times of scripts/gpu_check.py: distillation on made-up images, in a process of its own.

Prints a line of JSON: images a second, milliseconds a step, and the most memory that tensors took on the device.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "tests" / "bench")]
WARM = 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEMPERATURE, ALPHA = 4.0, 0.9


@dataclass(frozen=True)
class Job:
    """Which student learns from which teacher, on how many images of which size."""

    student: str
    teacher: str
    classes: int
    size: int
    batch: int
    images: int
    augment: str

    def pixels(self) -> Tensor:
        """uint8 (images, 3, size, size)."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(256, (self.images, 3, self.size, self.size), dtype=torch.uint8, generator=generator)

    def labels(self) -> Tensor:
        """(images,)"""
        return torch.arange(self.images) % self.classes

    def models(self) -> tuple[nn.Module, nn.Module]:
        """Teacher and student, as the step written by hand gets them."""
        if self.size == 32:
            from kd_core.models.registry import MODELS

            return MODELS.get(self.teacher)(), MODELS.get(self.student)()
        from torchvision import models

        return models.resnet50(num_classes=self.classes), models.resnet18(num_classes=self.classes)


JOBS = {
    "cifar": Job("resnet20", "resnet56", 10, 32, 128, 10_240, "crop_flip"),
    "imagenet": Job("torchvision.resnet18", "torchvision.resnet50", 1000, 224, 128, 1_024, "none"),
    "tiny": Job("resnet20", "resnet56", 10, 32, 16, 320, "crop_flip"),
}
"""``tiny`` tries the script on a CPU."""
CONFIG = """
task: image_classification
data: {{name: made_up, val: 0}}
log_every: 1000000
models:
  student: {{arch: {student}, num_classes: {classes}}}
  teacher: {{arch: {teacher}, num_classes: {classes}, weights: null}}
stages:
  distill:
    steps: 100000
    batch_size: {batch}
    losses:
      ce: {{loss: cross_entropy, weight: 0.9}}
      kd: {{loss: kd, weight: 0.1, temperature: 4.0}}
    optimizer: !call:torch.optim.SGD {{lr: 0.01, momentum: 0.9, weight_decay: 1.0e-4}}
"""


class Clock:
    """Times steps, and looks at the memory of those: it waits for the device before the first and after the last."""

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device, self.steps = device, steps
        self.done, self._began, self.seconds = 0, 0.0, 0.0

    def step(self) -> bool:
        """A step is done; whether it was the last."""
        self.done += 1
        if self.done == WARM:
            self._wait()
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            self._began = time.perf_counter()
        if self.done < WARM + self.steps:
            return False
        self._wait()
        self.seconds = (time.perf_counter() - self._began) / self.steps
        return True

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def ours(job: Job, clock: Clock, runtime: str) -> None:
    """The stage runner, as a user's command runs it."""
    from kd_core.data.sources import Parts
    from kd_core.experiment import Experiment
    from kd_core.observers import Observer, StepEvent
    from kd_vision.data.labelled_subset import labelled_images
    from kd_vision.data.sources import SOURCES, ImageSource

    class Enough(Exception):
        """The steps are done."""

    class Times(Observer):
        """Tells the clock."""

        def after_step(self, event: StepEvent) -> None:
            """End the run after the last step."""
            if clock.step():
                raise Enough

    def read() -> Any:
        return Parts(labelled_images(job.pixels(), job.labels()), None, None, tuple(map(str, range(job.classes))))

    shape = (3, job.size, job.size)
    facts = {"splits": ("train",), "num_classes": job.classes, "shape": shape, "augment": job.augment}
    SOURCES("made_up")(ImageSource("random images", read, mean=MEAN, std=STD, **facts))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speed.yaml"
        fields = {key: getattr(job, key) for key in ("student", "teacher", "classes", "batch")}
        path.write_text(CONFIG.format(**fields))
        experiment = Experiment.load(path, overrides=[f"runtime={runtime}"])
        try:
            experiment.train(Path(folder) / "run", observers=[Times()])
        except Enough:
            return
    raise AssertionError("the run ended early")


class MadeUp(torch.utils.data.Dataset[Any]):
    """The images as torchdistill's examples read them: image by image, through torchvision's transforms."""

    def __init__(self, job: Job) -> None:
        from torchvision import transforms

        crop = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if job.size == 32 else []
        tensors = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        self.transform = transforms.Compose([*crop, *tensors])
        self.images, self.labels = job.pixels().permute(0, 2, 3, 1).numpy(), job.labels().tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def torchdistill(job: Job, clock: Clock) -> None:
    """torchdistill's DistillationBox, as its image classification example drives it."""
    import bench_speed
    import torchdistill.losses
    from torchdistill.core.distillation import DistillationBox

    assert torchdistill.losses  # importing it registers KDLoss
    recipe: dict[str, Any] = bench_speed.recipe()
    workers = min(8, len(os.sched_getaffinity(0)) - 1)
    recipe["train_data_loader"]["kwargs"].update(batch_size=job.batch, num_workers=workers, pin_memory=True)
    if job.size == 32:
        from torchdistill.models.classification.resnet import resnet20, resnet56

        models = resnet56(num_classes=job.classes), resnet20(num_classes=job.classes)
    else:
        models = job.models()
    teacher, student = (model.to(clock.device) for model in models)
    box = DistillationBox(teacher, student, {"train": MadeUp(job)}, recipe, clock.device, None, False, 1)
    while True:
        box.pre_epoch_process(epoch=0)
        for images, labels, extra in box.train_data_loader:
            images, labels = images.to(clock.device), labels.to(clock.device)
            box.pre_forward_process()
            loss = box.forward_process(images, targets=labels, supp_dict=extra)
            box.post_forward_process(loss=loss)
            if clock.step():
                return
        box.post_epoch_process()


def by_hand(job: Job, clock: Clock, *, half: bool) -> None:
    """The same step written for this alone: recorded once as a CUDA graph, then launched as a whole.

    Images lie in pinned memory and are not augmented; the optimiser is fused. ``half``: bf16 and channels last.
    """
    device, memory = clock.device, torch.channels_last if half else torch.contiguous_format
    torch.backends.cuda.matmul.allow_tf32 = half
    teacher, student = (model.to(device, memory_format=memory) for model in job.models())  # type: ignore[call-overload]
    teacher.eval().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    pixels, labels = job.pixels(), job.labels()
    images, target = pixels[: job.batch].to(device), labels[: job.batch].to(device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        inputs = images.float().div_(255).sub_(mean).div_(std).contiguous(memory_format=memory)
        with torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            with torch.no_grad():
                soft = teacher(inputs).float()
            logits = student(inputs).float()
        kd = F.kl_div((logits / TEMPERATURE).log_softmax(1), (soft / TEMPERATURE).softmax(1), reduction="batchmean")
        loss = ALPHA * F.cross_entropy(logits, target) + (1 - ALPHA) * TEMPERATURE**2 * kd
        loss.backward()
        optimizer.step()

    launch = recorded(step) if device.type == "cuda" else step
    for chosen in batches(job, pixels, labels, device):
        images.copy_(chosen[0], non_blocking=True)
        target.copy_(chosen[1], non_blocking=True)
        launch()
        if clock.step():
            return


def recorded(step: Callable[[], None]) -> Callable[[], None]:
    """A step as a CUDA graph, after three that are not recorded, on a stream of their own as PyTorch asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def batches(job: Job, pixels: Tensor, labels: Tensor, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, in pinned memory where they go to a GPU."""
    chosen = [(pixels[at : at + job.batch], labels[at : at + job.batch]) for at in range(0, job.images, job.batch)]
    if device.type == "cuda":
        chosen = [(images.pin_memory(), target.pin_memory()) for images, target in chosen]
    while True:
        yield from chosen


HALF = "precision: bf16, channels_last: true, fused_optimizer: true, fuse_bn: true, tf32: true"
COMPILED = f"{HALF}, compile: [teacher, student]"
SIDES: dict[str, Callable[[Job, Clock], None]] = {
    "torchdistill": torchdistill,
    "ours, default": lambda job, clock: ours(job, clock, f"{{device: {clock.device.type}}}"),
    "ours, fast without compiling": lambda job, clock: ours(job, clock, f"{{device: {clock.device.type}, {HALF}}}"),
    "ours, fast": lambda job, clock: ours(job, clock, f"{{device: {clock.device.type}, {COMPILED}}}"),
    "ours, fast with cuda_graphs": lambda job, clock: ours(
        job, clock, f"{{device: {clock.device.type}, {COMPILED}, cuda_graphs: true}}"
    ),
    "by hand, CUDA graph, float32": lambda job, clock: by_hand(job, clock, half=False),
    "by hand, CUDA graph, bfloat16": lambda job, clock: by_hand(job, clock, half=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--job", choices=JOBS, default="crop_flip")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    device, job = torch.device(arguments.device), JOBS[arguments.job]
    clock = Clock(device, arguments.steps)
    SIDES[arguments.side](job, clock)
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None
    told = {"images_per_second": job.batch / clock.seconds, "milliseconds": 1e3 * clock.seconds, "peak_mb": peak}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
