"""Small runs that together use every mechanism whose state a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
HEAD = """
task: image_classification
data: {name: digits, limit: 100, augment: shift}
checkpoint: {every_steps: 3, keep_last: 2}
models:
  student: {arch: cnn, width: 4, depth: 2}
  teacher: {arch: cnn, width: 6, depth: 2, weights: null}
"""
LOSSES = "{ce: {loss: cross_entropy}, kd: {loss: kd, temperature: 4.0}}"
SGD = "!call:torch.optim.SGD {lr: 0.05, momentum: 0.9}"
ADAM = "!call:torch.optim.AdamW {lr: 0.01}"
PLAIN = f"""
stages:
  distill: {{epochs: 3, batch_size: 16, losses: {LOSSES}, optimizer: {SGD}}}
"""
STAGES = f"""
adapters:
  proj: {{module: projector, inputs: student.layers.0, match: teacher.layers.0, norm: true}}
observers: {{gradient_norms: {{every_steps: 2}}}}
stages:
  hint:
    epochs: 2
    batch_size: 16
    accumulation_steps: 2
    ema: 0.9
    losses: {{hint: {{loss: hint, student: adapters.proj, teacher: teacher.layers.0}}}}
    optimizer: {ADAM}
    scheduler: {{call: !call:torch.optim.lr_scheduler.CosineAnnealingLR {{T_max: !run steps}}, interval: step}}
  distill:
    epochs: 2
    losses:
      ce: {{loss: cross_entropy, weight: {{schedule: linear, start: 0.5, end: 1.0}}}}
      kd: {{loss: kd, temperature: {{schedule: cosine, start: 8.0, end: 2.0}}}}
    optimizer: {SGD}
"""
CRD = f"""
adapters:
  student_embedding: {{module: embedding, inputs: student.avgpool, out_features: 8}}
  teacher_embedding: {{module: embedding, inputs: teacher.avgpool, out_features: 8}}
stages:
  distill:
    epochs: 2
    batch_size: 16
    losses:
      ce: {{loss: cross_entropy}}
      crd:
        loss: crd
        student: adapters.student_embedding
        teacher: adapters.teacher_embedding
        num_samples: !run num_samples
        dim: 8
        negatives: 16
    optimizer: {SGD}
"""
MUTUAL = f"""
stages:
  distill:
    epochs: 2
    batch_size: 16
    train: [student, teacher]
    validate: {{every_steps: 4}}
    early_stopping: {{patience: 2, min_delta: 5.0}}
    losses:
      ce: {{loss: cross_entropy}}
      peer: {{loss: cross_entropy, student: teacher.output}}
      kd: {{loss: kd, detach: [teacher]}}
      back: {{loss: kd, student: teacher.output, teacher: student.output, detach: [teacher]}}
    optimizer: {SGD}
"""
PLATEAU = f"""
stages:
  distill:
    epochs: 6
    batch_size: 16
    early_stopping: {{patience: 3, min_delta: 0.5}}
    losses: {LOSSES}
    optimizer: {SGD}
    scheduler: {{call: !call:torch.optim.lr_scheduler.ReduceLROnPlateau {{mode: max, patience: 0}}, interval: epoch}}
"""
GLUE = f"""
task: glue
data:
  files: {{train: EXAMPLE/train.tsv, val: EXAMPLE/val.tsv}}
  text: sentence
  label: label
  labels: [negative, positive]
  max_length: 16
  limit: {{train: 48, val: 16}}
runtime: fast
checkpoint: {{every_steps: 2}}
models:
  student: {{hub: EXAMPLE/tiny, weights: null}}
  teacher: {{hub: EXAMPLE/tiny, weights: null, cache: true}}
stages:
  distill: {{epochs: 2, batch_size: 8, losses: {LOSSES}, optimizer: {ADAM}}}
""".replace("EXAMPLE", str(ROOT / "configs" / "glue" / "example"))
SEG = f"""
task: semantic_segmentation
data: {{name: scenes, limit: {{train: 12, val: 4}}, size: 24, crop: 24, workers: 0}}
checkpoint: {{every_steps: 2}}
models:
  student: {{arch: unet, width: 3, depth: 2}}
  teacher: {{arch: unet, width: 4, depth: 2, weights: null}}
stages:
  distill:
    epochs: 2
    batch_size: 4
    losses: {{ce: {{loss: cross_entropy}}, kd: {{loss: kd, temperature: 1.0, mask: batch.mask}}}}
    optimizer: {SGD}
    scheduler: {{call: !call:torch.optim.lr_scheduler.PolynomialLR {{total_iters: !run steps}}, interval: step}}
"""
DETECTOR = "backbone: cnn, levels: [2, 3], extra_levels: 0, anchor_sizes: [24, 40], min_size: 48, max_size: 72"
DETECTION = f"""
task: object_detection
data: {{name: scenes, limit: {{train: 8, val: 4}}, workers: 0, augment: [flip]}}
checkpoint: {{every_steps: 1}}
models:
  student: {{arch: retinanet, width: 2, pyramid_channels: 4, {DETECTOR}}}
  teacher: {{arch: retinanet, width: 4, pyramid_channels: 8, weights: null, {DETECTOR}}}
stages:
  distill: {{epochs: 2, batch_size: 4, method: pkd, optimizer: {SGD}}}
"""


@dataclass(frozen=True)
class Scenario:
    """A config, how many processes train it, and the modules that they need."""

    text: str
    imports: tuple[str, ...] = ("kd_vision.task",)
    processes: int = 1
    slow: bool = False
    """A kill takes seconds: it gets a tenth of the kills."""


SCENARIOS = {
    "plain": Scenario(HEAD + PLAIN),
    "stages": Scenario(HEAD + STAGES),
    "crd": Scenario(HEAD + CRD),
    "mutual": Scenario(HEAD.replace("weights: null", "weights: null, trainable: true") + MUTUAL),
    "plateau": Scenario(HEAD + PLATEAU),
    "cache": Scenario(
        HEAD.replace("weights: null", "weights: null, cache: true").replace("augment: shift", "augment: none") + PLAIN
    ),
    "views": Scenario(
        HEAD.replace("weights: null", "weights: null, cache: true").replace(
            "augment: shift", "augment: shift, augmented_views: 2"
        )
        + PLAIN
    ),
    "fast": Scenario(HEAD.replace("width: 4", "width: 16") + "runtime: fast\n" + PLAIN),
    "glue": Scenario(GLUE, ("kd_glue.task", "transformers.models.bert.modeling_bert")),
    "seg": Scenario(SEG, ("kd_seg.task",)),
    "detection": Scenario(DETECTION, ("kd_vision.detection.task",), slow=True),
    "two processes": Scenario(HEAD + PLAIN, processes=2, slow=True),
    "workers": Scenario(SEG.replace("workers: 0", "workers: 1"), ("kd_seg.task",), slow=True),
}
