"""A whole file of torchdistill -> a draft of a config."""

from __future__ import annotations

from typing import Any

from kd_core.errors import ConfigError
from kd_core.migrate import data as datasets
from kd_core.migrate.criteria import translate_criterion
from kd_core.migrate.draft import Draft, Options
from kd_core.migrate.methods import as_method
from kd_core.migrate.mid_level import finish_review
from kd_core.migrate.models import translate_model
from kd_core.migrate.source import Node, Source
from kd_core.migrate.terms import Terms
from kd_core.migrate.training import batches, optimizer, process_batch, read_model, scheduler, trained
from kd_core.migrate.wires import Side, prepare

IGNORED = frozenset({"log_freq", "dependencies", "private", "test"})
"""Keys of which nothing that is trained depends."""
RESET: dict[str, Any] = {
    "scheduler": None,
    "train": None,
    "freeze": [],
    "views": None,
    "accumulation_steps": 1,
    "drop_last": False,
    "max_grad_norm": None,
}
"""What takes away a key that a stage would inherit from the one before it."""


def convert(file: str, options: Options | None = None) -> Draft:
    """The draft of a config for ``file``; ConfigError with everything in it that cannot be translated."""
    source = Source(file)
    root = source.root()
    draft = Draft(source, options or Options(), _task(root), {"task": ""})
    draft.config["task"] = draft.task
    _Conversion(draft, root).run()
    if source.problems:
        raise ConfigError(sorted(source.problems, key=lambda problem: problem.mark.line if problem.mark else 0))
    return draft


def _task(root: Node) -> str:
    """The task, by the data sets and how they are collated."""
    entries = root["datasets"]
    if entries.call() is not None or any("raw_data_kwargs" in entries[name] for name in entries.names()):
        return "text_classification"
    stages = _stages(root["train"]) or {"": root["test"]}
    collates = {
        stage[loader]["collate_fn"].text()
        for stage in stages.values()
        for loader in ("train_data_loader", "val_data_loader", "test_data_loader")
    }
    if any("seg" in collate for collate in collates):
        return "semantic_segmentation"
    return "object_detection" if "coco_collate_fn" in collates else "image_classification"


def _stages(train: Node) -> dict[str, Node]:
    """The stages by name, in their order."""
    names = sorted(
        (name for name in train.names() if name.removeprefix("stage").isdigit()), key=lambda name: int(name[5:])
    )
    if names:
        return {name: train[name] for name in names}
    return {"": train} if train else {}


class _Conversion:
    """The parts of a conversion that read one another."""

    def __init__(self, draft: Draft, root: Node) -> None:
        self.draft, self.root = draft, root
        self.models = root["models"]
        self.student_node = self.models["student_model"] if "student_model" in self.models else self.models["model"]
        self.teacher_node = self.models["teacher_model"]
        self.loader = root["train"]["train_data_loader"]
        self.sides = {name: Side(draft, name) for name in ("student", "teacher")}
        self.num_classes = int(self.student_node["kwargs"]["num_classes"].number(0))

    def run(self) -> None:
        """Fill the draft."""
        stages = _stages(self.root["train"])
        problem = self._data(stages)
        self.sides["student"].extra["problem"] = problem
        self._models()
        config = self.draft.config
        config["adapters"] = {}
        config["stages"] = {}
        before: dict[str, Any] = {}
        for name, node in stages.items():
            shown = name or ("distill" if self.teacher_node else "train")
            stage = self._stage(shown, node)
            config["stages"][shown] = _without_inherited(stage, before)
            before = {**before, **stage}
        if len(stages) == 1:
            as_method(self.draft, next(iter(config["stages"])))
        if not config["adapters"]:
            del config["adapters"]
        self.root.unread(IGNORED)

    def _data(self, stages: dict[str, Node]) -> str:
        """``data``; the kind of problem of texts."""
        if self.draft.task == "text_classification":
            return datasets.translate_texts(self.draft, self.root)
        splits = datasets.splits_of(self.draft, self.root)
        first = next(iter(stages.values()), None)
        ids = [first[f"{role}_data_loader"]["dataset_id"].text() if first else "" for role in ("train", "val")]
        ids.append(self.root["test"]["test_data_loader"]["dataset_id"].text())
        train, val, test = (splits.get(name) for name in ids)
        if self.draft.task == "image_classification":
            datasets.translate_images(self.draft, train, val, test, self.num_classes)
        elif self.draft.task == "semantic_segmentation":
            datasets.translate_scenes(self.draft, train, val or test)
        else:
            datasets.translate_detection(self.draft, self.root, train, val or test)
        return ""

    def _models(self) -> None:
        models = self.draft.config["models"] = {}
        models["student"] = translate_model(self.draft, self.student_node, self.sides["student"])
        if padding := self.draft.config.pop("_padding", None):
            models["student"]["input"] = {"padding": padding}
        if not self.teacher_node:
            return
        models["teacher"] = translate_model(self.draft, self.teacher_node, self.sides["teacher"])
        self._teacher()

    def _teacher(self) -> None:
        """What the teacher does in its forward pass."""
        models = self.draft.config["models"]
        by_batch = self.draft.task in ("image_classification", "semantic_segmentation")
        if by_batch and self.draft.differ("teacher-in-training-mode", "models", "teacher"):
            models["teacher"]["mode"] = "train"
        if self.sides["teacher"].arch == "inception_v3":
            self.draft.differ("input-not-rescaled", "models", "teacher")

    def _stage(self, name: str, node: Node) -> dict[str, Any]:
        """One stage, with every key that it has."""
        draft = self.draft
        student = self._side(name, "student", node["student"] if "student" in node else node["model"])
        teacher = self._side(name, "teacher", node["teacher"])
        self.loader = node["train_data_loader"] or self.loader
        stage: dict[str, Any] = {"epochs": int(node["num_epochs"].number(1)), **batches(draft, node, self.loader)}
        if draft.options.processes == 1 and "Distributed" in str(
            node["student"]["wrapper"].plain() or node["model"]["wrapper"].plain()
        ):
            draft.differ("per-process")
        labels = draft.task != "text_classification"
        batch = process_batch(self.loader)
        terms = Terms(draft, name, student, teacher, batch, labels, self.num_classes, "drop_last" not in stage)
        translate_criterion(terms, node["criterion"])
        finish_review(terms, node["criterion"])
        if terms.views:
            stage["views"] = terms.views
        model = node["student"] if "student" in node else node["model"]
        stage |= trained(draft, name, model, node["teacher"], (student, teacher))
        stage["losses"] = terms.losses
        node.skip("num_epochs")
        if node["optimizer"]:
            stage |= optimizer(draft, name, node["optimizer"], student)
        rates = scheduler(draft, name, node["scheduler"], stage.get("accumulation_steps", 1))
        return stage if rates is None else {**stage, "scheduler": rates}

    def _side(self, stage: str, name: str, node: Node) -> Side:
        """The student or the teacher as this stage wraps it."""
        known = self.sides[name]
        problem = {key: known.extra[key] for key in ("problem",) if key in known.extra}
        side = Side(self.draft, name, known.arch, stage, known.renamed, extra=problem)
        read_model(self.draft, node, side)
        prepare(side, node)
        return side


def _without_inherited(stage: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The keys of a stage that it does not inherit, and those that take away what it would."""
    left = {key: value for key, value in stage.items() if key == "losses" or key not in before or before[key] != value}
    taken = {key: value for key, value in RESET.items() if before.get(key) not in (None, value) and key not in stage}
    return {**left, **taken}
