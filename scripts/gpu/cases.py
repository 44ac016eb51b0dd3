"""The small runs that scripts/gpu_check.py makes on the CPU and on the device: all data are made up or come along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"
SGD = "optimizer=!call:torch.optim.SGD {lr: 0.02, momentum: 0.9}"
"""AdamW's first steps are the signs of gradients, which amplify the rounding of small ones."""

DIGITS = """
task: image_classification
data: {{name: digits, limit: 400, augment: shift}}
models:
  student: {{arch: cnn, width: 8, depth: 2}}
  teacher: {{arch: cnn, width: 16, depth: 2, weights: null}}
{adapters}
checkpoint: {{every_steps: 3, keep_last: 2}}
stages:
  distill:
    epochs: 2
    batch_size: 64
    losses: {losses}
    optimizer: !call:torch.optim.SGD {{lr: 0.05, momentum: 0.9}}
"""
CRD_ADAPTERS = """
adapters:
  fit_s: {module: embedding, inputs: student.@penultimate, out_features: 16}
  fit_t: {module: embedding, inputs: teacher.@penultimate, out_features: 16}
"""
CRD = (
    "{loss: crd, student: adapters.fit_s, teacher: adapters.fit_t, dim: 16, negatives: 64,"
    " num_samples: !run num_samples, targets: !run targets}"
)
HINT_ADAPTERS = """
adapters:
  fit: {module: projector, inputs: student.layers.0, match: teacher.layers.0, norm: true}
"""
HINT = "{loss: hint, student: adapters.fit, teacher: teacher.layers.0}"


@dataclass(frozen=True)
class Case:
    """A run by its config, the text of one or a file of ``configs/``, with overrides."""

    name: str
    config: str
    overrides: Sequence[str] = ()

    def path(self, folder: Path) -> Path:
        """The config's file; a text is written into ``folder``."""
        if self.config.endswith(".yaml"):
            return CONFIGS / self.config
        path = folder / f"{self.name}.yaml"
        path.write_text(self.config)
        return path


def digits(losses: str, adapters: str = "") -> str:
    """A config on scikit-learn's digits."""
    return DIGITS.format(losses=losses, adapters=adapters)


KD = "{ce: {loss: cross_entropy}, kd: {loss: kd, temperature: 4.0}}"
CASES = [
    Case("ce", digits("{ce: {loss: cross_entropy}}")),
    Case("kd", digits(KD)),
    Case("crd", digits(f"{{ce: {{loss: cross_entropy}}, crd: {CRD}}}", CRD_ADAPTERS)),
    Case("feature", digits(f"{{ce: {{loss: cross_entropy}}, hint: {HINT}}}", HINT_ADAPTERS)),
    Case(
        "segmentation",
        "seg/scenes_kd.yaml",
        ("models.teacher.weights=null", f"stages.distill.{SGD}", "stages.distill.scheduler=null"),
    ),
    Case(
        "detection",
        "detection/scenes_fgd.yaml",
        ("models.teacher.weights=null", f"stages.train.{SGD}", "stages.train.scheduler=null", "data.workers=0"),
    ),
    Case(
        "texts",
        "glue/example_kd.yaml",
        ("models.teacher.weights=null", f"stages.distill.{SGD}", "data.limit=400"),
    ),
]
