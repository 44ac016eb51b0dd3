"""Models of transformers, by their name on the hub or from a folder: ``hub:`` in a config."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from kd_core.config.schema import ModelSpec
from kd_core.data.hub_data import data_pins
from kd_core.errors import KDError
from kd_core.models.hub import Hub, HubModelRequest
from kd_core.models.labels import (
    check_count,
    classifier_of,
    in_base,
    label_mismatch_error,
    names_of,
    order_of,
    permute,
    reinitialize,
)
from kd_core.models.reports import pretrained, readable, unfit, unfit_error
from kd_core.models.trained_on import only_numbers
from kd_core.notes import Note
from kd_core.repository import COMMIT, commit_of, first_line, model_folder
from kd_glue.hub.layers import keep_layers

PositiveInt = Annotated[int, Field(ge=1)]
DropoutRate = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Attention = Literal["eager", "sdpa", "flash_attention_2", "flex_attention"]

OTHER_HEADS = (
    "cls.",
    "lm_head.",
    "lm_predictions.",
    "mask_predictions.",
    "generator_predictions.",
    "generator_lm_head.",
    "discriminator_predictions.",
    "predictions.",
    "sop_classifier.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "mlm_head.",
    "lm_loss.",
    "qa_outputs.",
    "decoder.",
    "head.",
)
"""Prefixes of weights that checkpoints of other objectives (masked words, answers) hold beside the encoder."""
WIDTHS = {"intermediate_size": ("hidden_dim", "n_inner", "d_inner")}
"""Other names of a value in some architectures' configs, where transformers itself does not translate them."""


class TransformersHub(Hub):
    """Any model that ``AutoModelForSequenceClassification`` makes."""

    def build(
        self,
        request: HubModelRequest,
        *,
        revision: str | None = None,
        layers: list[int] | None = None,
        attn_implementation: Attention | None = None,
        labels: Names | None = None,
        num_hidden_layers: PositiveInt | None = None,
        hidden_size: PositiveInt | None = None,
        num_attention_heads: PositiveInt | None = None,
        intermediate_size: PositiveInt | None = None,
        dropout: DropoutRate | None = None,
    ) -> nn.Module:
        """The model in float32, its outputs in the order of the data's classes.

        ``layers`` keeps some of its layers; ``labels`` names its outputs, where its config does not; the sizes make
        another architecture, which can have random weights only; ``dropout`` is that of all its parts. KDError where
        there is no such model, or its weights or classes do not fit.
        """
        counts = {"num_hidden_layers": num_hidden_layers, "num_attention_heads": num_attention_heads}
        sizes = {**counts, "hidden_size": hidden_size, "intermediate_size": intermediate_size}
        check_sizes(request, sizes)
        load = request.weights and not request.offline
        folder = model_folder(request.name, revision, "weights" if load else "structure", offline=request.offline)
        config = read_config(folder, request.name)
        check_count(labels, config.num_labels)
        head = head_mapping(request, config, labels) if request.weights else HeadMapping()
        adapt(config, request, sizes, dropout)
        attention = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        with readable(request.name):
            arguments = (folder, config, request, head, attention)
            model: Any = from_weights(*arguments) if load else from_config(config, attention)
        if layers is not None:
            keep_layers(model, layers, request.name)
        expose(model, attn_implementation)
        if request.offline:
            run_without_values(model)
        model.config.name_or_path = request.name
        return model

    def input(self, spec: ModelSpec) -> dict[str, Any]:
        """The tokenizer that belongs to the model, in the same version."""
        if "tokenizer" in spec.input:
            return {}
        revision = spec.extra.get("revision")
        return {"tokenizer": spec.hub, **({} if revision is None else {"revision": revision})}

    def revisions(self, models: Mapping[str, ModelSpec], data: Any) -> list[str]:
        """The commits of models, tokenizers and data that are named on the hub, as overrides of a config.

        What neither the hub nor the cache knows is left out: reading it says why.
        """
        commits = {}
        for name, spec in models.items():
            commits[f"models.{name}.revision"] = commit_of(spec.hub, spec.extra.get("revision"))
            tokenizer = spec.input.get("tokenizer")
            commits[f"models.{name}.input.revision"] = commit_of(tokenizer, spec.input.get("revision"))
            if spec.hub is tokenizer is None and (commit := commit_of(data.tokenizer, None)):
                commits[f"models.{name}.input.tokenizer"] = data.tokenizer  # it has no revision of its own
                commits[f"models.{name}.input.revision"] = commit
        revision = data.options.get("revision")
        if "hub" in data.options:
            return [*(f"{key}={commit}" for key, commit in commits.items() if commit is not None), *data_pins(data)]
        if data.root is None and "revision" in data.options and not COMMIT.fullmatch(revision or ""):
            from kd_glue.data.hub_data import resolve_data_revision

            commits["data.revision"] = resolve_data_revision(revision)
        return [f"{key}={commit}" for key, commit in commits.items() if commit is not None]

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the config: with weights and tokenizer beside it, transformers loads that folder as it is."""
        config: Any = model.config
        config.architectures, config.output_attentions = [type(model).__name__], False
        config.save_pretrained(folder)


def read_config(folder: Path, name: str) -> Any:
    """The config in a model's folder; KDError where transformers does not know it, or has no classifier of it."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig

    with readable(name):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise KDError(f"{name} is a {config.model_type}, of which transformers has no model that classifies texts")
    return config


# -- the classes


@dataclass(frozen=True)
class HeadMapping:
    """How a classifier's rows map to the data's classes: ``rows`` in another order, or all of them random again.

    ``names`` are the model's own classes, where it or the config names them, ``task`` the task of GLUE for which it
    says that it was trained.
    """

    rows: list[int] | None = None
    reinitialize: bool = False
    names: tuple[str, ...] | None = None
    task: str | None = None

    def note(self, classes: tuple[str, ...] | None, trained: bool) -> Note | None:
        """What a run says of it, given whether the classifier's weights are ``trained`` ones."""
        if self.reinitialize and self.names is not None and classes is not None:
            told = f"new head: it was trained for the classes {', '.join(self.names)}, which are not those of the data"
            if len(self.names) != len(classes):
                return Note(told)
            return Note.warning(
                f"{told}, and its classifier begins at random; if they are the same by other names,"
                " `labels: [...]` gives the data's names in the order of its outputs"
            )
        if not trained:
            return Note("new head: the classifier begins at random")
        if classes is None:
            return None
        if self.names is None:
            told = ", ".join(f"output {number} is {name!r}" for number, name in enumerate(classes))
            if self.assumes_order(classes, trained):
                return Note.warning(f"order assumed: its outputs have no names, {told}; `labels: [...]` names them")
            known = "by number" if only_numbers(classes) else f"of {self.task}, for which it was trained"
            return Note(f"classes {known}: {told}")
        told = ", ".join(f"output {row} is {name!r}" for row, name in zip(self.rows or (), classes, strict=True))
        return Note(f"classes by name: {told}")

    def assumes_order(self, classes: tuple[str, ...] | None, trained: bool) -> bool:
        """Whether nothing but their order says which output is which class."""
        known = not trained or classes is None or self.names is not None or self.task is not None
        return not known and not only_numbers(classes or ())


def head_mapping(request: HubModelRequest, config: Any, labels: list[str] | None) -> HeadMapping:
    """How a model's classes become the data's; KDError where they cannot, and a new classifier is not allowed."""
    model_classes, classes = names_of(config) if labels is None else tuple(labels), request.info.classes
    if classes is None or model_classes is None:
        return HeadMapping(names=model_classes, task=task_of(request, config))
    rows = order_of(model_classes, classes)
    if rows is None and (labels is not None or not request.new_head):
        raise label_mismatch_error(request.name, model_classes, classes)
    return HeadMapping(rows, rows is None, model_classes)


def task_of(request: HubModelRequest, config: Any) -> str | None:
    """The task of GLUE that the data are, where a model's config says that it was trained for it."""
    task, trained = getattr(request.info, "task", None), getattr(config, "finetuning_task", None)
    same = isinstance(task, str) and isinstance(trained, str) and trained.lower().replace("-", "") == task
    return task if same else None


# -- the architecture


def check_sizes(request: HubModelRequest, sizes: Mapping[str, int | None]) -> None:
    """KDError for sizes that trained weights cannot have."""
    keys = [key for key, value in sizes.items() if value is not None]
    if request.weights and keys:
        raise KDError(
            f"the weights of {request.name} have the sizes they were trained with",
            hint="`weights: null` has random ones; `layers: [0, 2, ...]` keeps layers with their weights",
            path=keys[0],
        )


def adapt(config: Any, request: HubModelRequest, sizes: Mapping[str, int | None], dropout: float | None) -> None:
    """Write into a config what the data are, what was asked for, and what a classifier needs."""
    info = request.info
    for key, value in sizes.items():
        if value is not None:
            set_size(config, key, value, request.name)
    if dropout is not None:
        for key, value in vars(config).items():
            if ("dropout" in key or key.endswith("pdrop")) and isinstance(value, float):
                setattr(config, key, dropout)
    if info.classes is not None:
        config.id2label = dict(enumerate(info.classes))
        config.label2id = {name: index for index, name in enumerate(info.classes)}
    elif "num_classes" in info.model_parameters:
        config.num_labels = info.model_parameters["num_classes"]
    if info.problem_type is not None:
        config.problem_type = info.problem_type
    if getattr(config, "pad_token_id", None) is None and isinstance(getattr(config, "eos_token_id", None), int):
        config.pad_token_id = config.eos_token_id  # where a text ends must be known in a batch, as for GPT-2
    config.return_dict, config.use_cache = True, False


def set_size(config: Any, key: str, value: int, name: str) -> None:
    """Set a size by its common name; KDError where an architecture has none such."""
    names = [attribute for attribute in (key, *WIDTHS.get(key, ())) if hasattr(config, attribute)]
    if not names:
        raise KDError(f"{name} ({config.model_type}) has no such size", path=key)
    try:
        setattr(config, names[0], value)
    except Exception as error:  # some configs derive a size from others, and say so
        raise KDError(
            f"{name} ({config.model_type}) does not accept this value: {first_line(error)}", path=key
        ) from error


def expose(model: Any, attention: str | None) -> None:
    """Let attention modules return their probabilities beside their output, which with ``eager`` most do anyway."""
    if attention == "eager" and not model._supports_sdpa:  # code from before that: they must be asked for
        model.config.output_attentions = True


def run_without_values(model: nn.Module) -> None:
    """Let a model run on the meta device, where transformers cannot look whether a mask of padding hides anything.

    It looks at no mask that says for each pair of tokens whether one sees the other.
    """
    makes_mask = any(re.fullmatch("create_.*_mask", name) for name in vars(sys.modules[type(model).__module__]))

    def spread(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs.get("attention_mask")
        if mask is None or not mask.is_meta or mask.dim() != 2:
            return args, kwargs
        length = mask.shape[1]
        return args, {**kwargs, "attention_mask": mask[:, None, None, :].expand(-1, 1, length, length).float()}

    if makes_mask:
        model.register_forward_pre_hook(spread, with_kwargs=True)


# -- weights


def from_config(config: Any, attention: Mapping[str, str]) -> nn.Module:
    """A model with random weights, or with none on the meta device."""
    from transformers import AutoModelForSequenceClassification

    model: nn.Module = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, **attention)
    return model


def from_weights(
    folder: Path, config: Any, request: HubModelRequest, head: HeadMapping, attention: Mapping[str, str]
) -> nn.Module:
    """A model with its weights; KDError where some are missing or left over."""
    from transformers import AutoModelForSequenceClassification

    model, loading_info = pretrained(AutoModelForSequenceClassification, folder, config, **attention)
    trained = check_loaded(model, loading_info, request)
    if note := head.note(request.info.classes, trained):
        request.log(note)
    model.order_assumed = head.assumes_order(request.info.classes, trained)
    if trained and (head.reinitialize or head.rows is not None):
        layer = classifier_of(model, config.num_labels)
        if head.rows is not None:
            permute(layer, head.rows)
        else:
            reinitialize(layer, getattr(config, "initializer_range", 0.02))
    return model


def check_loaded(model: nn.Module, loading_info: Mapping[str, Any], request: HubModelRequest) -> bool:
    """Whether the classifier is a trained one; KDError where anything else has no weights, or weights fit nothing."""
    wrong = unfit(loading_info)
    classifies = [key for key in wrong if not in_base(model, key) or ".pooler." in key]
    lines = [
        f"{key} {reason}" for key, reason in sorted(wrong.items()) if key not in classifies or not request.new_head
    ]
    lines += [f"{key} is not in the model" for key in sorted(loading_info["unexpected_keys"]) if not harmless(key)]
    if lines:
        hint = "`new_head: true` begins with a random classifier" if len(classifies) == len(lines) else None
        raise unfit_error(request.name, model, lines, hint)
    return not classifies


def harmless(key: str) -> bool:
    """Whether weights that no model wants are those of another objective's head, or no weights at all."""
    return key.startswith(OTHER_HEADS) or ".pooler." in f".{key}" or key.endswith("position_ids")
