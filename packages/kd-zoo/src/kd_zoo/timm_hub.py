"""Models of timm (https://github.com/huggingface/pytorch-image-models) for configs: ``timm: resnet18.a1_in1k``.

The library makes the structure and adapts the weights; the weights' files are found by :mod:`kd_core.repository`, in a
folder, in the hub's cache or on the hub, and only tensors are read from them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from kd_core.config.schema import ModelSpec
from kd_core.data.batch import DatasetInfo
from kd_core.download import fetch
from kd_core.errors import KDError, did_you_mean
from kd_core.files import user_path
from kd_core.models.hub import Hub, HubModelRequest
from kd_core.models.trained_on import check_class_names
from kd_core.models.weights import read_state
from kd_core.notes import Note
from kd_core.repository import CONFIG, commit_of, first_line, local_folder, model_folder, weight_file

Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Pooling = Literal["avg", "max", "avgmax", "catavgmax", "token", "map", "fast", ""]
NOT_STRUCTURE = (
    *("revision", "attn_implementation", "drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate"),
    "patch_drop_rate",
)
"""Parameters that change no weight's shape and that a finished student does not need."""
REFUSED = (
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only"),
    *("scriptable", "exportable", "no_jit", "device", "dtype", "model_name"),
)
"""Arguments of ``timm.create_model`` that are none of a structure: they would read files, or give another thing."""
HUB_PREFIX = "hf-hub:"


@dataclass(frozen=True)
class TimmModel:
    """A model by timm's words: its architecture, the arguments of it, and what timm says of its weights.

    ``folder`` has the weights of a model that is not among timm's own; ``repository`` is the hub's, where there is one.
    """

    arch: str
    told: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    repository: str | None = None
    folder: Path | None = None

    @property
    def num_classes(self) -> int:
        """The outputs of the weights' own classifier."""
        return int(self.told.get("num_classes", 1000))

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that the weights were trained with."""
        channels, height, width = self.told.get("input_size") or (3, 224, 224)
        return channels, height, width


class TimmHub(Hub):
    """Every model of timm, with its weights. ``package`` is the distribution whose extra installs the library."""

    def __init__(self, package: str) -> None:
        self.package = package

    def build(
        self,
        request: HubModelRequest,
        *,
        revision: str | None = None,
        num_classes: Count | None = None,
        in_chans: PositiveInt | None = None,
        drop_rate: Rate | None = None,
        drop_path_rate: Rate | None = None,
        global_pool: Pooling | None = None,
        img_size: PositiveInt | list[PositiveInt] | None = None,
        attn_implementation: Literal["eager", "sdpa"] | None = None,
        **arguments: Any,
    ) -> nn.Module:
        """The model of that name; further ``arguments`` are those of its architecture in timm.

        ``num_classes`` is by default that of the data. KDError where there is no such model, or where it has other
        classes than the weights and a new classifier is not allowed.
        """
        model = self.resolved(request.name, revision, offline=request.offline)
        values = {
            "num_classes": request.info.model_parameters.get("num_classes") if num_classes is None else num_classes,
            "in_chans": in_chans,
            "drop_rate": drop_rate,
            "drop_path_rate": drop_path_rate,
            "global_pool": global_pool,
            "img_size": tuple(img_size) if isinstance(img_size, list) else img_size,
            **arguments,
        }
        values = {**model.arguments, **{key: value for key, value in values.items() if value is not None}}
        values.setdefault("num_classes", model.num_classes)
        for key in values.keys() & set(REFUSED):
            raise KDError(f"timm's {request.name} has no parameter {key!r}", path=key)
        with readable(request.name):
            made = structure(model, values)
            for module in made.modules():
                if attn_implementation is not None and hasattr(module, "fused_attn"):
                    setattr(module, "fused_attn", attn_implementation == "sdpa")  # noqa: B010
            if request.weights and not request.offline:
                check_head(model, request, values["num_classes"])
                self._load(made, model, request, values, revision)
        return made

    def _load(
        self, made: nn.Module, model: TimmModel, request: HubModelRequest, values: dict[str, Any], revision: str | None
    ) -> None:
        """Put the weights in; those of a classifier for other classes are left out, and nothing else."""
        told = dict(model.told)
        loaded = load_pretrained(model, weights_of(model, request.name, revision), values, request)
        state = loaded.state_dict()
        heads = tuple(f"{name}." for name in heads_of(told))
        fresh = values["num_classes"] != model.num_classes
        if fresh:
            state = {key: value for key, value in state.items() if not key.startswith(heads)}
        missing, unknown = made.load_state_dict(state, strict=False)
        if wrong := [*unknown, *(key for key in missing if not (fresh and key.startswith(heads)))]:
            raise KDError(f"the weights of {request.name} do not fit: {', '.join(wrong[:4])}")
        if fresh and values["num_classes"]:
            request.log(Note("new head: the classifier begins at random"))

    def resolved(self, name: str, revision: str | None = None, *, offline: bool = False) -> TimmModel:
        """What timm or a model's own config says of it; KDError where there is no such model."""
        timm_library(self.package)
        repository = name.removeprefix(HUB_PREFIX)
        if user_path(name).is_dir():
            folder = local_folder(name)
            assert folder is not None
            return read_model(folder, name)
        if name.startswith(HUB_PREFIX) or "/" in name:
            return read_model(model_folder(repository, revision, "structure", offline=offline), name, repository)
        return registered(name)

    def input(self, spec: ModelSpec) -> dict[str, Any]:
        """The normalisation and the channels of the weights, and the size of images where it is fixed."""
        model = self.resolved(str(spec.timm), spec.extra.get("revision"), offline=True)
        channels, *size = model.input_size
        told: dict[str, Any] = {"channels": spec.extra.get("in_chans") or channels}
        fixed = model.told.get("fixed_input_size") and not spec.extra.get("dynamic_img_size")
        if fixed or spec.extra.get("img_size"):
            told["size"] = plain(spec.extra.get("img_size") or size)
        for key in ("mean", "std"):
            if len(values := list(model.told.get(key) or ())) in (1, told["channels"]):
                told[key] = values
        return told

    def evaluation(self, spec: ModelSpec) -> dict[str, Any]:
        """The size of the centre crop, its share of the resized image, and the interpolation, as timm evaluates."""
        model = self.resolved(str(spec.timm), spec.extra.get("revision"), offline=True)
        wanted = spec.extra.get("img_size") or list(model.input_size[1:])
        sides = wanted if isinstance(wanted, list) else [wanted, wanted]
        resized = int(sides[0] / (model.told.get("crop_pct") or 0.875))  # timm rounds down
        return {
            "size": plain(wanted),
            "eval_crop": min(sides[0] / resized, 1.0),
            "interpolation": model.told.get("interpolation") or "bicubic",
        }

    def revisions(self, models: Mapping[str, ModelSpec], data: Any) -> list[str]:
        """The commits of the repositories that weights are read from."""
        pins = []
        for name, spec in models.items():
            if spec.timm is None or "revision" in spec.extra:
                continue
            loads = "weights" not in spec.model_fields_set or spec.weights == "auto"
            repository = self.resolved(spec.timm).repository if loads or "/" in spec.timm else None
            if (commit := commit_of(repository, None)) is not None:
                pins.append(f"models.{name}.revision={commit}")
        return pins

    def architecture(self, spec: ModelSpec, info: DatasetInfo) -> dict[str, Any]:
        """timm's name of the architecture with every argument that decides its structure: no weights, no repository."""
        model = self.resolved(str(spec.timm), spec.extra.get("revision"), offline=True)
        classes = info.model_parameters.get("num_classes", model.num_classes)
        given = {key: value for key, value in spec.extra.items() if key not in NOT_STRUCTURE}
        return {"timm": model.arch, **plain(dict(model.arguments)), "num_classes": classes, **given}


def plain(value: Any) -> Any:
    """``value`` with lists for tuples, as a config has them; one number for a square."""
    if isinstance(value, Mapping):
        return {key: list(item) if isinstance(item, tuple) else item for key, item in value.items()}
    sides = [value, value] if isinstance(value, int) else list(value)
    return sides[0] if len(set(sides)) == 1 else sides


def timm_library(package: str) -> Any:
    """The library; KDError naming the extra that installs it."""
    try:
        import timm
    except ImportError as error:
        raise KDError("models of timm need the package timm", hint=f"pip install '{package}[timm]'") from error
    return timm


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise what timm raises about a model as a KDError."""
    try:
        yield
    except (KDError, NotImplementedError):  # the latter: a check then tries with values
        raise
    except TypeError as error:
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if found is None:
            raise KDError(f"{name} cannot be built ({first_line(error)})") from error
        known = ["num_classes", "in_chans", "drop_rate", "drop_path_rate", "global_pool", "img_size", "revision"]
        hint = did_you_mean(found[1], known)
        raise KDError(f"timm's {name} has no parameter {found[1]!r}", hint=hint, path=found[1]) from error
    except (RuntimeError, ValueError, AssertionError, KeyError, AttributeError) as error:
        if "meta" in str(error).lower():  # of a check, which then tries with values
            raise
        raise KDError(f"{name} cannot be built ({type(error).__name__}: {first_line(error)})") from error


# -- names


@lru_cache(maxsize=64)
def registered(name: str) -> TimmModel:
    """A model that timm has by that name, ``NAME`` or ``NAME.TAG``; KDError with the nearest name."""
    from timm.models import get_pretrained_cfg, is_model, list_models, list_pretrained

    arch, _, tag = name.partition(".")
    if not is_model(arch):
        raise KDError(f"timm has no model {name!r}", hint=did_you_mean(arch, list_models()))
    tags = [known.partition(".")[2] for known in list_pretrained(f"{arch}.*")]
    if tag and tag not in tags:
        hint = did_you_mean(tag, tags) if tags else f"`timm: {arch}` with `weights: null` has random ones"
        raise KDError(f"timm has no weights {tag!r} of {arch}", hint=hint)
    weights = get_pretrained_cfg(name)
    told: dict[str, Any] = {} if weights is None else weights.to_dict()
    return TimmModel(arch, told, repository=told.get("hf_hub_id"))


def read_model(folder: Path, name: str, repository: str | None = None) -> TimmModel:
    """The model that a config in timm's format describes; KDError for another format."""
    from timm.models import is_model

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        arch, told = str(config["architecture"]), config.get("pretrained_cfg") or config
        arguments = dict(config.get("model_args") or {})
        told = {**told, **{key: config[key] for key in ("num_classes", "label_names") if key in config}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{name} is not in timm's format: its {CONFIG} names no architecture of timm"
        raise KDError(message, hint="`hub:` takes models of transformers") from error
    if not is_model(arch):
        raise KDError(f"{name} is a {arch}, of which timm has no model")
    return TimmModel(arch, told, arguments, repository, folder)


# -- structure and weights


def structure(model: TimmModel, values: Mapping[str, Any]) -> nn.Module:
    """The model without weights."""
    from timm import create_model

    made: nn.Module = create_model(model.arch, pretrained=False, **values)
    return made


def heads_of(told: Mapping[str, Any]) -> list[str]:
    """The modules that classify, by timm's word."""
    heads = told.get("classifier") or ()
    return [heads] if isinstance(heads, str) else list(heads)


def check_head(model: TimmModel, request: HubModelRequest, num_classes: int) -> None:
    """KDError where a finished model would have a random classifier, or classes in another order than the data's."""
    if num_classes and num_classes != model.num_classes and not request.new_head:
        raise KDError(
            f"{request.name} was trained for {model.num_classes} classes, and {num_classes} are wanted",
            hint=f"`new_head: true` begins with a random classifier; `num_classes: {model.num_classes}` keeps its own",
        )
    names = model.told.get("label_names")
    if names and num_classes == model.num_classes and not request.new_head:
        spec = ModelSpec(timm=request.name, class_names=[str(name) for name in names])
        note = check_class_names(spec, request.info, "")
        if note is not None:
            request.log(note)


def weights_of(model: TimmModel, name: str, revision: str | None) -> Path:
    """The file of the weights; KDError where there are none, or the hub cannot be reached."""
    folder = model.folder
    if model.repository is not None:
        folder = model_folder(model.repository, revision, "weights", key="timm")
    if folder is None:
        if url := model.told.get("url"):
            return fetch(str(url))
        hint = "`weights: null` has random ones"
        raise KDError(f"timm has no weights of {name}", hint=hint)
    file = weight_file([path.name for path in folder.iterdir()])
    if file is None or file.endswith(".index.json"):
        raise KDError(f"{name} has no weights: there is no model.safetensors in {folder}")
    return folder / file


def load_pretrained(model: TimmModel, file: Path, values: Mapping[str, Any], request: HubModelRequest) -> nn.Module:
    """timm's model with the weights of a file and their own classifier, adapted to channels and sizes as timm does."""
    from timm import create_model

    told = {**model.told, "file": None, "source": "", "url": None, "hf_hub_id": None}
    overlay = {**told, "file": str(file)} if file.suffix == ".npz" else {**told, "state_dict": read_state(file)}
    own = {**values, "num_classes": model.num_classes}
    with reports() as records:
        loaded: nn.Module = create_model(model.arch, pretrained=True, pretrained_cfg=overlay, **own)
    for record in records:
        if "random init" in record:
            raise KDError(f"the weights of {request.name} do not fit: {record}")
        request.log(Note.warning(record))
    return loaded


@contextmanager
def reports() -> Iterator[list[str]]:
    """What timm warns of within, instead of its log."""
    logger, records = logging.getLogger("timm.models._builder"), list[str]()

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            records.append(record.getMessage())
        return False

    logger.addFilter(keep)
    try:
        yield records
    finally:
        logger.removeFilter(keep)
