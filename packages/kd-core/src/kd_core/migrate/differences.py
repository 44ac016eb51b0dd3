"""The kinds of differences between a run of torchdistill and a run of the config that it becomes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What torchdistill does (``theirs``) and what the config does instead (``corrected``).

    ``faithful`` is what it does with ``--faithful``; None where a config cannot do as torchdistill does, or need not.
    """

    theirs: str
    corrected: str
    faithful: str | None = None


KINDS: dict[str, Kind] = {
    "chosen-on-test": Kind(
        "torchdistill keeps the best epoch on the test images, which it then reports.",
        "Here all training images train, the last checkpoint counts, and the test images are read once.",
        "So does this config: its test images are the validation images.",
    ),
    "chosen-on-reported": Kind(
        "torchdistill keeps the best epoch on the validation images, which it then reports.",
        "Here the last checkpoint counts, and the validation images are read once, as the test split.",
        "So does this config.",
    ),
    "other-split": Kind(
        "torchdistill holds out images by torch's random_split.",
        "Here as many are held out, of every class its share: other images.",
    ),
    "labels-ignored": Kind(
        "torchdistill's script gives KDLoss no labels, which then is the KL divergence alone, without alpha and T^2.",
        "Here the labels count by alpha, and the divergence by (1 - alpha) T^2, as the file means it.",
        "So does this config.",
    ),
    "alpha-zero": Kind(
        "torchdistill's KDLoss leaves T^2 out where alpha is 0.",
        "Here the divergence counts T^2.",
        "So does this config.",
    ),
    "teacher-in-training-mode": Kind(
        "torchdistill (from 1.0 on) leaves the teacher in training mode: batch statistics, and dropout.",
        "Here a frozen teacher is in evaluation mode.",
        "So does this config.",
    ),
    "frozen-statistics": Kind(
        "torchdistill keeps frozen modules in training mode, so that their batch norm goes by the batch and learns.",
        "Here modules whose parameters are all frozen are in evaluation mode.",
    ),
    "input-changed-in-place": Kind(
        "torchdistill sees the input of an in-place ReLU as the ReLU has left it: its output.",
        "Here it is the input, before the ReLU.",
        "So does this config, which names the output.",
    ),
    "channel-relation": Kind(
        "torchdistill's DISTPlusLoss adds the correlation of the channels: opposite ones have the least loss.",
        "Here one minus the correlation is added.",
        "Here one minus the correlation counts negatively: the same gradients, and a value lower by the weight.",
    ),
    "schedule-half-way": Kind(
        "torchdistill steps the schedule once for several micro-batches but counts its length in micro-batches: the "
        "learning rate never comes to its end.",
        "Here it does.",
    ),
    "per-process": Kind(
        "torchdistill's batch sizes are those of each process.",
        "Here batch_size is that of all processes together, as of one: migrate again with --processes N for N of them.",
    ),
    "sum-of-last-batch": Kind(
        "torchdistill adds up squared differences over the batch, so that a smaller last batch counts less.",
        "Here they are averaged over samples, times the batch size.",
    ),
    "similarity-norm": Kind(
        "torchdistill's SPKDLoss divides the rows of the matrices by their L1 norms: its code has the order of the "
        "norm where the dimension was meant.",
        "Here it is the L2 norm, as in the paper: another scale, so choose the weight anew.",
    ),
    "fsp-distance": Kind(
        "torchdistill's FSPLoss adds up the lengths of the columns of the differences.",
        "Here the differences are squared, as in the paper, and averaged: another scale, so choose the weight anew.",
        "So does this config.",
    ),
    "input-not-rescaled": Kind(
        "torchdistill's `sequential` leaves out how Inception v3 rescales its input to what its weights want.",
        "Here the input is rescaled.",
    ),
    "masks-scaled": Kind(
        "torchdistill scales the masks in evaluation as it scales the images.",
        "Here predictions are scaled to the masks.",
    ),
    "missing-checkpoint": Kind(
        "torchdistill goes on with random weights where this file is missing.",
        "Here a missing file is an error.",
    ),
    "does-not-start": Kind(
        "torchdistill itself does not start this file.",
        "Here it is read as it is meant.",
    ),
    "hub-model": Kind(
        "torchdistill loads this model's code from torch.hub.",
        "Here it is made of torchvision's by edits.",
    ),
}
