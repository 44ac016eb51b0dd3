"""What a run's bookkeeping costs as the data grow: time and memory a sample, from 1,000 to 10,000,000 samples.

::

    python tests/bench/bench_growth.py [--sizes 1000,100000,10000000] [--only order,folder] [--json FILE]

Data are made up, down to the paths of an image folder, which are never on a disk. Each figure is of a process of its
own: processor seconds, and by how much its resident set grew at most. Flat means: a sample costs no more of a large
data set than of a small one. ``--json`` writes the figures; :mod:`bench` compares them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from kd_core.config.calls.builder import Builder
from kd_core.config.calls.policy import Policy
from kd_core.config.syntax.load import loads
from kd_core.data import fingerprint, screening
from kd_core.data.batch import Batch, Splits
from kd_core.data.partners import partners
from kd_core.data.sources import Parts
from kd_core.data.summary import summarize
from kd_core.device.distributed import epoch_batches
from kd_core.device.seeding import permutation
from kd_core.losses.contrastive import CRD
from kd_core.train.output_store import Layout, OutputStore
from kd_core.train.output_store import Part as Column
from kd_vision.data.augment import parse
from kd_vision.data.folders import read_folders
from kd_vision.data.labelled_subset import LabelledSubset
from kd_vision.data.loading import SampleSplit
from kd_vision.data.spec import DataSpec
from kd_vision.data.splitting import split
from kd_vision.metrics import ClassificationMetrics

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
CLASSES = 100
SMALL = 1000
BATCH = 256
PER_FOLDER = 650
"""Images of a class: ImageNet-22k has 14,197,122 in 21,841 classes."""
DIM = 16
"""Of CRD's embeddings here: its memory is 8 bytes a sample for each of them. The method's own are of 128."""
KEPT = 100
"""Bytes of a record of a teacher's outputs: 50 logits in bf16, say."""


def subset_of(count: int) -> LabelledSubset:
    """So many images of no content with classes in turn."""
    images = SimpleNamespace(__len__=lambda: count)
    return LabelledSubset(_Rows(count), torch.arange(count) % CLASSES, torch.arange(count), images)


class _Rows:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


Measured = Iterator[None]
"""What a part does: preparation up to its first ``yield``, what is measured up to its second."""


def order(count: int) -> Measured:
    """The permutation of an epoch."""
    yield
    permutation(count, 0, "order", 0, 0)
    yield


def batches(count: int) -> Measured:
    """Which rows each batch of an epoch has."""
    drawn = permutation(count, 0, "order", 0, 0)
    yield
    for _ in epoch_batches(drawn, BATCH):
        pass
    yield


def chosen(count: int) -> Measured:
    """A limit of half the samples, and a tenth of those held out, by classes."""
    parts = Parts(subset_of(count), None, None, tuple(map(str, range(CLASSES))))
    yield
    split(parts, DataSpec(name="imagenet", limit=count // 2), 0)
    yield


def counts(count: int) -> Measured:
    """How many samples of each class a run says there are."""
    parts = Parts(subset_of(count), None, None, tuple(map(str, range(CLASSES))))
    yield
    summarize(parts)
    yield


def facts(count: int) -> Measured:
    """The fingerprint of a split: its choice and its labels."""
    subset = subset_of(count)
    yield
    subset.digest()
    yield


def targets(count: int) -> Measured:
    """``!run targets``, as a loss gets it."""
    subset = subset_of(count)
    document = loads("targets: !run targets", "made up")
    yield
    Builder(Policy(()), {"targets": subset.target_of_rows()}).build(document.data["targets"])
    yield


def drawn_partners(count: int) -> Measured:
    """For each sample another of its class, as ``partners: class`` draws them in each epoch."""
    labels = torch.arange(count) % CLASSES
    yield
    partners(labels, 0)
    yield


def crd(count: int) -> Measured:
    """CRD's memory with its table of rows by class."""
    labels = torch.arange(count) % CLASSES
    yield
    CRD(num_samples=count, targets=labels, dim=DIM, negatives=min(1024, count // 2))
    yield


def crd_steps(count: int) -> Measured:
    """A thousand samples through CRD, in batches of 100: a step's cost."""
    loss = CRD(num_samples=count, targets=torch.arange(count) % CLASSES, dim=DIM, negatives=256)
    rows = torch.randperm(count)[:1000].split(100)
    vectors = torch.nn.functional.normalize(torch.randn(100, DIM))
    yield
    for index in rows:
        loss(vectors, vectors, index)
    yield


def kept(count: int) -> Measured:
    """Reading what is kept of a teacher, all samples in batches in random order."""
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout((Column("uint8", (KEPT,)),), 0)
        store = OutputStore(Path(folder) / "kept", {})
        for rows in torch.arange(count).split(8192):
            store.write(0, rows, layout, [torch.ones(len(rows), KEPT, dtype=torch.uint8)])
        shuffled = torch.randperm(count).split(BATCH)
        yield
        for rows in shuffled:
            store.read(0, rows)
        yield


def scores(count: int) -> Measured:
    """Metrics of a classifier of ten classes, kept for each class too."""
    metrics, logits = ClassificationMetrics(10), torch.randn(1000, 10)
    batch = Batch({}, torch.arange(1000) % 10, torch.arange(1000))
    yield
    for _ in range(count // 1000):
        metrics.update(logits, batch)
    metrics.compute()
    metrics.by_class()
    yield


def folder(count: int) -> Measured:
    """Listing an image folder with classes of 650 images each."""
    with _made_up(count) as root:
        yield
        read_folders(root)
        yield


def screened(count: int) -> Measured:
    """What a run asks of files before it begins, but for opening them: their sizes, and a fingerprint."""
    with _made_up(count) as root:
        parts = read_folders(root)
        assert parts.train is not None
        part = SampleSplit(parts.train, parse("none"), size=(32, 32), workers=0)
        yield
        Splits(part, None, None).screen()
        assert part.fingerprint
        yield


@contextmanager
def _made_up(count: int) -> Iterator[Path]:
    """An image folder whose folders are real and whose files are not: the system is asked for names and sizes only."""
    scandir, stat, size = os.scandir, os.stat, 3_000_000  # so large that no file is read whole

    def listed(path: Any) -> Any:
        number = str(path).rpartition("/n")[2]
        if not number.isdigit():
            return scandir(path)
        first = int(number) * PER_FOLDER
        names = (f"n{number}_{row}.JPEG" for row in range(first, min(first + PER_FOLDER, count)))
        return iter([_Entry(name, f"{path}/{name}") for name in names])

    def told(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).endswith(".JPEG"):
            return SimpleNamespace(st_size=size, st_mode=0o100644)
        return stat(path, *arguments, **options)

    with tempfile.TemporaryDirectory() as name:
        for number in range(-(-count // PER_FOLDER)):
            (Path(name) / "train" / f"n{number:08d}").mkdir(parents=True)
        (Path(name) / "train" / "n").mkdir()
        with (
            mock.patch("os.scandir", listed),
            mock.patch("os.stat", told),
            mock.patch.object(fingerprint, "_digest", return_value=b"0" * 32),
            mock.patch.object(screening, "check_ends"),
        ):
            yield Path(name)


class _Entry:
    """What ``os.scandir`` gives of a file."""

    __slots__ = ("name", "path")

    def __init__(self, name: str, path: str) -> None:
        self.name, self.path = name, path

    def is_dir(self) -> bool:
        return False


PARTS: dict[str, Callable[[int], Measured]] = {
    "order": order,
    "batches": batches,
    "chosen": chosen,
    "counts": counts,
    "facts": facts,
    "targets": targets,
    "partners": drawn_partners,
    "crd": crd,
    "crd steps": crd_steps,
    "kept": kept,
    "scores": scores,
    "folder": folder,
    "screened": screened,
}
PER_STEP = {"crd steps": 1000}
"""Parts whose work is of so many samples, whatever the data set has."""


class Figure(NamedTuple):
    """Processor seconds and bytes of a part."""

    seconds: float
    bytes: int


def measure(name: str, count: int) -> Figure:
    """A part on so many samples, in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(name, count, sender))
    process.start()
    sender.close()
    try:
        return Figure(*receiver.recv())
    finally:
        process.join()


def _measured(name: str, count: int, sender: Any) -> None:
    for _ in PARTS[name](SMALL):  # imports, and what PyTorch does for the first time
        pass
    part = PARTS[name](count)
    next(part)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before, began = _peak(), time.process_time()
    next(part)
    sender.send((time.process_time() - began, _peak() - before))
    sender.close()


def _peak() -> int:
    """The largest resident set so far, in bytes; where the system does not say, that of the whole process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=list(SIZES))
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, dict[int, Figure]] = {}
    print("| part | " + " | ".join(f"{size:,}" for size in options.sizes) + " |")
    print("|---" * (1 + len(options.sizes)) + "|")
    for name in options.only:
        figures[name] = {size: measure(name, size) for size in options.sizes}
        cells = [
            f"{1e9 * figure.seconds / PER_STEP.get(name, size):,.0f} ns, {figure.bytes / size:,.0f} B"
            for size, figure in figures[name].items()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    np.random.seed(0)
    main()
