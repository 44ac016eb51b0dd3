"""What files of torchdistill become: one feature a test."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.core.migrate.conftest import KD, MODELS, STAGE, Migrate, document

from kd_core.config import load, loads
from kd_core.config.syntax.lazy import Call, RunValue
from kd_core.errors import KDError
from kd_core.migrate import KINDS, Options, convert, text_of

Config = Callable[..., dict[str, Any]]
Problems = Callable[[str], list[str]]
OUTPUTS = "student_module_path: '.', student_module_io: output, teacher_module_path: '.', teacher_module_io: output"


def terms(config: dict[str, Any]) -> dict[str, Any]:
    """The terms of a config's only stage."""
    return dict(next(iter(config["stages"].values()))["losses"])


def term(loss: str, kwargs: str, weight: float = 1.0) -> str:
    """A term of a loss of torchdistill's."""
    return f"        mine:\n          criterion: {{key: {loss}, kwargs: {{{kwargs}}}}}\n          weight: {weight}\n"


def of_torch(loss: str, kwargs: str, target: str = "uses_label: True", path: str = "'.'") -> str:
    """A term of a loss of torch."""
    return f"""
        mine:
          criterion: {{key: {loss}, kwargs: {{{kwargs}}}}}
          criterion_wrapper:
            key: SimpleLossWrapper
            kwargs:
              input: {{is_from_teacher: False, module_path: {path}, io: output}}
              target: {{{target}}}
          weight: 2.0
"""


def test_a_file_becomes_a_config_as_a_person_would_write_it(migrate: Migrate) -> None:
    text = text_of(migrate(document()), "mine.yaml")
    body = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    assert body == [
        "task: image_classification",
        "data:",
        "  name: cifar10",
        "  root: !expanduser ~/pictures",
        "  val: 0",
        "models:",
        "  student: {arch: resnet20}",
        "  teacher: {zoo: resnet56}",
        "stages:",
        "  distill:",
        "    epochs: 10",
        "    batch_size: 64",
        "    eval_batch_size: 128",
        "    method: {method: kd, temperature: 4, weight: 0.1, ce_weight: 0.9}",
        "    optimizer: !call:torch.optim.SGD {lr: 0.1, momentum: 0.9, weight_decay: 0.0001}",
        "    scheduler: !call:torch.optim.lr_scheduler.MultiStepLR",
        "      milestones: [5, 8]",
    ]


def test_the_header_says_command_and_source_and_comments_what_differs(migrate: Migrate) -> None:
    lines = text_of(migrate(document()), "mine.yaml").splitlines()
    assert lines[0] == "# kd-vision train mine.yaml"
    assert lines[1].startswith("# From torchdistill's ")
    above = lines[lines.index("  teacher: {zoo: resnet56}") - 2]
    assert above.startswith("  # torchdistill (from 1.0 on) leaves the teacher in training mode")


def test_differences_have_kind_place_and_text(migrate: Migrate) -> None:
    draft = migrate(document())
    told = {(difference.kind, ".".join(difference.path)) for difference in draft.differences}
    assert told == {("chosen-on-test", "data"), ("teacher-in-training-mode", "models.teacher"), ("per-process", "")}


def test_faithful_does_as_torchdistill(config: Config) -> None:
    made = config(document(), faithful=True)
    assert made["models"]["teacher"] == {"zoo": "resnet56", "mode": "train"}
    assert made["data"]["dataset"]["val"] == made["data"]["dataset"]["test"]
    assert made["data"]["dataset"]["val"].kwargs["train"] is False


def test_processes_multiply_the_batch_and_the_rate_if_asked(config: Config) -> None:
    stage = config(document(), processes=3, adjust_lr=True)["stages"]["distill"]
    assert (stage["batch_size"], stage["optimizer"].kwargs["lr"]) == (192, 0.3)
    assert config(document(), processes=3)["stages"]["distill"]["optimizer"].kwargs["lr"] == 0.1


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        ("alpha: 1.0", {"ce": {"loss": "cross_entropy"}}),
        ("alpha: 0", {"mine": {"loss": "kd", "temperature": 4}}),
        (
            "alpha: 0.5, beta: 2.0",
            {"ce": {"loss": "cross_entropy", "weight": 0.5}, "mine": {"loss": "kd", "weight": 2, "temperature": 4}},
        ),
    ],
)
def test_alpha_and_beta_weigh_labels_and_soft_targets(config: Config, alpha: str, expected: dict[str, Any]) -> None:
    assert terms(config(document(term("KDLoss", f"{OUTPUTS}, temperature: 4.0, {alpha}")))) == expected


def test_an_alpha_of_0_leaves_t_squared_out_in_torchdistill(config: Config) -> None:
    made = config(document(term("KDLoss", f"{OUTPUTS}, temperature: 4.0, alpha: 0", 2.0)), faithful=True)
    assert terms(made)["mine"]["weight"] == 2 / 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            of_torch("CrossEntropyLoss", "reduction: mean, label_smoothing: 0.1"),
            {"loss": "cross_entropy", "weight": 2, "label_smoothing": 0.1},
        ),
        (
            of_torch("MSELoss", "reduction: sum", "is_from_teacher: True, module_path: layer3, io: output", "layer3"),
            {"loss": "squared_error", "weight": 128, "student": "student.layer3", "teacher": "teacher.layer3"},
        ),
        (
            of_torch("HuberLoss", "delta: 0.5", "is_from_teacher: True, module_path: fc, io: input", "fc"),
            {
                "loss": Call("torch.nn.HuberLoss", kwargs={"delta": 0.5}),
                "weight": 2,
                "input": "student.fc",
                "target": "teacher.fc:in",
            },
        ),
        (
            term(
                "PKTLoss",
                "student_module_path: fc, student_module_io: input, teacher_module_path: fc, teacher_module_io: input, eps: 0.0000001",
            ),
            {"loss": "pkt", "student": "student.fc:in", "teacher": "teacher.fc:in"},
        ),
        (
            term("SPKDLoss", "student_output_path: layer3, teacher_output_path: layer3, reduction: batchmean", 3.0),
            {"loss": "similarity_preserving", "weight": 3, "student": "student.layer3", "teacher": "teacher.layer3"},
        ),
        (
            term("DISTLoss", f"{OUTPUTS}, beta: 2.0, gamma: 1.0, tau: 1.0"),
            {"loss": "dist", "beta": 2, "gamma": 1, "temperature": 1},
        ),
        (term("SKDDirectionLoss", f"{OUTPUTS}, tikhonov: 0.1"), {"loss": "streamlined_direction", "tikhonov": 0.001}),
        (term("SKDInstanceLoss", f"{OUTPUTS}, temperature: 2.0"), {"loss": "kd", "weight": 0.25, "temperature": 2}),
    ],
)
def test_losses(config: Config, text: str, expected: dict[str, Any]) -> None:
    assert terms(config(document(text)))["mine"] == expected


def test_attention_has_a_term_for_each_pair(config: Config) -> None:
    pair = "{teacher: {io: output, path: layer%s}, student: {io: output, path: layer%s}, weight: %s}"
    pairs = f"at_pairs: {{one: {pair % (2, 2, 1)}, two: {pair % (3, 3, 2)}}}, mode: code"
    made = terms(config(document(term("ATLoss", pairs, 10))))
    assert {name: (value["weight"], value["student"]) for name, value in made.items()} == {
        "mine_layer2": (10, "student.layer2"),
        "mine_layer3": (20, "student.layer3"),
    }


def test_the_input_of_a_block_s_relu_is_before_it_or_as_torchdistill_sees_it(config: Config) -> None:
    text = document(of_torch("MSELoss", "", "is_from_teacher: True, module_path: layer3.-1.relu, io: input", "layer3"))
    assert terms(config(text))["mine"]["teacher"] == "teacher.layer3.-1.relu:in:-1"
    assert terms(config(text, faithful=True))["mine"]["teacher"] == "teacher.layer3"


def test_wrappers_become_adapters_that_terms_read(config: Config) -> None:
    linear = "auxiliary_model_wrapper: {key: Linear4CRD, kwargs: {input_module_path: model.avgpool, linear_kwargs: {in_features: 64, out_features: 32, bias: True}, power: 2}}"
    text = term(
        "CRDLoss",
        "student_norm_module_path: normalizer, teacher_norm_module_path: normalizer, student_empty_module_path: empty, input_size: 32, output_size: 50000, num_negative_samples: 100, num_samples: 50000, temperature: 0.07, momentum: 0.5, eps: 0.0000001",
    )
    made = config(document(text, student=linear, teacher=linear))
    assert made["adapters"]["student_embedding"] == {
        "module": "embedding",
        "inputs": "student.avgpool",
        "out_features": 32,
    }
    assert terms(made)["mine"] == {
        "loss": "crd",
        "student": "adapters.student_embedding",
        "teacher": "adapters.teacher_embedding",
        "dim": 32,
        "negatives": 100,
        "num_samples": RunValue("num_samples"),
        "targets": RunValue("targets"),
    }
    assert next(iter(made["stages"].values()))["freeze"] == ["adapters.teacher_embedding"]


def test_an_adaptation_is_an_adapter_and_sequential_says_what_is_trained(config: Config) -> None:
    regressor = "{convreg: {key: ConvReg, kwargs: {num_input_channels: 16, num_output_channels: 32, kernel_size: 1, stride: 1, padding: 0, uses_relu: True}}}"
    stage = STAGE.replace(
        "    adaptations:\n    sequential: []",
        f"    adaptations: {regressor}\n    sequential: [conv1, relu, layer1, +convreg]",
    )
    text = of_torch("MSELoss", "", "is_from_teacher: True, module_path: layer1, io: output", "+convreg")
    made = config(document(text, stage=stage))
    assert made["adapters"] == {
        "convreg": {
            "module": "projector",
            "inputs": "student.layer1",
            "out_features": 32,
            "kernel": 1,
            "norm": True,
            "activation": "relu",
        }
    }
    assert made["stages"]["distill"]["train"] == ["student.conv1", "student.layer1", "adapters.convreg"]


def two_stages(second: str) -> str:
    """A file of two stages, the second with other keys."""
    body = "\n".join(f"  {line}" for line in STAGE.replace("TEACHER", "").replace("STUDENT", "").splitlines())
    terms = "\n".join(f"  {line}" for line in KD.splitlines())
    return document(
        f"{terms}\n{textwrap.indent(textwrap.dedent(second), '  ')}", stage=f"\n  stage1:\n{body}\n", end=""
    )


def test_a_stage_gives_what_it_does_not_inherit(config: Config) -> None:
    second = """
    stage2:
      num_epochs: 5
      optimizer: {key: Adam, kwargs: {lr: 0.001}, grad_accum_step: 2}
      criterion:
        key: WeightedSumLoss
        kwargs: {sub_terms: {ce: {criterion: {key: CrossEntropyLoss, kwargs: {}}, criterion_wrapper: {key: SimpleLossWrapper, kwargs: {input: {is_from_teacher: False, module_path: '.', io: output}, target: {uses_label: True}}}, weight: 1.0}}}
"""
    stages = config(two_stages(second))["stages"]
    assert list(stages) == ["stage1", "stage2"]
    assert stages["stage2"] == {
        "epochs": 5,
        "batch_size": 128,
        "accumulation_steps": 2,
        "losses": {"ce": {"loss": "cross_entropy"}},
        "optimizer": Call("torch.optim.Adam", kwargs={"lr": 0.001}),
        "scheduler": None,
    }


def test_a_split_holds_as_many_out(migrate: Migrate, config: Config) -> None:
    whole = document()
    start, end = whole.index("datasets:"), whole.index("  &test_id")
    split = """datasets:
  parts: &parts !import_call
    _root: &root '~/pictures'
    key: 'torchdistill.datasets.util.split_dataset'
    init:
      kwargs:
        dataset_id: 'all'
        dataset: !import_call {key: torchvision.datasets.CIFAR10, init: {kwargs: {root: *root, train: True}}}
        lengths: [0.9, 0.1]
        generator_seed: 42
        sub_splits_configs:
          - transform: !import_call
              key: torchvision.transforms.Compose
              init: {kwargs: {transforms: [!import_call {key: 'torchvision.transforms.RandomHorizontalFlip', init: {kwargs: {p: 0.5}}}, !import_call {key: torchvision.transforms.Normalize, init: {kwargs: &normalize {mean: [0.49139968, 0.48215841, 0.44653091], std: [0.24703223, 0.24348513, 0.26158784]}}}]}}
          - transform:
  &train_id train: !access_by_index_or_key {data: *parts, index_or_key: 0}
  &val_id val: !access_by_index_or_key {data: *parts, index_or_key: 1}
"""
    text = (whole[:start] + split + whole[end:]).replace(
        "val_data_loader:\n    dataset_id: *test_id", "val_data_loader:\n    dataset_id: *val_id"
    )
    assert config(text)["data"] == {
        "name": "cifar10",
        "root": str(Path("~/pictures").expanduser()),
        "val": 0.1,
        "augment": ["flip"],
    }
    assert "other-split" in {difference.kind for difference in migrate(text).differences}


TEXTS = """
datasets:
  glue:
    name: &name sst2
    raw_data_kwargs: {train_file_path: , valid_file_path: }
    dataset_id_map: {train: &train !join [*name, /train], validation: &val !join [*name, /val]}
models:
  teacher_model: {model_name_or_path: &large teacher/large, config_kwargs: {pretrained_model_name_or_path: *large, num_labels: 2}, tokenizer_kwargs: {pretrained_model_name_or_path: *large, do_lower: True}, model_kwargs: {pretrained_model_name_or_path: *large}}
  student_model: {key: bert, model_name_or_path: &base student/base, config_kwargs: {pretrained_model_name_or_path: *base}, tokenizer_kwargs: {pretrained_model_name_or_path: *base}, model_kwargs: {pretrained_model_name_or_path: *base}}
train:
  num_epochs: 3
  train_data_loader: {dataset_id: *train, kwargs: {batch_size: 16}, collate_fn: DataCollatorWithPadding, requires_supp: False}
  val_data_loader: {dataset_id: *val, kwargs: {batch_size: 32}, collate_fn: DataCollatorWithPadding}
  teacher: {forward_proc: forward_batch_as_kwargs, requires_grad: False, forward_hook: {output: [classifier]}}
  student: {forward_proc: forward_batch_as_kwargs, requires_grad: True, forward_hook: {output: [classifier]}}
  optimizer: {key: optimizer_no_decay, kwargs: {optimizer_key: AdamW, lr: 1.0e-4, weight_decay: 0.01}, max_grad_norm: 1.0, filters_params: False}
  scheduler: {key: get_linear_schedule_with_warmup, kwargs: {num_warmup_steps: 0, num_training_steps: }, scheduling_step: 1}
  criterion:
    key: WeightedSumLoss
    kwargs:
      sub_terms:
        kd:
          criterion: {key: KDLoss, kwargs: {student_module_path: classifier, student_module_io: output, teacher_module_path: classifier, teacher_module_io: output, temperature: 3.0, alpha: 0.9}}
          weight: 1.0
"""


def test_texts_are_distilled_with_labels_or_without_as_torchdistill_does_it(config: Config) -> None:
    made = config(TEXTS)
    assert made["data"] == {"name": "sst2"}
    assert made["models"] == {"student": {"hub": "student/base"}, "teacher": {"hub": "teacher/large"}}
    assert {name: loss["weight"] for name, loss in terms(made).items()} == {"ce": 0.9, "kd": 0.1}
    optimizer = made["stages"]["distill"]["optimizer"]
    assert optimizer["groups"] == [{"params": ["*.bias", "*LayerNorm.weight"], "weight_decay": 0.0}]
    assert made["stages"]["distill"]["scheduler"]["interval"] == "step"
    assert terms(config(TEXTS, faithful=True)) == {"kd": {"loss": "kd", "weight": 0.111111111111, "temperature": 3}}


def test_models_of_torchvision_timm_and_of_the_split_kind(config: Config) -> None:
    models = """
models:
  teacher_model: {key: resnet152, kwargs: {num_classes: 1000, weights: !getattr [!import_get {key: torchvision.models.resnet.ResNet152_Weights}, IMAGENET1K_V2]}}
  student_model: {repo_or_dir: yoshitomo-matsubara/sc2-benchmark, key: custom_resnet152, kwargs: {bottleneck_channel: 9, bottleneck_idx: 7, num_classes: 1000}}
"""
    text = of_torch("MSELoss", "", "is_from_teacher: True, module_path: layer2, io: output", "bottleneck_layer")
    made = config(document(text, models=models))
    assert made["models"]["teacher"] == {"zoo": "torchvision.resnet152.IMAGENET1K_V2"}
    student = made["models"]["student"]
    assert student["arch"] == "torchvision.resnet152"
    assert student["edit"][0] == {
        "replace": "conv1",
        "with": Call("kd_vision.bottlenecks.FirstLayers", kwargs={"family": "resnet", "channels": 9}),
    }
    assert terms(made)["mine"]["student"] == "student.conv1"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (document(term("FreshLoss", "a: 1")), "the loss 'FreshLoss' cannot be translated"),
        (document(term("ATLoss", "at_pairs: {}, mode: paper")), "only the mode 'code' can be translated"),
        (
            document(teacher="auxiliary_model_wrapper: {key: Mine, kwargs: {}}"),
            "the wrapper 'Mine' cannot be translated",
        ),
        (document().replace("'forward_batch_only'", "'mine'"), "the procedure 'mine' cannot be translated"),
        (
            document().replace("RandomSampler'", "WeightedRandomSampler'"),
            "the sampler WeightedRandomSampler cannot be translated",
        ),
        (
            document(stage=STAGE.replace("requires_grad: False", "requires_grad: True")),
            "a teacher that learns cannot be translated",
        ),
        (
            document(models=MODELS.replace("resnet20", "resnet20\n    surprise: 1")),
            "the key 'surprise' cannot be translated",
        ),
        (
            document(models=MODELS.replace("{key: resnet56", "{repo_or_dir: some/where, key: resnet56")),
            "the models of some/where are not here",
        ),
        (
            document(stage=STAGE.replace("lr: 0.1", "lr: 0.1").replace("'WeightedSumLoss'", "'MyLoss'")),
            "the criterion 'MyLoss' cannot be translated",
        ),
    ],
)
def test_what_cannot_be_translated_is_an_error_with_its_place(problems: Problems, text: str, problem: str) -> None:
    (found,) = {line.partition(": ")[2].partition("\n")[0].partition(": ")[2] for line in problems(text)}
    assert found == problem
    assert all(line.startswith(":") and line[1].isdigit() for line in problems(text))


def test_all_problems_of_a_file_are_told_at_once(problems: Problems) -> None:
    text = document(
        term("FreshLoss", "a: 1"), student="auxiliary_model_wrapper: {key: Mine, kwargs: {}}", end="surprise: 1"
    )
    assert len(problems(text)) == 3


def test_every_kind_says_what_torchdistill_does_and_what_happens_here() -> None:
    assert all(kind.theirs and kind.corrected for kind in KINDS.values())


def test_nothing_of_a_file_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    file = tmp_path / "theirs.yaml"
    call = f"!import_call {{key: pathlib.Path.touch, init: {{kwargs: {{self: '{mark}'}}}}}}"
    file.write_text(
        document().replace("kwargs: {lr: 0.1, momentum: 0.9, weight_decay: 0.0001}", f"kwargs: {{lr: {call}}}"),
        encoding="utf-8",
    )
    with pytest.raises(KDError, match="!import_call cannot be translated here"):
        convert(str(file), Options())
    assert not mark.exists()


def test_what_is_written_reads_back_as_what_was_meant(migrate: Migrate, tmp_path: Path) -> None:
    draft = migrate(document())
    text = text_of(draft, "mine.yaml")
    assert loads(text).data["models"] == draft.config["models"]
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert load(tmp_path / "mine.yaml").data["task"] == "image_classification"
