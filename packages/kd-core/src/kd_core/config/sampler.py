"""The key ``sampler`` of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SamplerName = Literal["class_balanced", "repeat_factor", "weighted", "repeated_augmentation"]
SAMPLER_VALUES: Mapping[str, tuple[str, Any]] = {
    "beta": ("class_balanced", None),
    "threshold": ("repeat_factor", 0.001),
    "repeats": ("repeated_augmentation", 3),
}
"""Which sampler a value is of, and what it is where a config does not say."""


class SamplerSpec(BaseModel):
    """Which training samples an epoch shows, how often and in which order."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: SamplerName
    """The sampler: `class_balanced` shows each class as often as any other one, `repeat_factor` shows samples of rare
    classes several times, `weighted` shows samples in proportion to the weights that the data give them, and
    `repeated_augmentation` shows each sample of a batch in several augmentations."""
    samples: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Number of samples of an epoch. By default that of the training samples; of `repeat_factor` the sum of the
    factors."""
    beta: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Of `class_balanced`: count a class of n samples as (1 - beta^n) / (1 - beta), its effective number of samples.
    By default as n."""
    threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of `repeat_factor`: the share of the samples below which a class is rare. By default 0.001."""
    repeats: Annotated[int, Field(ge=2, lt=2**20)] | None = None
    """Of `repeated_augmentation`: augmentations of a sample in a batch. By default 3."""

    @model_validator(mode="after")
    def _agree(self) -> SamplerSpec:
        for key, (name, _) in SAMPLER_VALUES.items():
            if name != self.name and getattr(self, key) is not None:
                raise ValueError(f"{key!r} is a value of {name}, and the sampler is {self.name}")
        return self

    def epoch_length(self, samples: int | None) -> int | None:
        """How many of ``samples`` training samples an epoch shows; None where only the data tell."""
        return self.samples or (None if self.name == "repeat_factor" else samples)

    def of(self, key: str) -> Any:
        """The value of a key, or its default."""
        value = getattr(self, key)
        return SAMPLER_VALUES[key][1] if value is None else value
