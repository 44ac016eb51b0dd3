"""Files in torchdistill's format, a family each, for eight images and small models: what its box and ours train on.

The images, the models' weights and those of all that is added to the models come from formulas, so that both begin
alike. An epoch is one step on all images, whose order then does not matter.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import models

CLASSES, SIDE, EPOCHS = 4, 64, 5
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
WITHOUT = "forward_proc: 'forward_batch_only'\nsequential: []\nwrapper:\n"
FROZEN, LEARNS = WITHOUT + "requires_grad: False\n", WITHOUT + "requires_grad: True\nfrozen_modules: []\n"

HEAD = """
datasets:
  &train_id mine/train: !import_call
    key: 'torchvision.datasets.ImageFolder'
    init:
      kwargs:
        root: !join ['{root}', '/train']
        transform: &transform !import_call
          key: 'torchvision.transforms.Compose'
          init:
            kwargs:
              transforms:
                - !import_call {{key: 'torchvision.transforms.ToTensor', init: }}
                - !import_call
                  key: 'torchvision.transforms.Normalize'
                  init: {{kwargs: {{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}}}
  &val_id mine/val: !import_call
    key: 'torchvision.datasets.ImageFolder'
    init: {{kwargs: {{root: !join ['{root}', '/val'], transform: *transform}}}}
models:
  teacher_model: {{key: {teacher}, kwargs: {{num_classes: 4}}, src_ckpt: '{root}/{teacher}.pt'}}
  student_model: {{key: resnet18, kwargs: {{num_classes: 4}}, src_ckpt: '{root}/resnet18.pt'}}
train:
  log_freq: 1
"""
STAGE = """
num_epochs: {epochs}
train_data_loader: &train_loader
  dataset_id: *train_id
  sampler: {{class_or_func: !import_get {{key: torch.utils.data.RandomSampler}}, kwargs: }}
  kwargs: {{batch_size: 8, num_workers: 0, pin_memory: False, drop_last: False}}
val_data_loader:
  dataset_id: *val_id
  sampler: {{class_or_func: !import_get {{key: torch.utils.data.SequentialSampler}}, kwargs: }}
  kwargs: {{batch_size: 8, num_workers: 0, pin_memory: False, drop_last: False}}
teacher:
{teacher}
student:
{student}
optimizer: {{key: SGD, kwargs: {{lr: {rate:.8f}, momentum: 0.9, weight_decay: 0.0001}}}}
scheduler: {{key: MultiStepLR, kwargs: {{milestones: [3], gamma: 0.1}}}}
criterion:
  key: WeightedSumLoss
  kwargs:
    sub_terms:
{terms}
"""
CE = """
ce:
  criterion: {key: CrossEntropyLoss, kwargs: {reduction: mean}}
  criterion_wrapper:
    key: SimpleLossWrapper
    kwargs:
      input: {is_from_teacher: False, module_path: '.', io: output}
      target: {uses_label: True}
  weight: 1.0
"""
LOGITS = "student_module_path: '.', student_module_io: output, teacher_module_path: '.', teacher_module_io: output"
LAYERS = (64, 128, 256, 512)


def mid(name: str, loss: str, weight: float, kwargs: str) -> str:
    """A term of one of torchdistill's own losses; ``kwargs`` in flow style."""
    return f"{name}:\n  criterion: {{key: {loss}, kwargs: {{{kwargs}}}}}\n  weight: {weight:.8f}\n"


def wrapped(name: str, loss: str, student: str, teacher: str, weight: float, io: str = "output") -> str:
    """A term of a loss of torch, between a module of the student and one of the teacher."""
    key, _, reduction = loss.partition("/")
    return textwrap.dedent(
        f"""\
        {name}:
          criterion: {{key: {key}, kwargs: {{reduction: {reduction or "mean"}}}}}
          criterion_wrapper:
            key: SimpleLossWrapper
            kwargs:
              input: {{is_from_teacher: False, module_path: '{student}', io: {io}}}
              target: {{is_from_teacher: True, module_path: '{teacher}', io: {io}}}
          weight: {weight:.8f}
        """
    )


def hooks(outputs: str = "", inputs: str = "") -> str:
    """Hooks of a model."""
    return f"forward_hook: {{input: [{inputs}], output: [{outputs}]}}\n"


def wrapper(key: str, kwargs: str) -> str:
    """An auxiliary wrapper; ``kwargs`` in flow style."""
    return f"auxiliary_model_wrapper: {{key: {key}, kwargs: {{{kwargs}}}}}\n"


def stage(terms: str, student: str = LEARNS, teacher: str = FROZEN, epochs: int = EPOCHS, rate: float = 0.0005) -> str:
    """The body of a stage."""
    parts = {"student": textwrap.indent(student, "  "), "teacher": textwrap.indent(teacher, "  ")}
    return STAGE.format(epochs=epochs, rate=rate, terms=textwrap.indent(terms, "      "), **parts)


def document(root: Path, *stages: str, teacher: str = "resnet34") -> str:
    """A whole file. Anchors of a second stage would be defined twice, so they are left out there."""
    head = HEAD.format(root=root, teacher=teacher)
    if len(stages) == 1:
        return head + textwrap.indent(stages[0], "  ")
    named = [f"  stage{number}:\n" + textwrap.indent(body, "    ") for number, body in enumerate(stages, start=1)]
    return head + named[0] + "".join(body.replace("&train_loader", "") for body in named[1:])


def _pairs(names: str, teacher: str = "layer{}", student: str = "layer{}") -> str:
    ends = [
        f"pair{n}: {{teacher: {{io: output, path: {teacher.format(n)}}}, student: {{io: output, path: {student.format(n)}}}, weight: 1}}"
        for n in map(int, names)
    ]
    return "{" + ", ".join(ends) + "}"


def _connectors() -> str:
    one = "connector{n}: {{io: output, path: student_model.layer{n}, conv2d_kwargs: {{in_channels: {c}, out_channels: {c}, kernel_size: 1, stride: 1, padding: 0, bias: False}}, bn2d_kwargs: {{num_features: {c}}}}}"
    return ", ".join(one.format(n=n, c=c) for n, c in enumerate(LAYERS, start=1))


def _regressors() -> str:
    one = "regressor{n}: {{io: output, path: student_model.layer{n}, kwargs: {{in_channels: {c}, middle_channels: {c}, out_channels: {c}, eps: 1.0e-05, init_pred_var: 5.0}}}}"
    return ", ".join(one.format(n=n, c=c) for n, c in enumerate(LAYERS, start=1))


def _listed(pattern: str, numbers: str = "1234") -> str:
    return ", ".join(f"'{pattern.format(n)}'" for n in numbers)


def _fusions() -> str:
    one = "{{path: student_model.layer{n}.-1.relu, io: input, kwargs: {{in_channels: {c}, mid_channels: 512, out_channels: {c}}}}}"
    levels = [one.format(n=n, c=c) for n, c in enumerate(LAYERS, start=1)]
    last = "{path: student_model.avgpool, io: output, kwargs: {in_channels: 512, mid_channels: 512, out_channels: 512}}"
    return ", ".join([*levels, last])


def _review() -> str:
    level = "student_module_path: abf_modules.{}, student_module_io: output, teacher_module_path: {}, teacher_module_io: {}, reduction: mean, output_sizes: [4, 2, 1]"
    maps = [
        mid(f"layer{n}", "HierarchicalContextLoss", 1.0, level.format(5 - n, f"layer{n}.-1.relu", "input"))
        for n in range(1, 5)
    ]
    return CE + "".join(maps) + mid("avgpool", "HierarchicalContextLoss", 1.0, level.format(0, "avgpool", "output"))


FT = "input_module_path: 'teacher_model.layer4', paraphraser_kwargs: {{k: 0.5, num_input_channels: 512, kernel_size: 3, stride: 1, padding: 1, uses_bn: False}}, paraphraser_ckpt: '{root}/paraphraser.pt', minimal: , uses_decoder: {decodes}"
TRANSLATOR = "input_module_path: 'student_model.layer4', translator_kwargs: {num_input_channels: 512, num_output_channels: 256, kernel_size: 3, stride: 1, padding: 1, uses_bn: False}"
RECONSTRUCTION = """
reconst:
  criterion: {key: MSELoss, kwargs: {reduction: mean}}
  criterion_wrapper:
    key: SimpleLossWrapper
    kwargs:
      input: {is_from_teacher: True, module_path: paraphraser, io: output}
      target: {is_from_teacher: True, module_path: teacher_model.layer4, io: output}
  weight: 1.0
"""
TRUNK = "forward_proc: 'forward_batch_only'\nsequential: [conv1, bn1, relu, maxpool, layer1]\nwrapper:\n"
REGRESSOR = "adaptations: {convreg: {key: ConvReg, kwargs: {num_input_channels: 64, num_output_channels: 64, kernel_size: 1, stride: 1, padding: 0, uses_relu: True}}}\n"
SRD = "input_module: {path: model.layer4, io: output}, norm_kwargs: {num_features: 512, eps: 0.0001, affine: False}"


def factor_transfer(root: Path) -> str:
    """Two stages: the paraphraser learns, then the student from it."""
    teacher = "forward_proc: 'forward_batch_only'\nsequential: []\nwrapper:\n"
    taps = hooks("teacher_model.layer4, paraphraser")
    first = stage(
        RECONSTRUCTION,
        student=wrapper("EmptyModule", "") + WITHOUT + "requires_grad: False\n",
        teacher=teacher
        + wrapper("Teacher4FactorTransfer", FT.format(root=root, decodes=True))
        + taps
        + "requires_grad: True\nfrozen_modules: [teacher_model]\n",
        epochs=2,
    )
    second = stage(
        CE
        + mid(
            "ft", "FTLoss", 100.0, "p: 1, reduction: mean, paraphraser_path: paraphraser, translator_path: translator"
        ),
        student=LEARNS + wrapper("Student4FactorTransfer", TRANSLATOR) + hooks("student_model.layer4, translator"),
        teacher=FROZEN + wrapper("Teacher4FactorTransfer", FT.format(root=root, decodes=False)) + taps,
        epochs=3,
    )
    return document(root, first, second)


def fitnet(root: Path) -> str:
    """Two stages: the regressor's outputs are the teacher's, then soft targets."""
    first = stage(
        wrapped("hint", "MSELoss/sum", "+convreg", "layer1", 1.0),
        student=TRUNK.replace("layer1]", "layer1, +convreg]")
        + REGRESSOR
        + hooks("'+convreg'")
        + "requires_grad: True\nfrozen_modules: []\n",
        teacher=TRUNK + hooks("layer1") + "requires_grad: False\n",
        epochs=2,
        rate=1e-7,
    )
    return document(root, first, stage(mid("kd", "KDLoss", 1.0, f"{LOGITS}, temperature: 4.0, alpha: 0.5"), epochs=3))


def _one(terms: str, student: str = "", teacher: str = "", rate: float = 0.0005) -> str:
    return stage(terms, LEARNS + student, FROZEN + teacher, rate=rate)


PATHS = "teacher_output_path: {0}, student_output_path: {0}"
SINGLE: dict[str, str] = {
    "kd": _one(mid("kd", "KDLoss", 1.0, f"{LOGITS}, temperature: 4.0, alpha: 0.9, reduction: batchmean")),
    "kd_alpha_zero": _one(mid("kd", "KDLoss", 2.0, f"{LOGITS}, temperature: 4.0, alpha: 0, reduction: batchmean")),
    "logit_standardization": _one(mid("kd", "LogitStdKDLoss", 1.0, f"{LOGITS}, temperature: 2.0, alpha: 0.5, beta: 9")),
    "dist": _one(CE + mid("dist", "DISTLoss", 2.0, f"{LOGITS}, beta: 1.0, gamma: 2.0, tau: 1.0")),
    "at": _one(
        CE + mid("at", "ATLoss", 10.0, f"at_pairs: {_pairs('34')}, mode: code"),
        hooks("layer3, layer4"),
        hooks("layer3, layer4"),
    ),
    "pooled": _one(CE + wrapped("l2", "MSELoss", "avgpool", "avgpool", 15.0), hooks("avgpool"), hooks("avgpool")),
    "pkt": _one(
        mid("pkt", "PKTLoss", 30000.0, LOGITS.replace("'.'", "fc").replace("output", "input") + ", eps: 0.0000001"),
        hooks(inputs="fc"),
        hooks(inputs="fc"),
    ),
    "rkd": _one(
        CE
        + mid("rkd", "RKDLoss", 1.0, PATHS.format("layer4") + ", dist_factor: 1.0, angle_factor: 2.0, reduction: mean"),
        hooks("layer4"),
        hooks("layer4"),
    ),
    "fsp": _one(
        CE
        + mid(
            "fsp",
            "FSPLoss",
            0.01,
            "fsp_pairs: {pair1: {teacher_first: {io: input, path: layer1}, teacher_second: {io: output, path: layer1}, "
            "student_first: {io: input, path: layer1}, student_second: {io: output, path: layer1}, weight: 1}, "
            "pair2: {teacher_first: {io: input, path: layer2.1}, teacher_second: {io: output, path: layer2}, "
            "student_first: {io: input, path: layer2.1}, student_second: {io: output, path: layer2}, weight: 2}}",
        ),
        hooks("layer1, layer2", "layer1, layer2.1"),
        hooks("layer1, layer2", "layer1, layer2.1"),
        rate=0.0001,
    ),
    "dab": _one(
        CE
        + mid(
            "dab",
            "AltActTransferLoss",
            0.00001,
            f"feature_pairs: {_pairs('1234', student='connector_dict.connector{}')}, margin: 1.0, reduction: mean",
        ),
        wrapper("Connector4DAB", f"connectors: {{{_connectors()}}}")
        + hooks(_listed("student_model.layer{}") + ", " + _listed("connector_dict.connector{}")),
        hooks(_listed("layer{}")),
    ),
    "vid": _one(
        CE
        + mid(
            "vid", "VIDLoss", 1.0, f"feature_pairs: {_pairs('1234', student='regressor_dict.regressor{}')}, margin: 1.0"
        ),
        wrapper("VariationalDistributor4VID", f"regressors: {{{_regressors()}}}")
        + hooks(_listed("student_model.layer{}") + ", " + _listed("regressor_dict.regressor{}")),
        hooks(_listed("layer{}")),
    ),
    "ickd": _one(
        CE + mid("cs", "ChSimLoss", 50.0, f"feature_pairs: {_pairs('4', student='embed_dict.embed{}')}"),
        wrapper(
            "Student4ICKD",
            "embeddings: {embed4: {path: student_model.layer4, io: output, in_channels: 512, out_channels: 512}}",
        )
        + hooks("student_model.layer4, embed_dict.embed4"),
        hooks("layer4"),
    ),
    "pad": _one(
        CE
        + mid(
            "pad",
            "PADL2Loss",
            1.0,
            "student_embed_module_path: student_model.avgpool, student_embed_module_io: output, teacher_embed_module_path: avgpool, "
            "teacher_embed_module_io: output, module_path: var_estimator, module_io: output, eps: 0.000001, reduction: mean",
        ),
        wrapper(
            "VarianceBranch4PAD",
            "input_module: {path: student_model.avgpool, io: output}, feat_dim: 512, var_estimator_ckpt: '{root}/variance.pt'",
        )
        + hooks("student_model.avgpool, var_estimator"),
        hooks("avgpool"),
    ),
    "srd": _one(
        CE
        + mid(
            "srd",
            "SRDLoss",
            0.1,
            "student_feature_module_path: norm_layer, student_feature_module_io: output, teacher_feature_module_path: norm_layer, "
            "teacher_feature_module_io: output, student_linear_module_path: '.', student_linear_module_io: output, "
            "teacher_linear_module_path: '.', teacher_linear_module_io: output, exponent: 4.0, temperature: 2.0, reduction: batchmean",
        ),
        wrapper("SRDModelWrapper", SRD + ", linear_kwargs: {in_features: 512, out_features: 512}")
        + hooks("model.layer4, norm_layer"),
        wrapper("SRDModelWrapper", SRD) + hooks("model.layer4, norm_layer"),
    ),
    "kr": _one(
        _review(),
        wrapper("Student4KnowledgeReview", f"abfs: [{_fusions()}], sizes: [1, 2, 4, 8, 16]")
        + hooks(
            "student_model.avgpool, " + ", ".join(f"abf_modules.{n}" for n in range(5)),
            _listed("student_model.layer{}.-1.relu"),
        ),
        hooks("avgpool", _listed("layer{}.-1.relu")),
    ),
    "cckd": stage(
        CE
        + mid(
            "cckd",
            "CCKDLoss",
            0.003,
            "teacher_linear_path: linear, student_linear_path: linear, kernel_config: {type: gaussian, gamma: 0.4, max_p: 2}, reduction: batchmean",
        ),
        LEARNS
        + wrapper(
            "Linear4CCKD",
            "input_module: {path: model.avgpool, io: output}, linear_kwargs: {in_features: 512, out_features: 16, bias: True}",
        )
        + hooks("model.avgpool, linear"),
        WITHOUT
        + wrapper(
            "Linear4CCKD",
            "input_module: {path: model.avgpool, io: output}, linear_kwargs: {in_features: 512, out_features: 16, bias: True}",
        )
        + hooks("model.avgpool, linear")
        + "requires_grad: True\nfrozen_modules: [model]\n",
    ),
    "streamlined": _one(
        CE
        + mid("instance", "SKDInstanceLoss", 1.0, f"{LOGITS}, temperature: 4.0")
        + mid("direction", "SKDDirectionLoss", 1.0, f"{LOGITS}, tikhonov: 0.1")
    ),
    "dist_plus": _one(
        CE
        + mid(
            "dist",
            "DISTPlusLoss",
            2.0,
            "student_logit_module_path: '.', student_logit_module_io: output, teacher_logit_module_path: '.', teacher_logit_module_io: output, "
            "student_feature_module_path: layer4, student_feature_module_io: output, teacher_feature_module_path: layer4, "
            "teacher_feature_module_io: output, beta: 2.0, gamma: 2.0, iota: 1.0, kappa: 1.0, tau: 1.0",
        ),
        hooks("layer4"),
        hooks("layer4"),
    ),
}
TWO_STAGES = {"ft": factor_transfer, "fitnet": fitnet}
FAMILIES = (*SINGLE, *TWO_STAGES)
APART = {"dist_plus": 2.0}
"""By how much torchdistill's losses are higher: a constant, which has no gradient."""


def text(name: str, root: Path) -> str:
    """The file of a family, whose data and weights are in ``root``."""
    if name in TWO_STAGES:
        return TWO_STAGES[name](root)
    return document(root, SINGLE[name].replace("{root}", str(root)))


def prepare(root: Path) -> None:
    """Write the images and the weights that the files name."""
    for part in ("train", "val"):
        for number in range(8):
            folder = root / part / f"class{number % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            grid = np.arange(SIDE * SIDE * 3).reshape(SIDE, SIDE, 3)
            pixels = (127 + 120 * np.sin(grid * (0.011 + 0.003 * number) + number)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    for seed, name in enumerate(("resnet18", "resnet34")):
        torch.manual_seed(seed)
        torch.save(getattr(models, name)(num_classes=CLASSES).state_dict(), root / f"{name}.pt")


def fill(name: str, parameter: nn.Parameter) -> None:
    """Set a parameter of what is added to the models: matrices by a formula of their size, biases 0, scales as they are."""
    with torch.no_grad():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            steps = torch.arange(parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
            parameter.copy_(torch.sin(0.37 * steps + 0.5) / fan_in**0.5)
        elif name.endswith("bias"):
            parameter.zero_()
