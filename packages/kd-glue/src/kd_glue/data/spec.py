"""Schemas of a config's ``data:`` and of a model's ``input:``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

import kd_glue.data.glue
import kd_glue.data.hub_tables
import kd_glue.data.own_tables  # noqa: F401  what they register: data sets
from kd_core.config.schema import PositiveInt, StrictModel
from kd_core.data.spec import DataSpec as BaseDataSpec
from kd_core.data.subset import limited
from kd_core.errors import error_path
from kd_core.files import user_path
from kd_core.registry import Registry
from kd_glue.data.encoding import Padding, Side
from kd_glue.data.sources import SOURCES, TextSource
from kd_glue.data.tasks import ProblemType
from kd_glue.data.texts import Texts

Name = Annotated[str, Field(min_length=1)]


class DataSpec(BaseDataSpec):
    """Which texts, what their labels are, and how they are split. See docs/glue.md."""

    sources: ClassVar[Registry[Any]] = SOURCES

    root: Name | None = None
    """The folder with the original files, `SST-2/train.tsv` and so on. Without it GLUE is read from the hub."""
    max_length: PositiveInt = 128
    """Number of tokens of a text or pair that are kept."""
    tokenizer: Name | None = None
    """Tokenizer of models that name none: an id on the hub, or a folder."""
    cache: Name | None = None
    """Folder of the encoded texts. By default it is below the cache of the datasets library."""

    @model_validator(mode="after")
    def _agree(self) -> DataSpec:
        options = self.options
        if options.get("folder") is not None and self.root is None:
            raise ValueError("'folder' is a folder below 'root': give that too")
        if options.get("revision") is not None and self.root is not None:
            raise ValueError("'revision' is one of the hub's data, 'root' is a folder: give one, null for the other")
        return self

    @property
    def kind(self) -> ProblemType:
        """The problem, in the words of transformers' ``config.problem_type``."""
        return source_of(self).problem_of(self.options)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, in the order of the targets, as far as the config tells."""
        return source_of(self).classes_of(self.options)


class InputSpec(StrictModel):
    """The tokens of one model's inputs. Keys that are left out have the values of the data.

    ``tokenizer`` is an id on the hub, of which ``revision`` is a version, or a folder.
    """

    tokenizer: Name | None = None
    """Tokenizer of this model: an id on the hub, or a folder."""
    revision: Name | None = None
    """Version of the tokenizer on the hub."""
    max_length: PositiveInt | None = None
    """Number of tokens of a text or pair that are kept; at most that of the data."""
    padding: Padding | None = None
    """Width of a batch: `longest`, that of its longest text, or `max_length`, the same for every batch."""
    padding_side: Side | None = None
    """Side of a batch that is padded, where it is not the right one, or for XLNet the left one."""


def source_of(data: DataSpec) -> TextSource:
    """The data set that a config means."""
    source = type(data).source
    assert isinstance(source, TextSource)
    return source


def read_unlabelled(data: DataSpec, seed: int = 0) -> dict[str, Texts]:
    """The splits without labels by name, limited as the test split is: ``test``, ``test_matched``, ``ax``."""
    read = source_of(data).unlabelled
    if read is None:
        return {}
    root = None if data.root is None else user_path(data.root)
    with error_path("data"):
        splits = read(root=root, **data.options)
    count, seed = data.limits.test, data.seed_or(seed)
    return {name: limited(texts, count, seed=seed, purpose="limit.test") for name, texts in splits.items()}
