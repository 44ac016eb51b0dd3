"""Text classification: one class, several, or a number for each text or pair of texts."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from kd_core.config.schema import StudentSpec
from kd_core.data.batch import ABSENT, SHARED, Batch, DatasetInfo, Splits
from kd_core.data.subset import split
from kd_core.data.summary import DataSummary, summarize
from kd_core.errors import KDError, Unverified
from kd_core.files import user_path
from kd_core.models.hub import Hub
from kd_core.repository import CONFIG
from kd_core.task import TASKS, Metrics, Task, logits_of
from kd_glue.data.encoding import Encoder, Encoding, cache_folder, load_tokenizer, make_encoder
from kd_glue.data.info import CLASS_VALUES, TextInfo
from kd_glue.data.spec import DataSpec, InputSpec, read_unlabelled
from kd_glue.data.splits import TextSplit
from kd_glue.data.texts import Texts
from kd_glue.hub.card import card_facts, pipeline_usage
from kd_glue.hub.models import TransformersHub
from kd_glue.padding import check_kind, check_padding
from kd_glue.preprocessing import TextPreprocessor

FEWEST, FAR = 16, 0.4
"""Labels, and by what share of them more must agree, for another order of a model's outputs to be the right one."""
DUMMY_LENGTH = 16
DUMMY_TOKENS = 10
"""Dummy samples have tokens below this, which every vocabulary has."""


@TASKS("text_classification", "glue")
class TextClassification(Task):
    """Inputs are mappings of ``input_ids`` and the like (B, L) int64, outputs mappings with ``logits`` (B, C).

    Targets are (B,) int64, for several classes a text (B, C) and for a regression (B, 1) float32.
    """

    name = "text_classification"
    monitor = "score"
    run_values = CLASS_VALUES
    output = "logits"
    compiles = False
    dynamic_dims = (1,)
    hubs: ClassVar[Mapping[str, Hub]] = {"hub": TransformersHub()}
    Data = DataSpec
    Input = InputSpec
    pipeline_tag = "text-classification"
    viewer = "kd_glue.results.views:TextViewer"

    def info(self, data: DataSpec) -> TextInfo:
        """The classes, as far as the task's name or the config tells them."""
        classes = data.class_names
        width = num_classes(data, classes)
        return TextInfo.of(width, classes=classes, problem_type=data.kind, task=data.name)

    def dummy_info(self, data: DataSpec, classes: int | None = None) -> TextInfo:
        """The same, with ten classes and a hundred texts where only reading would tell."""
        width = self.info(data).num_classes or classes or 10
        return TextInfo.of(width, samples=100, targets=[row % width for row in range(100)])

    def load(self, data: DataSpec, *, seed: int, inputs: Mapping[str, InputSpec] | None = None) -> Splits:
        """Read and encode the texts; ``seed`` decides which rows are held out, where no others validate.

        KDError where files or tokenizers are missing or broken, and for more tokens than a tokenizer's model takes.
        """
        parts = split(data.read(), data, seed)
        encoders = encoders_of(data, inputs)
        splits = parts.items()
        there = {
            name: encoded(texts, name, data, encoders, whole=mostly_used(texts, splits.values()))
            for name, texts in splits.items()
        }
        train = there.get("train")
        if train is None:  # a model that is there can be scored all the same
            nothing = next(iter(there.values())).texts.take(torch.empty(0, dtype=torch.int64))
            train = encoded(nothing, "train", data, encoders)
        info = TextInfo.of(
            num_classes(data, parts.classes),
            samples=train.texts.rows,
            targets=targets_of(train.texts),
            classes=parts.classes,
            problem_type=data.kind,
            task=data.name,
        )
        return Splits(train, there.get("val"), there.get("test"), info, parts)

    def describe(self, data: DataSpec, *, seed: int) -> DataSummary | None:
        """The splits of texts in files; nothing of those on the hub."""
        if data.root is None and data.options.get("files") is None:
            return None
        return summarize(split(data.read(), data, seed))

    def dummy_batch(self, data: DataSpec, size: int, *, training: bool) -> Batch:
        """Dummy tokens, a quarter of the last sample being padding."""
        info = self.info(data)
        length = min(DUMMY_LENGTH, data.max_length)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1, DUMMY_TOKENS, (size, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, length - length // 4 :] = 0
        index = torch.arange(size)
        extra = {"mask": mask, "group": index % 2} if data.name == "mnli" else {"mask": mask}
        return Batch({SHARED: {"input_ids": ids, "attention_mask": mask}}, dummy_targets(info, index), index, extra)

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """``model(input_ids=..., attention_mask=..., ...)``: what it returns by name, a lone tensor as ``logits``.

        A model that takes no token types, or no positions, gets none.
        """
        output = model(**self.taken(model, inputs))
        if isinstance(output, Tensor):
            return {"logits": output}
        if not isinstance(output, Mapping):
            raise KDError(f"{type(model).__name__} returns a {type(output).__name__}: neither logits nor a mapping")
        return {name: value for name, value in output.items() if value is not None}

    def effective_input(self, wants: InputSpec, data: DataSpec) -> InputSpec:
        """The input with all that decides which tokens a text has; the tokenizer is the one beside the student."""
        told = {"max_length": wants.max_length or data.max_length, "padding": wants.padding or "longest"}
        return wants.model_copy(update={**told, "tokenizer": ".", "revision": None})

    def preprocessing(self, data: DataSpec) -> dict[str, Any]:
        """The problem, in the words of transformers."""
        return {"problem_type": data.kind}

    def save_inputs(self, wants: InputSpec, data: DataSpec, folder: Path) -> None:
        """Write the tokenizer."""
        [encoder] = encoders_of(data, {"": wants}).values()
        tokenizer = encoder.tokenizer
        tokenizer.padding_side = encoder.side  # as in training, which the tokenizer may not name
        tokenizer.save_pretrained(folder)

    def hub_facts(self, config: Mapping[str, Any], student: Path) -> dict[str, Any]:
        """GLUE's data set and its metrics, the library that loads the student, and what it began as."""
        return card_facts(config, student)

    def hub_usage(self, student: Path, name: str) -> str:
        """A pipeline of transformers, where it can load the student."""
        return pipeline_usage(student, name)

    def hub_source(self, student: Path, name: str) -> str:
        """The key ``hub``, of students that transformers can load."""
        return f"{{hub: {name}}}" if (student / CONFIG).is_file() else ""

    def preprocessor(self, student: StudentSpec, model: nn.Module, device: torch.device) -> TextPreprocessor:
        """What makes texts, or pairs of them, into the mapping that a model takes as keywords."""
        wants = InputSpec.model_validate(student.input)
        if wants.tokenizer is None or wants.max_length is None:
            raise KDError("the student's folder does not say how texts are encoded", path="input")
        tokenizer, padding = load_tokenizer(wants.tokenizer, None), wants.padding or "longest"
        encoder = make_encoder(tokenizer, wants.max_length, padding, wants.padding_side)
        return TextPreprocessor(encoder, not_taken(model), device)

    def taken(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs without token types and positions, where the model takes none."""
        dropped = not_taken(model) & inputs.keys()
        return {name: value for name, value in inputs.items() if name not in dropped}

    def metrics(self, info: DatasetInfo) -> Metrics:
        """Those of the task of GLUE, or of the problem; ``loss`` and ``score``."""
        from kd_glue.metrics import GlueMetrics

        task = info.task if isinstance(info, TextInfo) else None
        width = info.model_parameters.get("num_classes")
        return GlueMetrics(task, info.problem_type or "single_label_classification", width, info.classes)

    def check_structure(self, model: nn.Module, wants: InputSpec, data: DataSpec) -> None:
        """KDError where a model takes less tokens than a text may have, its tokenizer, in a folder, does not fit, or
        its kind mixes padding into texts."""
        check_kind(model, wants.padding)
        tokenizer = wants.tokenizer or data.tokenizer
        if tokenizer is not None and user_path(tokenizer).is_dir():
            self.check_model(model, wants, data)
        else:
            check_length(model, wants.max_length or data.max_length)

    def check_model(self, model: nn.Module, wants: InputSpec, data: DataSpec) -> None:
        """KDError where a model has fewer embeddings than its tokenizer has tokens, takes less of them at once, or
        scores a text otherwise beside longer ones."""
        [encoder] = encoders_of(data, {"": wants}).values()
        check_fit(model, encoder)
        check_padding(model, encoder, self.call, accepted=wants.padding == "longest")

    def assumes_order(self, model: nn.Module) -> bool:
        """Whether a hub's model has outputs without names and is not known to be of the data's task."""
        return bool(getattr(model, "order_assumed", False))

    def check_order(self, output: Any, batch: Batch, info: DatasetInfo) -> None:
        """KDError where labels agree far better with another order of the outputs."""
        logits, labelled, names = logits_of(output), batch.target >= 0, info.classes
        if names is None or batch.target.ndim != 1 or int(labelled.sum()) < FEWEST or logits.shape[1:] != (len(names),):
            return
        classes, agree, best = order_by_labels(logits[labelled], batch.target[labelled])
        total = int(labelled.sum())
        if best - agree > FAR * total:
            listed = ", ".join(names[number] for number in classes)
            raise KDError(
                f"its outputs have no names, and in the data's order they agree with {agree} of {total} labels, in the"
                f" order {listed} with {best}",
                hint=f"`labels: [{listed}]`",
            )


def order_by_labels(logits: Tensor, target: Tensor) -> tuple[list[int], int, int]:
    """For each output the class whose labels it agrees with most, with the texts (of N) in which outputs and labels
    agree in the order as it is, and in that one. ``logits`` (N, C), ``target`` (N,)."""
    from scipy.optimize import linear_sum_assignment

    width = logits.shape[1]
    counts = np.zeros((width, width), np.int64)
    np.add.at(counts, (logits.argmax(1).cpu().numpy(), target.cpu().numpy()), 1)
    outputs, classes = linear_sum_assignment(-counts)
    return classes.tolist(), int(counts.trace()), int(counts[outputs, classes].sum())


def check_length(model: nn.Module, length: int) -> None:
    """KDError where a model takes less tokens at once than a text may have."""
    most = positions_of(model)
    if most is not None and length > most:
        raise KDError(
            f"the model takes at most {most} tokens, and max_length is {length}", hint=f"input.max_length: {most}"
        )


def num_classes(data: DataSpec, classes: tuple[str, ...] | None) -> int | None:
    """The width of a model's output, as far as it is known."""
    return 1 if data.kind == "regression" else None if classes is None else len(classes)


def targets_of(texts: Texts) -> Tensor | None:
    """(rows,) the class of each row that is among ``texts``; None where rows have no single class."""
    if texts.target.ndim != 1:
        return None
    targets = torch.full((texts.rows,), ABSENT)
    targets[torch.from_numpy(texts.index)] = torch.from_numpy(texts.target)
    return targets


def dummy_targets(info: TextInfo, index: Tensor) -> Tensor:
    """Classes in turn, each sample with one of several, or numbers; Unverified where only reading tells how many."""
    if info.problem_type == "regression":
        return index[:, None].float()
    if info.problem_type == "single_label_classification":
        return index % (info.num_classes or 1)
    if info.num_classes is None:
        raise Unverified("the classes are not known before the texts are read", path="data.labels")
    return nn.functional.one_hot(index % info.num_classes, info.num_classes).float()


# -- how texts are encoded


def unlabelled_splits(data: DataSpec, inputs: Mapping[str, InputSpec] | None = None) -> dict[str, TextSplit]:
    """The splits without labels by name, as far as they are there: ``test``, MNLI's two, ``ax``."""
    encoders = encoders_of(data, inputs)
    return {name: encoded(texts, name, data, encoders) for name, texts in read_unlabelled(data).items()}


def encoded(
    texts: Texts, name: str, data: DataSpec, encoders: Mapping[str, Encoder], *, whole: bool = False
) -> TextSplit:
    """Texts as each model takes them: one encoding for all models where it is the same.

    ``whole``: the data set's other rows are encoded, too, for the splits that have them.
    """
    encodings: dict[str, Encoding] = {}
    folder = cache_folder(data.cache)
    rows = np.arange(texts.rows) if whole else texts.index
    for encoder in encoders.values():
        if encoder.key not in encodings:
            encoding = encoder.encode(
                texts.columns if whole else texts.chosen,
                folder,
                lambda row: f"data: row {int(rows[row]) + 1} of {name}",
            )
            encodings[encoder.key] = replace(encoding, chosen=texts.index) if whole else encoding
    if len(encodings) == 1:
        return TextSplit(texts, {SHARED: next(iter(encodings.values()))})
    return TextSplit(texts, {model: encodings[encoder.key] for model, encoder in encoders.items()})


def mostly_used(texts: Texts, splits: Collection[Texts]) -> bool:
    """Whether splits have at least half of the rows that ``texts`` are of: then these are worth encoding at once."""
    return 2 * sum(len(split) for split in splits if split.columns is texts.columns) >= texts.rows


def encoders_of(data: DataSpec, inputs: Mapping[str, InputSpec] | None) -> dict[str, Encoder]:
    """How texts are encoded for each model: by its own tokenizer, else by that of the data."""
    read: dict[tuple[str | int | None, ...], Encoder] = {}
    encoders = {}
    for name, wants in (inputs or {SHARED: InputSpec()}).items():
        where = f"models.{name}.input" if name else "data"
        tokenizer, revision = wants.tokenizer or data.tokenizer, wants.revision if wants.tokenizer else None
        length = wants.max_length or data.max_length
        if tokenizer is None:
            raise KDError(
                "is missing", hint=f"{where}.tokenizer: a name on the hub, or a folder", path=f"{where}.tokenizer"
            )
        key = (tokenizer, revision, length, padding := wants.padding or "longest", wants.padding_side)
        if key not in read:
            try:
                read[key] = make_encoder(load_tokenizer(tokenizer, revision), length, padding, wants.padding_side)
            except KDError as error:
                raise error.at(where, "tokenizer") from error
        encoders[name] = read[key]
        if length > (most := encoders[name].tokenizer.model_max_length):
            section = where if wants.max_length else "data"
            raise KDError(
                f"{length} is more than the {most} tokens that {tokenizer} is made for",
                hint=f"{where}.max_length: {most}",
                path=f"{section}.max_length",
            )
    return encoders


# -- what a model takes


NOT_TAKEN: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()


def not_taken(model: nn.Module) -> frozenset[str]:
    """The optional inputs that a model does not take, of token types and positions.

    Its forward function does not name them, though it names others; it has an embedding for one type only, so that a
    second one would be none of its own; or it numbers positions by itself from another number than 0, as RoBERTa does.
    """
    if model not in NOT_TAKEN:
        names = inspect.signature(type(model).forward).parameters
        named = "input_ids" in names
        missing = {name for name in ("token_type_ids", "position_ids") if named and name not in names}
        for name, module in model.named_modules():
            if name.endswith("token_type_embeddings") and getattr(module, "num_embeddings", 2) < 2:
                missing.add("token_type_ids")
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
                missing.add("position_ids")
        NOT_TAKEN[model] = frozenset(missing if named else missing | {"position_ids"})
    return NOT_TAKEN[model]


def check_fit(model: nn.Module, encoder: Encoder) -> None:
    """KDError where a model cannot take all that its tokenizer makes."""
    embeds, tokens = embeddings_of(model), max(encoder.tokenizer.get_vocab().values()) + 1
    if embeds is not None and tokens > embeds:
        raise KDError(
            f"its tokenizer {encoder.tokenizer.name_or_path} has {tokens} tokens, and the model embeds {embeds}",
            hint="input.tokenizer: the one that the model was trained with",
        )
    check_length(model, encoder.max_length)


def embeddings_of(model: nn.Module) -> int | None:
    """The tokens that a model embeds, None where it does not tell."""
    try:
        embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    except NotImplementedError:
        return None
    return getattr(embeddings, "num_embeddings", None)


def positions_of(model: nn.Module) -> int | None:
    """The most tokens that a model takes at once, None where it does not tell.

    Tables of positions with a place for padding (RoBERTa's) begin after it.
    """
    tables = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    told = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return min([*tables, *([told] if isinstance(told, int) and told > 0 else [])], default=None)
