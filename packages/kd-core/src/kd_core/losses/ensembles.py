"""Losses on the outputs of several models: peers that teach each other, and teachers that are weighted."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.quadratic import capped_simplex_minimum
from kd_core.losses.reduction import UNLABELLED, mean_over_samples, over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import LOW, as_float32, divergences, shape
from kd_core.ranges import PositiveFloat

EPSILON = 1e-8
"""What deep mutual learning's authors add to probabilities and to their quotients."""


@LOSSES("mutual")
@mean_over_samples
def mutual(student: list[Tensor], teacher: list[Tensor], *, others: Literal["mean", "sum"] = "mean") -> Tensor:
    """Deep mutual learning: KL divergence of each peer's output from those of all other peers, summed over the peers.

    student, teacher: the same list of logits (B, C) or (B, C, ...), one entry for each of two or more peers; the term
    says ``detach: teacher``, so that no peer moves towards those that learn from it -> scalar: the mean over the
    other peers (``others: mean``, as in the paper) or their sum (as in the code), the sum over the peers, the mean over
    all else. KDError where shapes or numbers of peers do not fit, or there is one class.
    Zhang et al., CVPR 2018 (arXiv 1706.00384); checked against YingZhangDUT/Deep-Mutual-Learning, whose
    1e-8 in the logarithm and under the fraction is kept.
    """
    learner, target = (outputs.softmax(2) for outputs in _stacked("mutual", student, teacher))
    ratio = target / (learner.unsqueeze(1) + EPSILON)  # (peer, other, B, C, ...)
    values = (target * (EPSILON + ratio).log()).sum(3).flatten(2).mean(2)
    own = torch.eye(len(values), dtype=torch.bool, device=values.device)
    total = values.masked_fill(own, 0.0).sum()
    return total / (len(values) - 1) if others == "mean" else total


@LOSSES("ensemble_kd")
@mean_over_samples
def ensemble_kd(student: Tensor, teacher: list[Tensor], *, temperature: PositiveFloat = 4.0) -> Tensor:
    """``kd`` of each teacher, the mean over the teachers: as the student's distance from their mean output.

    student (B, C) or (B, C, ...) logits; teacher: a list of logits in student's shape -> scalar: the mean over the
    teachers and all but the classes, times the squared temperature. Its gradient for the student is that of ``kd`` with
    the mean of the teachers' probabilities. KDError where shapes differ, or there is one class.
    You et al., *Learning from Multiple Teacher Networks*, KDD 2017; checked against ``AVERAGE_LOSS`` of Rorozhl/CA-MKD
    and AnTuo1998/AE-KD: its authors published no code.
    """
    return _divergences(*_outputs("ensemble_kd", student, teacher, least=1), temperature).mean()


@LOSSES("entropy_weighted_kd")
@mean_over_samples
def entropy_weighted_kd(student: Tensor, teacher: list[Tensor], *, temperature: PositiveFloat = 4.0) -> Tensor:
    """``kd`` of two or more teachers, of which one counts more for a sample the lower its output's entropy is.

    student (B, C) or (B, C, ...) logits; teacher: a list of logits in student's shape -> scalar: each teacher has the
    weight 1 minus its share in the sum of all entropies (at temperature 1), the mean over the teachers and all but the
    classes, times the squared temperature. KDError where shapes differ, or there is one class or one teacher.
    Kwon et al., ICASSP 2020; checked against ``EBKD`` of Rorozhl/CA-MKD: its authors published no code.
    """
    learner, teachers = _outputs("entropy_weighted_kd", student, teacher, least=2)
    log_teachers = teachers.log_softmax(2).clamp(min=LOW)  # of minus infinity the gradient would be NaN
    entropies = -(log_teachers.exp() * log_teachers).sum(2)
    total = entropies.sum(0)
    shares = torch.where(total > 0, entropies / total.where(total > 0, 1.0), 1 / len(teachers))
    return ((1 - shares) * _divergences(learner, teachers, temperature)).mean()


@LOSSES("confidence_weighted_kd")
@mean_over_samples
def confidence_weighted_kd(
    student: Tensor, teacher: list[Tensor], target: Tensor, *, temperature: PositiveFloat = 4.0
) -> Tensor:
    """CA-MKD's loss of logits: ``kd`` of two or more teachers, of which one counts more the better it knows the label.

    student (B, C) logits; teacher: a list of logits in student's shape; target (B,) labels, -100 where there is none
    and all teachers count alike -> scalar: weights as :func:`confidences` gives them, the mean over the teachers and
    the batch, times the squared temperature. KDError where shapes differ, or there is one class or one teacher.
    Zhang, Chen & Wang, ICASSP 2022 (arXiv 2201.00007); checked against Rorozhl/CA-MKD, which divides by the
    number of teachers.
    """
    learner, teachers = _outputs("confidence_weighted_kd", student, teacher, least=2)
    return (confidences(teachers, target) * _divergences(learner, teachers, temperature)).mean()


@LOSSES("confidence_weighted_mse")
@mean_over_samples
def confidence_weighted_mse(
    student: list[Tensor], teacher: list[Tensor], logits: list[Tensor], target: Tensor
) -> Tensor:
    """CA-MKD's loss of features: a teacher counts more the better its classifier reads the student's features.

    student, teacher: lists of features (B, ...), one for each of two or more teachers, where a student's and its
    teacher's have one shape (adapter ``teacher_embeddings``); logits: what the teachers' classifiers make of the
    student's features (B, C); target (B,) labels, -100 where there is none -> scalar: each sample's mean squared
    difference times the weight of :func:`confidences`, the mean over the teachers and the batch. KDError where shapes
    or numbers of teachers differ.
    Zhang, Chen & Wang, ICASSP 2022 (arXiv 2201.00007); checked against Rorozhl/CA-MKD.
    """
    if not len(student) == len(teacher) == len(logits) or len(student) < 2:
        counts = f"student has {len(student)} features, teacher {len(teacher)}, logits {len(logits)}"
        raise KDError(f"{counts}: they are compared teacher by teacher, of which there are two or more", path="student")
    pairs = list(zip(student, teacher, strict=True))
    for number, (ours, theirs) in enumerate(pairs):
        _same(f"student/{number}", ours, f"teacher/{number}", theirs)
        _same("logits/0", logits[0], f"logits/{number}", logits[number])
    outputs = torch.stack([as_float32(one) for one in logits])
    outputs = outputs.masked_fill(outputs.isneginf().all(0), LOW)  # a label of such a class says nothing of any teacher
    errors = [(as_float32(ours) - as_float32(theirs)).square().flatten(1).mean(1) for ours, theirs in pairs]
    return (confidences(outputs, target) * torch.stack(errors)).mean()


@LOSSES("adaptive_ensemble_kd")
@over_batch
def adaptive_ensemble_kd(
    student: Tensor,
    teacher: list[Tensor],
    *,
    temperature: PositiveFloat = 4.0,
    tolerance: PositiveFloat = 0.6,
    normalize: bool = False,
) -> Tensor:
    """AE-KD's loss of logits: ``kd`` of several teachers, weighted so that the step agrees with as many as it can.

    student (B, C) logits; teacher: a list of up to eight logits in student's shape -> scalar: the weighted sum of the
    ``kd`` of each teacher. The weights are those, at most ``tolerance`` each, that add up to 1 and make the weighted
    sum of the teachers' gradients for the batch's mean logits shortest; they are constants in the backward pass.
    ``normalize`` compares directions alone, and divides each weight by its gradient's length. KDError where shapes
    differ, there is one class, or more teachers.
    Du et al., *Agree to Disagree*, NeurIPS 2020; checked against AnTuo1998/AE-KD, which finds the weights by a support
    vector machine to 1e-6 where these are exact.
    """
    learner, teachers = _outputs("adaptive_ensemble_kd", student, teacher, least=1)
    if learner.ndim != 2:
        raise KDError(f"student {shape(learner)} must be (B, C): the weights are those of a batch", path="student")
    with torch.no_grad():
        gradients = (learner / temperature).softmax(1) - (teachers / temperature).softmax(2)
        gradients = gradients.mean(1)
        lengths = gradients.norm(dim=1).clamp(min=torch.finfo(gradients.dtype).tiny)
        compared = gradients / lengths[:, None] if normalize else gradients
        weights = capped_simplex_minimum(compared @ compared.T, tolerance).to(learner.dtype)
        weights = weights / lengths / (weights / lengths).sum() if normalize else weights
    return weights @ _divergences(learner, teachers, temperature).mean(1)


def confidences(logits: Tensor, target: Tensor) -> Tensor:
    """The weights of K teachers for each sample, (K, B), which add up to 1: one minus the softmax of their losses.

    logits (K, B, C); target (B,) labels, -100 for none. A loss is the cross-entropy; K - 1 divides. KDError where
    target does not fit.
    """
    if target.shape != logits.shape[1:2] or logits.ndim != 3:
        rule = "labels are (B,) where logits are (B, C)"
        raise KDError(f"target {shape(target)} does not fit {shape(logits[0])}: {rule}", path="target")
    try:
        losses = F.cross_entropy(
            logits.flatten(0, 1), target.long().repeat(len(logits)), ignore_index=UNLABELLED, reduction="none"
        )
    except IndexError as reason:
        raise KDError(f"target holds a label that is not below {logits.shape[2]}: {reason}", path="target") from reason
    return (1 - losses.view(len(logits), -1).softmax(0)) / (len(logits) - 1)


def _divergences(student: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """(K, B, ...): ``kd`` of each of K teachers (K, B, C, ...) for each sample, times the squared temperature."""
    log_student, log_teachers = F.log_softmax(student / temperature, 1), F.log_softmax(teachers / temperature, 2)
    return divergences(log_teachers, log_student).sum(2) * temperature**2


def _outputs(title: str, student: Tensor, teacher: list[Tensor] | Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    """Student's logits (B, C, ...) and the teachers' (K, B, C, ...) in float32; KDError where they do not fit."""
    several = [teacher] if isinstance(teacher, Tensor) else list(teacher)
    if len(several) < least:
        hint = "`teacher: [a.output, b.output]`, or a list of models called `teacher`"
        raise KDError(f"{title} needs {least} teachers or more, not {len(several)}", path="teacher", hint=hint)
    for number, one in enumerate(several):
        _same("student", student, f"teacher/{number}", one)
    if student.ndim < 2 or student.shape[1] == 1:
        raise KDError(f"{title} of one class, {shape(student)}, is always 0", path="student")
    learner, teachers = as_float32(student), torch.stack([as_float32(one) for one in several])
    both = learner.isneginf() & teachers.isneginf().all(0)
    return learner.masked_fill(both, LOW), teachers.masked_fill(both, LOW)


def _stacked(title: str, student: list[Tensor], teacher: list[Tensor]) -> list[Tensor]:
    """The outputs of two or more peers, both (K, B, C, ...) in float32; KDError where they do not fit."""
    named = {"student": student, "teacher": teacher}
    lists = {name: [outputs] if isinstance(outputs, Tensor) else list(outputs) for name, outputs in named.items()}
    counts = list(map(len, lists.values()))
    if counts[0] < 2 or counts[0] != counts[1]:
        hint = "`student: [student.output, peers.output]`, and `teacher` the same"
        message = f"{title} takes the same two or more peers twice, not {counts[0]} and {counts[1]}"
        raise KDError(message, path="student", hint=hint)
    first = lists["student"][0]
    for name, outputs in lists.items():
        for number, other in enumerate(outputs):
            _same("student/0", first, f"{name}/{number}", other)
    if first.ndim < 2 or first.shape[1] == 1:
        raise KDError(f"{title} of one class, {shape(first)}, is always 0", path="student")
    return [torch.stack([as_float32(output) for output in outputs]) for outputs in lists.values()]


def _same(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """KDError where two of the tensors that are compared have different shapes."""
    if tensor.shape != other.shape:
        message = f"{name} {shape(tensor)} and {other_name} {shape(other)} must have the same shape"
        raise KDError(message, path=name.partition("/")[0])
