"""What the framework costs: a step of `kd-vision train` against a step of a hand-written loop, in turn, in one run.

::

    python tests/bench/bench_overhead.py [--rounds 60]

Both distil resnet20 from resnet56 on made-up images of CIFAR's size, batch 128, with crop and flip, SGD, the same order
and the same weights; that their losses agree is asserted. The framework's step is all of its loop: the next batch, the
step, the progress bar, what is due after a step. Printed are wall and CPU time, which other work on the machine
disturbs less, as the mean of each side's fastest quarter of steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from kd_core.data.batch import SHARED, Batch
from kd_core.data.sources import Parts
from kd_core.device.seeding import derive, permutation, seeded
from kd_core.experiment import Experiment
from kd_core.models.registry import MODELS
from kd_core.observers import OBSERVERS, Observer, StepEvent
from kd_vision.data.labelled_subset import LabelledSubset, labelled_images
from kd_vision.data.sources import IMAGENET_MEAN, IMAGENET_STD, SOURCES, ImageSource

CONFIG = Path(__file__).parents[2] / "configs" / "vision" / "cifar10_kd_resnet20_resnet56.yaml"
BATCH = 128
WARM_UP = 5
MEAN, STD = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
Clock = tuple[float, float]
"""Wall and CPU seconds."""


def read_noise(*, images: int) -> Parts[LabelledSubset]:
    """So many images."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Parts(labelled_images(pixels, torch.arange(images) % 10), None, None, tuple("0123456789"))


def now() -> Clock:
    return time.perf_counter(), time.process_time()


class HandWritten:
    """The loop one would write for this one experiment."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        torch.manual_seed(0)
        self.student = MODELS.get("resnet20")(num_classes=10).train()
        with seeded(derive(0, "model", "teacher")):
            self.teacher = MODELS.get("resnet56")(num_classes=10).eval().requires_grad_(False)
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        self.batches = batches
        self.losses: list[float] = []

    def step(self) -> None:
        batch = next(self.batches)
        images = (batch.inputs[SHARED].float().div_(255) - MEAN).div_(STD)
        with torch.no_grad():
            soft = F.softmax(self.teacher(images) / 4, 1)
        logits = self.student(images)
        kl = F.kl_div(F.log_softmax(logits / 4, 1), soft, reduction="batchmean")
        loss = 0.1 * F.cross_entropy(logits, batch.target) + 0.9 * 16 * kl
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())


class Race:
    """Runs a hand-written step after each of the framework's, and keeps the time of both."""

    rival: HandWritten

    def __init__(self) -> None:
        self.framework: list[Clock] = []
        self.hand: list[Clock] = []
        self.losses: list[float] = []
        self._begun: Clock | None = None

    def after_step(self, event: StepEvent) -> None:
        """Keep the time of the framework's step, which began where the hand-written one ended, and make one by hand."""
        ended = now()
        if self._begun is not None:
            self.framework.append(elapsed(self._begun, ended))
        self.losses.append(event.losses()["loss"])
        begun = now()
        self.rival.step()
        self.hand.append(elapsed(begun, now()))
        assert abs(self.losses[-1] - self.rival.losses[-1]) < 1e-4 or len(self.losses) > 20, "not the same settings"
        self._begun = now()


def rival(experiment: Experiment) -> HandWritten:
    """The hand-written loop on the same images in the same order."""
    train = experiment.plan.task.load(experiment.plan.data, seed=0).train
    order = permutation(len(train), 0, "order", 0, 0).split(BATCH)
    return HandWritten(train.batches(order, epoch=0, seed=derive(0, "augment", 0), augment=True))


def elapsed(begun: Clock, ended: Clock) -> Clock:
    return ended[0] - begun[0], ended[1] - begun[1]


def fastest_quarter(seconds: Sequence[float]) -> float:
    """The mean of the fastest quarter."""
    return statistics.mean(sorted(seconds)[: max(1, len(seconds) // 4)])


def report(name: str, ours: Sequence[float], baseline: Sequence[float]) -> None:
    """One line: both sides, their ratio, and the middle half of the rounds' ratios."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(ours, baseline, strict=True)], n=4)
    mean, by_hand = fastest_quarter(ours), fastest_quarter(baseline)
    print(f"{name}: {mean * 1e3:.1f} ms/step, by hand {by_hand * 1e3:.1f} ms/step, ratio {mean / by_hand:.4f}")
    print(f"           ratio round by round: median {middle:.4f}, middle half {low:.4f} to {high:.4f}")


def raced(rounds: int) -> tuple[list[Clock], list[Clock]]:
    """The times of so many steps of the framework, and of as many by hand."""
    SOURCES("noise")(ImageSource("noise", read_noise, num_classes=10, shape=(3, 32, 32), augment="crop_flip"))
    overrides = [
        f"data={{name: noise, val: 0, images: {(rounds + WARM_UP + 1) * BATCH}}}",
        "models.teacher={arch: resnet56, weights: null}",
        f"stages.distill.batch_size={BATCH}",
        "stages.distill.epochs=1",
        "observers={bench: {}}",
    ]
    race = Race()
    OBSERVERS("bench")(type("Watch", (Observer,), {"after_step": lambda self, event: race.after_step(event)}))
    experiment = Experiment.load(CONFIG, overrides=overrides)
    race.rival = rival(experiment)
    with tempfile.TemporaryDirectory() as folder:
        experiment.train(Path(folder))
    return race.framework[WARM_UP:], race.hand[WARM_UP + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    framework, hand = raced(parser.parse_args().rounds)
    print(f"resnet20 from resnet56, batch {BATCH}, {torch.get_num_threads()} threads, {len(framework)} rounds")
    for column, name in enumerate(("wall time", "CPU time ")):
        report(name, [times[column] for times in framework], [times[column] for times in hand])


if __name__ == "__main__":
    main()
