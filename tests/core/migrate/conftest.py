"""Files in torchdistill's format, written for these tests, a part at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kd_core.config import loads
from kd_core.errors import KDError
from kd_core.migrate import Draft, Options, convert, text_of

IMAGES = """
datasets:
  &train_id cifar10/train: !import_call
    _root: &root '~/pictures'
    key: 'torchvision.datasets.CIFAR10'
    init:
      kwargs:
        root: *root
        train: True
        transform: !import_call
          key: 'torchvision.transforms.Compose'
          init:
            kwargs:
              transforms:
                - !import_call {key: 'torchvision.transforms.RandomCrop', init: {kwargs: {size: 32, padding: 4}}}
                - !import_call {key: 'torchvision.transforms.RandomHorizontalFlip', init: {kwargs: {p: 0.5}}}
                - !import_call {key: 'torchvision.transforms.ToTensor', init: }
                - !import_call
                  key: 'torchvision.transforms.Normalize'
                  init:
                    kwargs: &normalize
                      mean: [0.49139968, 0.48215841, 0.44653091]
                      std: [0.24703223, 0.24348513, 0.26158784]
  &test_id cifar10/test: !import_call
    key: 'torchvision.datasets.CIFAR10'
    init:
      kwargs:
        root: *root
        train: False
        transform: !import_call
          key: 'torchvision.transforms.Compose'
          init: {kwargs: {transforms: [!import_call {key: 'torchvision.transforms.ToTensor', init: }, !import_call {key: 'torchvision.transforms.Normalize', init: {kwargs: *normalize}}]}}
"""
MODELS = """
models:
  teacher_model: {key: resnet56, kwargs: {num_classes: 10, pretrained: True}, src_ckpt: }
  student_model:
    key: &student resnet20
    kwargs: {num_classes: 10, pretrained: False}
    src_ckpt:
    dst_ckpt: !join ['./ckpt/', *student, '.pt']
"""
STAGE = """
  num_epochs: 10
  train_data_loader:
    dataset_id: *train_id
    sampler: {class_or_func: !import_get {key: 'torch.utils.data.RandomSampler'}, kwargs: }
    kwargs: {batch_size: 64, num_workers: 16, pin_memory: True, drop_last: False}
    cache_output:
  val_data_loader:
    dataset_id: *test_id
    sampler: {class_or_func: !import_get {key: 'torch.utils.data.SequentialSampler'}, kwargs: }
    kwargs: {batch_size: 128, num_workers: 16, pin_memory: True, drop_last: False}
  teacher:
    forward_proc: 'forward_batch_only'
    sequential: []
    wrapper: 'DataParallel'
    requires_grad: False
    frozen_modules: []
    TEACHER
  student:
    forward_proc: 'forward_batch_only'
    adaptations:
    sequential: []
    wrapper: 'DistributedDataParallel'
    requires_grad: True
    frozen_modules: []
    STUDENT
  optimizer: {key: 'SGD', kwargs: {lr: 0.1, momentum: 0.9, weight_decay: 0.0001}}
  scheduler: {key: 'MultiStepLR', kwargs: {milestones: [5, 8], gamma: 0.1}}
  criterion:
    key: 'WeightedSumLoss'
    kwargs:
      sub_terms:
"""
KD = """
        kd:
          criterion:
            key: 'KDLoss'
            kwargs: {student_module_path: '.', student_module_io: output, teacher_module_path: '.', teacher_module_io: output, temperature: 4.0, alpha: 0.9, reduction: batchmean}
          weight: 1.0
"""
END = """
test:
  test_data_loader:
    dataset_id: *test_id
    kwargs: {batch_size: 1}
"""


def document(
    terms: str = KD, *, student: str = "", teacher: str = "", models: str = MODELS, stage: str = STAGE, end: str = END
) -> str:
    """A file of image classification."""
    stage = stage.replace("TEACHER", teacher).replace("STUDENT", student)
    return f"{IMAGES}{models}\ntrain:\n  log_freq: 100\n{stage}{terms}{end}"


Migrate = Callable[..., Draft]


@pytest.fixture
def migrate(tmp_path: Path) -> Migrate:
    """Migrate a text; what it becomes."""

    def run(text: str, **options: Any) -> Draft:
        file = tmp_path / "theirs.yaml"
        file.write_text(text, encoding="utf-8")
        return convert(str(file), Options(**options))

    return run


@pytest.fixture
def config(migrate: Migrate) -> Callable[..., dict[str, Any]]:
    """Migrate a text; the data of the config that is written."""

    def run(text: str, **options: Any) -> dict[str, Any]:
        return dict(loads(text_of(migrate(text, **options), "ours.yaml")).data)

    return run


@pytest.fixture
def problems(migrate: Migrate) -> Callable[[str], list[str]]:
    """Migrate a text that is wrong; the problems."""

    def run(text: str) -> list[str]:
        with pytest.raises(KDError) as error:
            migrate(text)
        return [str(problem).partition("theirs.yaml")[2] for problem in error.value.problems]

    return run
