"""Images a second of distilling resnet20 from resnet56 on CIFAR-10: torchdistill's DistillationBox against ours.

Both sides train on the same images with crop and flip, batch 128, the same terms (cross-entropy 0.9, softened outputs
0.1, temperature 4), in processes of their own with the same number of threads, in turn, for several rounds. The last
two of our sides keep the teacher's outputs: in the pass in which it runs, and in one in which they are read::

    python tests/bench/bench_speed.py --baseline PYTHON     # PYTHON has torchdistill==1.1.5 and torchvision

``--baseline`` is left out to measure our sides alone.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sized
from pathlib import Path

ROOT = Path(__file__).parents[2]
BATCH, WARM = 128, 6
CONFIG = """
task: image_classification
data: {{name: cifar10, root: {data}, val: 0}}
models:
  student: {{arch: resnet20}}
  teacher: {{arch: resnet56, weights: null}}
runtime: {runtime}
stages:
  distill:
    epochs: 182
    batch_size: 128
    losses:
      ce: {{loss: cross_entropy, weight: 0.9}}
      kd: {{loss: kd, weight: 0.1, temperature: 4.0}}
    optimizer: !call:torch.optim.SGD {{lr: 0.1, momentum: 0.9, weight_decay: 1.0e-4}}
"""


EPOCH = 71
"""Batches of an epoch of the subset's 9,000 images."""
KEPT = ("models.teacher.cache=true", "data.augmented_views=1")


def ours(data: Path, steps: int, runtime: str, *overrides: str, after: int = 0) -> float:
    """Seconds a step of the stage runner, as a user's command runs it, ``after`` so many steps more than warm up."""
    from steps import WATCHED, Enough, Steps

    from kd_core.experiment import Experiment

    Steps.warm, Steps.count = WARM + after, steps
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KD_CACHE"] = folder
        path = Path(folder) / "speed.yaml"
        path.write_text(CONFIG.format(data=data, runtime=runtime))
        try:
            Experiment.load(path, overrides=[WATCHED, *overrides]).train(Path(folder) / "run")
        except Enough:
            return Steps.seconds()
    raise AssertionError("the run ended early")


def cifar(data: Path) -> Sized:
    """The training images with torchdistill's transforms."""
    from PIL import Image
    from torch.utils.data import Dataset
    from torchvision import transforms

    class Cifar(Dataset[tuple[object, int]]):
        """What torchvision's CIFAR10 does, without its checksums: the images are a subset."""

        def __init__(self) -> None:
            files = [data / "cifar-10-batches-py" / f"data_batch_{number}" for number in range(1, 6)]
            parts = [pickle.loads(file.read_bytes(), encoding="latin1") for file in files]  # our own benchmark data
            self.images = [row.reshape(3, 32, 32).transpose(1, 2, 0) for part in parts for row in part["data"]]
            self.labels = [label for part in parts for label in part["labels"]]
            mean, std = (0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)
            self.transform = transforms.Compose(
                [
                    transforms.RandomCrop(32, padding=4),
                    transforms.RandomHorizontalFlip(),
                    transforms.ToTensor(),
                    transforms.Normalize(mean, std),
                ]
            )

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> tuple[object, int]:
            return self.transform(Image.fromarray(self.images[index])), self.labels[index]

    return Cifar()


KD = {
    "key": "KDLoss",
    "kwargs": {
        "student_module_path": ".",
        "student_module_io": "output",
        "teacher_module_path": ".",
        "teacher_module_io": "output",
        "temperature": 4.0,
        "alpha": 0.9,
        "reduction": "batchmean",
    },
}


def recipe() -> dict[str, object]:
    """The training section of torchdistill's config."""
    from torch.utils.data import RandomSampler

    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": BATCH, "num_workers": int(os.environ.get("WORKERS", "0")), "drop_last": True},
        },
        "val_data_loader": {},
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"requires_grad": True, "forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": KD, "weight": 1.0}}},
            "func2extract_model_loss": None,
        },
    }


def torchdistill(data: Path, steps: int) -> float:
    """Seconds a step of torchdistill's loop as its image classification example writes it."""
    import torch
    import torchdistill.losses
    from torchdistill.core.distillation import DistillationBox
    from torchdistill.models.classification.resnet import resnet20, resnet56

    assert torchdistill.losses  # importing it registers KDLoss
    device = torch.device("cpu")
    models = resnet56(num_classes=10), resnet20(num_classes=10)
    box = DistillationBox(*models, {"train": cifar(data)}, recipe(), device, None, False, 1)
    times: list[float] = []
    while True:
        box.pre_epoch_process(epoch=0)
        for images, labels, extra in box.train_data_loader:
            box.pre_forward_process()
            loss = box.forward_process(images, targets=labels, supp_dict=extra)
            box.post_forward_process(loss=loss)
            times.append(time.perf_counter())
            if len(times) == WARM + steps:
                return (times[-1] - times[WARM - 1]) / steps
        box.post_epoch_process()


SIDES = {
    "torchdistill": torchdistill,
    "ours, default": lambda data, steps: ours(data, steps, "default"),
    "ours, fast": lambda data, steps: ours(data, steps, "fast"),
    "fast, first pass": lambda data, steps: ours(data, steps, "fast", *KEPT),
    "fast, kept": lambda data, steps: ours(data, steps, "fast", *KEPT, after=EPOCH),
}


def measure(side: str, python: str, data: Path, steps: int, threads: int) -> float:
    """Images a second of one side, in a process of its own."""
    command = [python, __file__, "--side", side, "--data", str(data), "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return BATCH / float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("KD_TEST_DATA", ROOT.parent / "shared" / "data")) / "cifar10"
    parser.add_argument("--baseline", metavar="PYTHON")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(SIDES[arguments.side](arguments.data.resolve(), arguments.steps))
        return
    pythons = {"torchdistill": arguments.baseline} if arguments.baseline else {}
    pythons |= {side: sys.executable for side in SIDES if side != "torchdistill"}
    speeds: dict[str, list[float]] = {side: [] for side in pythons}
    for number in range(arguments.rounds):
        for side, python in pythons.items():
            speeds[side].append(measure(side, python, arguments.data, arguments.steps, arguments.threads))
            print(f"round {number + 1}: {side:<16} {speeds[side][-1]:8.1f} images/s", flush=True)
    base = next(iter(speeds))
    for side, values in speeds.items():
        ratios = [value / reference for value, reference in zip(values, speeds[base], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"{side:<16} {statistics.median(values):8.1f} images/s, {statistics.median(ratios):.2f} x {base} ({spread})"
        )


if __name__ == "__main__":
    main()
