"""Images that stay on the hub: the samples, their order, and a network that breaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image as Pictures
from pyarrow import parquet
from tests.e2e.conftest import student_bytes, watched
from tests.e2e.test_resume import train_until

from kd_core.data import file_ranges, hub_data
from kd_core.data.parquet_index import stream_folder
from kd_core.errors import KDError, RunInterrupted
from kd_core.experiment import Experiment, resume
from kd_core.observers import Observer, StepEvent
from kd_vision.data.spec import DataSpec
from kd_vision.task import ImageClassification

from .parquet_hub import COMMIT, REPOSITORY, ParquetHub, served

datasets = pytest.importorskip("datasets")
ROWS = {"train-00000-of-00002": 22, "train-00001-of-00002": 13, "validation-00000-of-00001": 6}


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(file_ranges, "PAUSES", (0.0, 0.0))
    datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Parquet files of images of 8x8 pixels with four rows in a group."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    rng, made = np.random.default_rng(0), tmp_path / "birds"
    made.mkdir()
    for name, count in ROWS.items():
        images = [Pictures.fromarray(pixels) for pixels in rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)]
        labels = rng.integers(0, 3, count).tolist()
        table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        table.to_parquet(made / f"{name}.parquet", batch_size=4)
    return made


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ParquetHub]:
    """The same files on a hub."""
    made = ParquetHub(folder)
    with served(made) as address:
        for module, name in (("huggingface_hub.constants", "ENDPOINT"), ("datasets.config", "HF_ENDPOINT")):
            monkeypatch.setattr(f"{module}.{name}", address)
        url = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield made


def spec(name: Any, **options: Any) -> DataSpec:
    return DataSpec(**{"hub": str(name), "streaming": True, **options})


def read(name: Any, **options: Any) -> Any:
    return spec(name, **options).read()


def pixels(subset: Any) -> list[Any]:
    return [np.asarray(subset.images[int(row)][0]).tolist() for row in subset.index]


def test_samples_are_those_of_the_whole_data(folder: Path) -> None:
    streamed, whole = read(folder), read(folder, streaming=False)
    assert streamed.classes == whole.classes == ("a", "b", "c")
    assert streamed.test is None
    for split in ("train", "val"):
        one, other = getattr(streamed, split), getattr(whole, split)
        assert torch.equal(one.target, other.target)
        assert pixels(one) == pixels(other)
    assert streamed.train.images.encoded(30) == whole.train.images.encoded(30)
    assert streamed.train.digest() == read(folder).train.digest() != streamed.val.digest()
    assert streamed.places == whole.places


def test_cells_without_an_image_are_named(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    cells = [{"bytes": b"no image", "path": "a.jpg"}, None, {"bytes": None, "path": "b.jpg"}]
    (tmp_path / "d").mkdir()
    table = pa.table({"image": cells, "label": [0, 1, 0]}, schema=features.arrow_schema)
    parquet.write_table(table, tmp_path / "d" / "train.parquet")
    images = read(tmp_path / "d").train.images
    with pytest.raises(KDError, match=r"train\.parquet: row 0: is not a readable image"):
        images[0]
    for row in (1, 2):
        with pytest.raises(KDError, match=rf"train\.parquet: row {row} has no image"):
            images[row]


def splits(folder: Any, **options: Any) -> Any:
    values = {"streaming": {"window": 2}, "workers": 0, "augment": "none", **options}
    return ImageClassification().load(spec(folder, **values), seed=0)


def test_an_epoch_shows_each_sample_once_and_few_groups_at_a_time(folder: Path) -> None:
    train = splits(folder).train
    order = torch.randperm(35, generator=torch.Generator().manual_seed(0))
    arranged = train.arrange(order, 5)
    assert sorted(arranged.tolist()) == list(range(35))
    assert torch.equal(train.arrange(torch.arange(35), 5), torch.arange(35))
    groups = train.subset.images.rows.group_of(arranged.numpy())
    assert all(len(set(groups[start : start + 5].tolist())) <= 4 for start in range(31))
    shown = list(train.batches(arranged.split(5), epoch=0, seed=0, augment=True))
    assert torch.equal(torch.cat([batch.index for batch in shown]), arranged)
    whole = splits(folder, streaming=False).train
    for one, other in zip(shown, whole.batches(arranged.split(5), epoch=0, seed=0, augment=True), strict=True):
        assert torch.equal(one.inputs[""], other.inputs[""])
        assert torch.equal(one.target, other.target)
    limited = splits(folder, limit=9, val=None).train
    assert torch.equal(limited.subset.index, splits(folder, limit=9, streaming=False).train.subset.index)


def test_data_of_the_hub_are_fetched_by_row_groups(hub: ParquetHub, folder: Path) -> None:
    parts = read(REPOSITORY)
    before = len(hub.sent)
    assert before == 1 + 3 + 12  # the columns, a footer of each file, and the labels of each row group
    assert pixels(parts.train) == pixels(read(folder).train)
    assert len(hub.sent) == before + 10  # the images of each row group
    again = read(REPOSITORY, revision=COMMIT).train
    assert pixels(again) == pixels(parts.train)
    assert len(hub.sent) == before + 11  # the columns
    assert hub_data.data_pins(spec(REPOSITORY)) == [f"data.revision={COMMIT}"]


def test_a_connection_that_breaks(hub: ParquetHub) -> None:
    parts = read(REPOSITORY)
    hub.breaks = 2
    parts.train.images[0]
    assert hub.breaks == 0
    hub.breaks = 3
    with pytest.raises(RunInterrupted, match=rf"{COMMIT}/train-0.*: cannot be read over the network in 3 attempts"):
        parts.train.images[34]
    hub.breaks = 0
    parts.train.images[34]
    hub.files.pop("train-00001-of-00002.parquet")
    with pytest.raises(KDError, match=r"train-00001.*: the hub refuses it \("):
        parts.train.images[22]


def test_what_cannot_be_streamed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = datasets.load_dataset(str(folder), split="train")
    table.save_to_disk(tmp_path / "saved")
    with pytest.raises(KDError, match=r"streaming: .* is no folder of Parquet files\n.*leave `streaming` out"):
        read(tmp_path / "saved")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.csv").write_text("image,label\na,b")
    with pytest.raises(KDError, match=r"streaming: reads Parquet files, and .* has others\n.*refs/convert/parquet"):
        read(tmp_path / "texts")
    with pytest.raises(KDError, match=r"data\.hub: me/birds would be read over the network"):
        read(REPOSITORY, download=False)
    monkeypatch.setattr(hub_data, "resolve_revision", lambda *_, **__: None)
    with pytest.raises(KDError, match=r"data\.hub: the hub does not answer, and no copy of streamed data is kept"):
        read(REPOSITORY)
    with pytest.raises(ValueError, match="'unlabelled' adds a folder"):
        spec("a", unlabelled="b")


CONFIG = """
task: image_classification
data: {hub: HUB, streaming: {window: 2}, num_classes: 3, workers: WORKERS, augment: crop_flip}
models: {student: !call:torch.nn.Sequential [!call:torch.nn.Flatten {}, !call:torch.nn.Linear [192, 3]]}
stages:
  train:
    epochs: 2
    batch_size: 8
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.1}
checkpoint: {every_steps: 1}
"""


def config(folder: Path, hub: Any, workers: int) -> Path:
    path = folder / f"{workers}.yaml"
    path.write_text(CONFIG.replace("HUB", str(hub)).replace("WORKERS", str(workers)))
    return path


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_resumes_at_the_sample(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    whole = Experiment.load(config(tmp_path, folder, 0)).train(tmp_path / "whole")
    train_until(7, config(tmp_path, folder, workers), tmp_path / "cut", [], monkeypatch)
    for path in stream_folder().glob("*.arrow"):
        path.unlink()
    assert student_bytes(resume(tmp_path / "cut").run) == student_bytes(whole.run)


@pytest.mark.slow
def test_a_run_over_a_network_that_breaks(tmp_path: Path, folder: Path, hub: ParquetHub) -> None:
    class Breaks(Observer):
        def after_step(self, event: StepEvent) -> None:
            hub.breaks = 1_000 if event.total == 2 else 0

    whole = Experiment.load(config(tmp_path, REPOSITORY, 2)).train(tmp_path / "whole")
    assert (
        len(hub.sent) == len(set(hub.sent)) + 1
    )  # two workers fetch nothing twice; the first footer tells the columns
    for path in stream_folder().glob("*.arrow"):
        path.unlink()
    run = Experiment.load(config(tmp_path, REPOSITORY, 0))
    with watched(Breaks()), pytest.raises(KDError, match=r"cannot be read over the network.*\n.*go on with `resume"):
        run.train(tmp_path / "cut")
    hub.breaks = 0
    assert student_bytes(resume(tmp_path / "cut").run) == student_bytes(whole.run)
