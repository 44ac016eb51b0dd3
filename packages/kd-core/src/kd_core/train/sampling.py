"""Samplers: which training samples an epoch shows, how often and in which order.

An order is a pure function of the data, the sampler and a seed. Positions of samples that are shown again are marked,
see :mod:`kd_core.data.showings`.
"""

from __future__ import annotations

import psutil
import torch
from torch import Tensor

from kd_core.config.sampler import SamplerSpec
from kd_core.data.batch import Split
from kd_core.data.partners import classes_of
from kd_core.data.showings import AGAIN
from kd_core.device.seeding import derive, permutation
from kd_core.errors import KDError

BYTES = 40
"""What the order of an epoch takes for each sample that it shows, measured: five tensors of int64 at a time."""


def epoch_length(spec: SamplerSpec, split: Split) -> int:
    """How many samples an epoch shows; KDError where the sampler does not go with the data, or for want of memory."""
    length = _length(spec, split)
    check_length(spec, len(split), length)
    return length


def check_length(spec: SamplerSpec, samples: int, length: int | None) -> None:
    """KDError where an epoch cannot show ``length`` samples of so many, or this machine not hold their order."""
    most = samples * spec.of("repeats") if spec.name == "repeated_augmentation" else None
    if most is not None and (spec.samples or 0) > most:
        told = f"{samples} samples, each {spec.of('repeats')} times, are {most}, and not {spec.samples}"
        raise KDError(told, path="samples", hint="leave `samples` out, or lower it")
    needed, memory = (length or 0) * BYTES, psutil.virtual_memory().total
    if needed > memory:
        took = f"the order of {length:,} samples takes {needed / 1e9:,.1f} GB of memory"
        hint = f"at most {memory // BYTES:,}; more epochs show as many samples"
        raise KDError(f"{took}, and this machine has {memory / 1e9:,.1f} GB", path="samples", hint=hint)


def _length(spec: SamplerSpec, split: Split) -> int:
    if spec.name == "repeated_augmentation":
        if split.fixed:
            message = "repeated_augmentation shows samples in several augmentations, and these samples have none"
            raise KDError(message, path="name", hint="write `data.augment`, or leave the sampler out")
        if not split.marks:
            raise KDError("repeated_augmentation cannot be used with these data, whose samples differ by epoch only")
        return spec.samples or len(split)
    expected = expected_showings(spec, split)
    if spec.name == "repeat_factor":
        return spec.samples or round(float(expected.sum()))
    return spec.samples or len(split)


def check_views(spec: SamplerSpec, views: int | None) -> None:
    """KDError where an epoch is to show several augmentations of a sample, and the data have ``views`` shared ones."""
    if spec.name == "repeated_augmentation" and views is not None:
        message = "repeated_augmentation shows several augmentations in an epoch, and `data.augmented_views` one"
        raise KDError(message, hint="leave one of them out")


def epoch_order(spec: SamplerSpec, split: Split, *names: str | int) -> Tensor:
    """The positions of an epoch (M,), those of further showings marked; it depends on ``names`` and the data alone."""
    order = permutation(len(split), *names)
    length = epoch_length(spec, split)
    if spec.name == "repeated_augmentation":
        repeats = spec.of("repeats")
        shown = order[: -(-length // repeats)]
        return (shown[:, None] + torch.arange(repeats) * AGAIN).flatten()[:length]
    expected = expected_showings(spec, split)[order]
    counts = rounded(expected, length, derive("showings", *names))
    shown = order.repeat_interleave(counts)
    number = torch.arange(length) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return (shown + number * AGAIN)[permutation(length, "showings", *names)]


def rounded(expected: Tensor, length: int, seed: int) -> Tensor:
    """Whole numbers (N,) that add up to ``length`` and are, in the mean over seeds, proportional to ``expected`` (N,).

    Each is the expected number rounded down or up, by one draw for all (systematic sampling), which varies less than
    drawing ``length`` times with replacement does.
    """
    start = torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ends = expected.double().cumsum(0)
    ends = (ends * (length / ends[-1]) + start).floor().long().clamp(max=length)
    ends[-1] = length
    return ends.diff(prepend=ends.new_zeros(1))


def expected_showings(spec: SamplerSpec, split: Split) -> Tensor:
    """(N,) float64: how often a sample is shown in an epoch, in the mean; of balanced and weighted ones, in proportion.

    KDError where the data do not tell what the sampler needs.
    """
    if spec.name == "weighted":
        return _given_weights(split)
    if spec.name == "class_balanced":
        classes = classes_of(split, "class_balanced needs the class of each sample")
        counts = classes.bincount()
        return effective_weights(counts, spec.beta)[classes]
    return repeat_factors(split, spec.of("threshold"))


def effective_weights(counts: Tensor, beta: float | None) -> Tensor:
    """The weight of a sample of each class: (C,) counts -> (C,) float64, 1 over the effective number of samples.

    The effective number of n samples is (1 - beta^n) / (1 - beta) (Cui et al. 2019, arXiv:1901.05555, eq. 2), and n
    without ``beta``, where each class is shown as often as any other one.
    """
    n = counts.double()
    effective = n if beta is None else (1 - beta**n) / (1 - beta)
    return torch.where(counts > 0, 1 / effective, 0.0)


def repeat_factors(split: Split, threshold: float) -> Tensor:
    """(N,) how often samples are shown: the largest of max(1, sqrt(threshold / f)) over the classes that they hold.

    f is the share of the samples that hold a class (Gupta, Dollár & Girshick 2019, LVIS, arXiv:1908.03195, 3.4).
    Samples of no class are shown once.
    """
    pairs = split.class_pairs
    if pairs is None:
        raise KDError("repeat_factor needs the classes that each sample holds, and these data tell them only when read")
    positions, classes = pairs.unique(dim=1)
    share = classes.bincount().double() / len(split)
    factor = (threshold / share).sqrt().clamp(min=1)
    factors = torch.ones(len(split), dtype=torch.float64)
    return factors.scatter_reduce_(0, positions, factor[classes], "amax")


def _given_weights(split: Split) -> Tensor:
    """The weights that the data give their samples."""
    weights = split.sample_weights
    if weights is None:
        hint = "`data: {files: ..., weight: COLUMN}` names a column of weights"
        raise KDError("the sampler 'weighted' needs a weight for each sample, and these data have none", hint=hint)
    if not bool((weights.isfinite() & (weights >= 0)).all()) or not float(weights.sum()):
        raise KDError("weights of samples are numbers from 0 on, of which one at least is larger")
    return weights.double() / weights.max()  # whose sum is finite
