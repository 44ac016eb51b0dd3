"""Sources with options of their own: registered outside a task package, named in a config, checked like any key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pydantic import Field

from kd_core.data.sources import PLACE, Parts, Source, check_source
from kd_core.errors import ConfigError, KDError
from kd_core.experiment import Experiment
from kd_core.registry import Registry
from kd_vision.cli import main
from kd_vision.data.labelled_subset import LabelledSubset, labelled_images
from kd_vision.data.sources import SOURCES, ImageSource
from kd_vision.data.spec import DataSpec

CONFIG = """
task: image_classification
data:
  name: npz_images
  root: {root}
  column: pictures
models:
  student: {{arch: cnn, width: 4, depth: 1, in_channels: 3}}
stages:
  train:
    epochs: 1
    batch_size: 8
    losses: {{ce: {{loss: cross_entropy}}}}
    optimizer: !call:torch.optim.SGD {{lr: 0.1}}
"""


def read_npz(
    root: Path, *, column: str, labels: str = "labels", scale: Annotated[float, Field(gt=0)] = 1.0
) -> Parts[LabelledSubset]:
    """Images and labels of one archive, in the arrays that the options name."""
    with np.load(root / "images.npz") as arrays:
        for option, name in (("column", column), ("labels", labels)):
            if name not in arrays:
                raise KDError(f"there is no array {name!r}", hint=f"there are {', '.join(arrays)}", path=option)
        pixels = torch.from_numpy(arrays[column] * scale).to(torch.uint8)
        return Parts(labelled_images(pixels, torch.from_numpy(arrays[labels])), None, None, ("ant", "bee"))


def check_npz(*, column: str, labels: str, scale: float) -> None:
    if column == labels:
        raise KDError("holds the images and cannot hold the labels, too", path="labels")


@pytest.fixture
def npz() -> Iterator[None]:
    source = ImageSource("images in an archive", read_npz, check=check_npz, num_classes=2, shape=(3, 8, 8))
    SOURCES("npz_images")(source)
    yield
    del SOURCES._items["npz_images"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", pictures=pixels, labels=np.arange(40) % 2)
    return tmp_path


def config(root: Path, old: str = "", new: str = "") -> Path:
    path = root / "config.yaml"
    path.write_text(CONFIG.format(root=root).replace(old, new) if old else CONFIG.format(root=root))
    return path


def problems(root: Path, old: str, new: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Experiment.load(config(root, old, new))
    return [str(problem).replace(f"{root}/", "") for problem in caught.value.problems]


@dataclass(frozen=True, eq=False)
class Scaled(Source[Any]):
    """A source that may take one thing more."""

    place: ClassVar[tuple[str, ...]] = (*PLACE, "scale")


def test_a_task_may_give_its_sources_more_than_a_place(tmp_path: Path) -> None:
    def read(root: Path, scale: float, *, column: str = "a") -> Parts[Any]:
        return Parts(None, None, None, (str(root), str(scale), column))

    source = Scaled("a source", read)
    check_source("scaled", source)
    assert source.takes == ["root", "scale"]
    parts = source.parts(tmp_path, download=False, scale=2.0, options={"column": "b"})
    assert parts.classes == (str(tmp_path), "2.0", "b")
    with pytest.raises(KDError, match="'scale' is neither 'root' nor 'download' nor, being keyword-only, an option"):
        check_source("plain", Source("a source", read))


def test_parts_of_some_names_only() -> None:
    parts = Parts(
        *(labelled_images(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.zeros(2).long()) for _ in range(3)), None
    )
    assert [*parts.only({"val"}).items()] == ["val"]
    assert [*parts.only(["train", "test"]).items()] == ["train", "test"]


@pytest.mark.usefixtures("npz")
def test_a_source_with_an_option_trains(root: Path) -> None:
    result = Experiment.load(config(root)).train(root / "run")
    assert result.split == "validation"
    log = (root / "run" / "log.txt").read_text()
    assert "data: train: 36 of 40 training samples; 4 more are held out to validate; 18 of each class" in log


@pytest.mark.usefixtures("npz")
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "column: pictures",
            "colum: pictures",
            "config.yaml:6:3: data.colum: unknown key 'colum'\n    hint: did you mean 'column'?",
        ),
        ("column: pictures", "column: 3", "config.yaml:6:11: data.column: must be a string, not 3"),
        (
            "column: pictures",
            "column: pictures\n  scale: 0",
            "config.yaml:7:10: data.scale: must be greater than 0, not 0",
        ),
        (
            "column: pictures",
            "column: labels",
            "config.yaml:6:3: data.labels: holds the images and cannot hold the labels, too",
        ),
        (
            "column: pictures",
            "column: pictures\n  limits: 3",
            "config.yaml:7:3: data.limits: unknown key 'limits'\n    hint: did you mean 'limit'?",
        ),
    ],
)
def test_an_option_is_checked_like_any_key(root: Path, old: str, new: str, says: str) -> None:
    (problem,) = problems(root, old, new)
    if "cannot hold the labels" in says:
        assert problem.endswith(says.partition(": ")[2])
    else:
        assert problem == says


@pytest.mark.usefixtures("npz")
def test_a_required_option_that_is_missing_is_named(root: Path) -> None:
    (problem,) = problems(root, "  column: pictures\n", "")
    assert "data" in problem
    assert "'column'" in problem


@pytest.mark.usefixtures("npz")
def test_what_reading_finds_wrong_with_an_option_has_its_place(root: Path) -> None:
    experiment = Experiment.load(config(root, "pictures", "photos"))
    with pytest.raises(ConfigError) as caught:
        experiment.train(root / "run")
    says = "config.yaml:6:11: data.column: there is no array 'photos'\n    hint: there are pictures, labels"
    assert str(caught.value).replace(f"{root}/", "") == says


@pytest.mark.usefixtures("npz")
def test_options_are_listed() -> None:
    answer = CliRunner().invoke(main, ["list", "data", "--json"])
    listed = json.loads(answer.stdout)["data"]
    assert listed["npz_images"] == {
        "signature": "(column: str, labels: str = 'labels', scale: float > 0 = 1.0)",
        "summary": "images in an archive",
        "description": "images in an archive",
        "parameters": {
            "column": {"type": "str"},
            "labels": {"type": "str", "default": "'labels'"},
            "scale": {"type": "float > 0", "default": "1.0"},
        },
    }
    assert listed["digits"] == {
        "signature": "",
        "summary": "1,797 handwritten digits of 8x8 pixels, 10 classes; comes with scikit-learn",
        "description": "1,797 handwritten digits of 8x8 pixels, 10 classes; comes with scikit-learn",
        "parameters": {},
    }


@pytest.mark.usefixtures("npz")
def test_a_spec_has_the_options_of_its_source_alone() -> None:
    data = DataSpec(name="npz_images", column="a")
    assert data.options == {"column": "a", "labels": "labels", "scale": 1.0}
    assert data.model_copy(update={"limit": 3}).options == data.options
    assert DataSpec(name="digits").options == {}
    assert type(data) is type(DataSpec(name="npz_images", column="b"))
    assert repr(data).startswith("DataSpec(name='npz_images'")
    assert isinstance(data, DataSpec)


def test_an_unknown_data_set_is_the_only_problem(root: Path) -> None:
    (problem,) = problems(root, "npz_images", "npz_image")  # nothing is registered here
    assert problem.startswith("config.yaml:4:9: data.name: there is no data set 'npz_image'")


def test_a_data_set_of_ones_own_needs_no_name() -> None:
    call: Any = object()
    data = DataSpec(dataset={"train": call})
    assert data.name is None
    assert data.options == {"dataset": {"train": call}}


SPEC_KEYS: Registry[Any] = Registry("data set", "no.plugins", check_source)


def positional(folder: Path) -> Parts[Any]:
    raise AssertionError


def hidden(**options: Any) -> Parts[Any]:
    raise AssertionError


def untyped(*, column) -> Parts[Any]:  # type: ignore[no-untyped-def]
    raise AssertionError


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (positional, "'folder' is neither 'root' nor 'download' nor, being keyword-only, an option"),
        (hidden, r"\*\*options: Any hides its options: name them"),
        (untyped, "the option 'column' has no annotation that can be read"),
    ],
)
def test_a_source_that_no_config_could_name_is_refused(read: Any, says: str) -> None:
    with pytest.raises(KDError, match=f"data set 'x', .*{read.__name__}.*cannot be registered: {says}"):
        SPEC_KEYS("x")(Source("x", read))


def test_an_option_with_the_name_of_a_key_is_refused() -> None:
    def read(*, limit: int) -> Parts[Any]:
        raise AssertionError

    SOURCES("clash")(ImageSource("x", read))
    try:
        with pytest.raises(KDError, match=r"data set 'clash', .*cannot have an option 'limit'"):
            DataSpec(name="clash")
    finally:
        del SOURCES._items["clash"]
