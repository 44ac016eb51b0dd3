"""What the verbs share that draw a model's predictions: the images that are named, names of pictures, the teacher."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import count
from pathlib import Path

from torch import nn

from kd_core.config import Builder
from kd_core.data.batch import DatasetInfo, Split, Splits
from kd_core.data.images import image_files, passed_over
from kd_core.data.sources import SPLITS
from kd_core.device.runtime import Runtime
from kd_core.download import folder_of, place
from kd_core.errors import KDError, did_you_mean
from kd_core.evaluation import LoadedStudent
from kd_core.models.factory import ModelSource, missing_files
from kd_core.models.registry import BACKBONE_WEIGHTS, find_card
from kd_core.notes import Note
from kd_core.pictures import saved_by
from kd_core.plan.plan import Plan
from kd_core.runs.progress import Reporter

TEACHER = "teacher"


@dataclass(frozen=True)
class FailedImage:
    """One image that could not be read, or that a model cannot take, and why.

    ``source`` is its file, None where it is made.
    """

    name: str
    source: Path | None
    error: str


def named_images(paths: Sequence[Path]) -> tuple[list[tuple[str, Path]], list[Note]]:
    """Files, and the images in folders, each with its name: in a folder its path below that. None is opened.

    Also what is to say of files in those folders that are passed over. KDError for a folder without an image.
    """
    files: list[tuple[str, Path]] = []
    notes: list[Note] = []
    for path in paths:
        if not path.is_dir():
            files.append((path.stem, path))
            continue
        inside, others = image_files(path)
        notes += passed_over(others, path)
        if not inside:
            raise KDError(f"{path}: contains no image")
        files += [(file.relative_to(path).with_suffix("").as_posix(), file) for file in inside]
    return files, notes


def free_names(
    names: Sequence[str], pictures: Callable[[str], Sequence[Path]], reserved: Collection[Path], made_by: str
) -> list[str]:
    """A name for each image, whose ``pictures`` are the files to write.

    They replace earlier ones of the command ``made_by``, and neither ``reserved`` nor other files.
    """
    taken = {str(path.resolve()).casefold() for path in reserved}
    chosen = []
    for name in names:
        stem = name.replace("/", "_")
        for number in count(1):
            candidate = stem if number == 1 else f"{stem}-{number}"
            files = pictures(candidate)
            keys = {str(path.resolve()).casefold() for path in files}
            if not keys & taken and all(saved_by(path, made_by) for path in files if path.exists()):
                break
        taken |= keys
        chosen.append(candidate)
    return chosen


def check_split_name(name: str) -> None:
    """KDError where no data have a split of that name."""
    if name not in SPLITS:
        raise KDError(f"the data have no split {name!r}", hint=did_you_mean(name, SPLITS))


def split_of(splits: Splits, name: str) -> Split:
    """The split of that name; KDError where the data have none."""
    there = splits.items()
    if name not in there:
        raise KDError(f"the data have no split {name!r}", hint=f"--split {' or '.join(there)}")
    return there[name]


def teacher_of(student: LoadedStudent, show: bool | None, info: DatasetInfo, runtime: Runtime) -> nn.Module | None:
    """The config's teacher, as ``show``; KDError where it is asked for and cannot be had.

    With ``show`` True it is fetched where need be; None has it where its weights are on this machine.
    """
    plan = student.plan
    spec = plan.models.get(TEACHER)
    if show is False or (show is None and spec is None):
        return None
    if spec is None:
        raise KDError("the config has no model 'teacher'", hint="leave --teacher out")
    reason = unknown_weights(plan)
    problem = None if reason is None else KDError(reason)
    if problem is None and show is None and (absent := absent_weights(plan)) is not None:
        problem = KDError(absent, hint="--teacher has it all the same")
    if problem is not None and show:
        raise problem.at("models", TEACHER)
    if problem is not None:
        Reporter().info(f"without the teacher: {problem}")
        return None
    values = Builder(student.policy, info.run_values)
    source = ModelSource(values, f"models.{TEACHER}", plan.dataset, info, Reporter().note, finished=True)
    return runtime.place(source.make(TEACHER, spec))


def unknown_weights(plan: Plan) -> str | None:
    """Why a config does not tell its teacher's weights; None where it does."""
    spec = plan.models[TEACHER]
    trained = (pattern.split(".")[0] for stage in plan.stages for pattern in stage.spec.train or ())
    if spec.trainable or any(fnmatch(TEACHER, pattern) for pattern in trained):
        return "it is trained by the run, which saves only the student"
    if spec.weights is None and (spec.source == "arch" or "weights" in spec.model_fields_set):
        return "it has random weights"
    return None


def absent_weights(plan: Plan) -> str | None:
    """Why a teacher's weights cannot be read from this machine alone; None where they can."""
    spec = plan.models[TEACHER]
    if problems := missing_files(TEACHER, spec):
        return problems[0].message
    url, folder, name = None, None, ""
    if "://" in str(spec.weights):
        url = str(spec.weights)
        folder = folder_of(url)
    elif spec.weights in (None, "auto") and spec.zoo is not None:
        card = find_card(spec.zoo, plan.dataset)[1]
        url, name = card.url, card.file
    if url is not None and not place(url, folder, name).is_file():
        return f"{url} was not downloaded yet"
    downloads = any(spec.extra.get(key) for key in BACKBONE_WEIGHTS) or (spec.call is not None and spec.weights is None)
    return "what builds it may download weights" if downloads else None
