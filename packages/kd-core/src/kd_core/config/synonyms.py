"""Words of other tools for the keys of a config: what a hint names where a key is unknown.

Data, used by messages only.

A *place* is a path with ``*`` for every name that the user chooses, ``""`` is the top level. Words are those of
PyTorch, Lightning, transformers and torchdistill, and what else is common in training scripts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from kd_core.config import schema
from kd_core.errors import did_you_mean, nearest, same_word

STAGE = "stages.*"
TERM = "stages.*.losses.*"

SCHEMAS: dict[str, type[BaseModel]] = {
    "": schema.ExperimentSpec,
    STAGE: schema.StageSpec,
    TERM: schema.TermSpec,
    "models.*": schema.ModelSpec,
    "adapters.*": schema.AdapterSpec,
    "runtime": schema.RuntimeSpec,
    "checkpoint": schema.CheckpointSpec,
    "stages.*.optimizer": schema.OptimizerSpec,
    "stages.*.optimizer.groups.*": schema.GroupSpec,
    "stages.*.scheduler": schema.SchedulerSpec,
    "stages.*.monitor": schema.MonitorSpec,
    "stages.*.early_stopping": schema.EarlyStoppingSpec,
    "stages.*.validate": schema.ValidateSpec,
}
"""The keys of each place."""

SYNONYMS: dict[str, dict[str, str]] = {
    "": {
        "models.teacher": "teacher teacher_model",
        "models.student": "student student_model model",
        "data": "dataset datasets",
        "data.name": "dataset_name",
        "stages": "stage training trainer train_config",
        "adapters": "adaptations adaptation auxiliary_modules",
        "imports": "dependencies import plugins",
        "runtime": "trainer_args accelerator",
        "checkpoint": "checkpoints checkpointing",
        "log_every": "log_every_n_steps logging_steps log_freq log_interval print_freq",
        "seed": "random_seed manual_seed random_state",
        "name": "experiment_name run_name",
    },
    STAGE: {
        "epochs": "epoch num_epochs n_epochs max_epochs num_train_epochs",
        "steps": "max_steps num_steps total_steps max_train_steps num_training_steps max_iters iterations",
        "batch_size": "train_batch_size per_device_train_batch_size bs train_data_loader train_loader train_dataloader",
        "eval_batch_size": "test_batch_size val_batch_size per_device_eval_batch_size",
        "losses": "loss criterion criterion_wrapper loss_fn objective sub_terms terms",
        "train": "trainable requires_grad",
        "freeze": "frozen frozen_modules",
        "optimizer": "optim lr learning_rate weight_decay momentum",
        "scheduler": "lr_scheduler lr_scheduler_type lr_schedule sched",
        "accumulation_steps": "gradient_accumulation_steps accumulate_grad_batches grad_accum_step grad_accum_steps"
        " grad_accumulation_steps accumulate",
        "max_grad_norm": "clip_grad_norm clip_norm clip_grad gradient_clip_val grad_clip max_norm clip",
        "max_grad_value": "clip_value clip_grad_value gradient_clip_value",
        "ema": "ema_decay model_ema model_ema_decay",
        "early_stopping": "early_stop",
        "early_stopping.patience": "patience early_stopping_patience",
        "early_stopping.min_delta": "min_delta early_stopping_threshold",
        "validate": "evaluate eval validation eval_strategy evaluation_strategy",
        "validate.every_steps": "eval_steps val_check_interval",
        "validate.every_epochs": "check_val_every_n_epoch eval_every",
        "monitor": "best metric save_best",
        "monitor.metric": "metric_for_best_model",
        "monitor.mode": "mode greater_is_better",
        "drop_last": "dataloader_drop_last",
        "views": "view",
    },
    TERM: {
        "loss": "key type name criterion function",
        "weight": "alpha factor coef coefficient lambda loss_weight w",
        "temperature": "T t temp tau",
        "detach": "stop_gradient stop_grad",
        "target": "targets label labels y",
        "student": "student_output s_out input inputs pred",
        "teacher": "teacher_output t_out",
    },
    "models.*": {
        "arch": "key architecture model model_name name type backbone",
        "weights": "src_ckpt ckpt ckpt_path checkpoint pretrained pretrain state_dict load_from weights_path",
        "hub": "pretrained_model_name_or_path model_name_or_path huggingface hf",
        "run": "run_dir run_folder",
        "init_from": "copy_of like",
        "trainable": "requires_grad freeze frozen",
        "edit": "edits redesign sequential adaptations frozen_modules",
        "new_head": "ignore_mismatched_sizes",
    },
    "adapters.*": {
        "module": "key type name layer",
        "inputs": "input in io path from",
        "match": "like as",
        "out_features": "to width dim out_dim out_channels",
        "mask": "over",
    },
    "runtime": {
        "precision": "amp fp16 bf16 dtype torch_dtype mixed_precision",
        "fuse_bn": "fold fold_bn fold_batchnorm",
        "fused_optimizer": "fused",
        "channels_last": "memory_format",
        "compile": "torch_compile compiled",
    },
    "checkpoint": {
        "every_steps": "save_steps steps every_n_train_steps",
        "every_minutes": "minutes",
        "keep_last": "keep save_total_limit save_top_k",
    },
    "stages.*.optimizer": {"call": "key type name optimizer", "groups": "params param_groups module_wise_params"},
    "stages.*.optimizer.groups.*": {"params": "match modules module pattern name"},
    "stages.*.scheduler": {"call": "key type name scheduler", "interval": "per scheduling_step step_every"},
    "stages.*.monitor": {"metric": "monitor name metric_for_best_model", "mode": "greater_is_better direction"},
    "stages.*.early_stopping": {"min_delta": "delta threshold early_stopping_threshold", "patience": "wait"},
    "stages.*.validate": {"every_epochs": "epochs interval", "every_steps": "steps eval_steps"},
    "data": {
        "name": "dataset dataset_name key",
        "root": "data_dir path root_dir folder",
        "val": "validation val_split valid val_size",
        "size": "image_size img_size input_size resize",
        "augment": "transform transforms augmentation",
        "limit": "max_train_samples max_samples subset",
        "workers": "num_workers dataloader_num_workers",
        "max_length": "max_seq_length max_len",
        "tokenizer": "tokenizer_name",
    },
    "sweep": {"grid": "over parameters params search_space axes", "config": "base extends file", "seeds": "seed"},
}
"""For each place the keys, as a path below it where they are deeper, and the words that others have for them."""

ELSEWHERE: dict[str, dict[str, str]] = {
    STAGE: {
        "runtime.precision": "fp16 bf16 amp precision mixed_precision",
        "runtime.device": "device",
        "runtime.compile": "torch_compile",
        "log_every": "logging_steps log_every_n_steps log_freq",
        "checkpoint.every_steps": "save_steps",
        "checkpoint.keep_last": "save_total_limit save_top_k",
    },
    "": {
        "runtime.precision": "fp16 bf16 amp precision mixed_precision",
        "runtime.device": "device",
        "runtime.compile": "compile torch_compile",
        "checkpoint.every_steps": "save_steps",
        "checkpoint.keep_last": "save_total_limit save_top_k keep",
    },
}
"""For each place words of keys that stand at another place, whose whole path is given."""

REMARKS: dict[tuple[str, str], str] = {
    (TERM, "alpha"): "it is the factor of one term, so the other term has a weight of its own",
    (STAGE, "lr"): "write optimizer: !call:torch.optim.SGD {lr: 0.1}",
    (STAGE, "learning_rate"): "write optimizer: !call:torch.optim.SGD {lr: 0.1}",
    (STAGE, "weight_decay"): "write optimizer: !call:torch.optim.SGD {lr: 0.1, weight_decay: 1.0e-4}",
    (STAGE, "momentum"): "write optimizer: !call:torch.optim.SGD {lr: 0.1, momentum: 0.9}",
    (STAGE, "frozen_modules"): "it is a list of patterns, as student.layer1",
    (STAGE, "greater_is_better"): "it is max or min",
    (STAGE, "train_data_loader"): "the samples come from `data:`",
    (STAGE, "train_loader"): "the samples come from `data:`",
    (STAGE, "train_dataloader"): "the samples come from `data:`",
    (STAGE, "fp16"): "it is fp32, bf16 or fp16",
    (STAGE, "bf16"): "it is fp32, bf16 or fp16",
    ("", "fp16"): "it is fp32, bf16 or fp16",
    ("", "bf16"): "it is fp32, bf16 or fp16",
    ("models.*", "requires_grad"): "the student is always trained, others where trainable is true",
    ("models.*", "freeze"): "models other than the student are frozen unless trainable is true",
    ("models.*", "frozen"): "models other than the student are frozen unless trainable is true",
    ("stages.*.optimizer", "key"): "write !call:torch.optim.SGD {lr: 0.1}",
    ("stages.*.scheduler", "key"): "write !call:torch.optim.lr_scheduler.CosineAnnealingLR {T_max: 100}",
    ("stages.*.monitor", "greater_is_better"): "it is max or min",
}
"""What a hint says beside the key that is meant."""

NO_KEY: dict[tuple[str, str], str] = {
    ("", "dst_ckpt"): "a run saves its student in its own folder, which --out names",
    ("", "output_dir"): "--out names the run folder",
    ("", "test"): "`eval` scores a run on the test split; a run also ends with that",
    ("models.*", "dst_ckpt"): "a run saves its student in its own folder, which --out names",
    ("models.*", "kwargs"): "write the model's parameters beside `arch`, as in {arch: resnet, depth: 20}",
    ("models.*", "forward_hook"): "losses name the tensors they need, as in `student: student.layer3`",
    ("models.*", "forward_proc"): "the task gives a model its inputs: there is nothing to write",
    (STAGE, "forward_hook"): "losses name the tensors they need, as in `student: student.layer3`",
    (STAGE, "forward_proc"): "the task gives a model its inputs: there is nothing to write",
    (STAGE, "teacher"): "a stage says which losses read the teacher; the model itself is models.teacher",
    (STAGE, "student"): "the model itself is models.student",
    (STAGE, "warmup_steps"): "warm up with a scheduler: !call:torch.optim.lr_scheduler.LinearLR {...}, interval: step",
    (STAGE, "warmup_ratio"): "warm up with a scheduler: !call:torch.optim.lr_scheduler.LinearLR {...}, interval: step",
    (STAGE, "val_data_loader"): "the samples come from `data:`; eval_batch_size is the batch size of validation",
    (STAGE, "test_data_loader"): "the samples come from `data:`; eval_batch_size is the batch size of validation",
    (TERM, "kwargs"): "write the loss's parameters beside `loss`, as in {loss: kd, temperature: 4.0}",
    (TERM, "io"): "write the wires beside `loss`, as in `student: student.layer3`",
    ("adapters.*", "kwargs"): "write the adapter's parameters beside `module`",
}
"""Words for which a config has no key, and what there is in their stead."""

SHAPES: dict[str, str] = {
    "stages": "stages are named, in order: `stages: {NAME: {epochs: 1, ...}, ...}`",
    STAGE: "write the stage's keys below its name: `NAME: {epochs: 1, ...}`",
    "stages.*.losses": "losses are named: `losses: {kd: {loss: kd}, ...}`",
    TERM: "write the loss below its name: `kd: {loss: kd}`",
    "models": "models are named: `models: {student: {arch: NAME}, ...}`",
    "models.*": "write `student: {arch: NAME}`, or `zoo:`, `hub:`, `run:`",
    "adapters": "adapters are named: `adapters: {NAME: {module: ..., inputs: ...}, ...}`",
    "adapters.*": "write `NAME: {module: ..., inputs: ...}`",
    "data": "write `data: {name: NAME}`",
    "stages.*.optimizer": "write `optimizer: !call:torch.optim.SGD {lr: 0.1}`",
    "stages.*.scheduler": "write `scheduler: !call:torch.optim.lr_scheduler.CosineAnnealingLR {T_max: 100}`",
    "stages.*.monitor": "write `monitor: {metric: NAME, mode: max}`",
    "stages.*.early_stopping": "write `early_stopping: {patience: 5}`",
    "stages.*.validate": "write `validate: {every_epochs: 1}` or `validate: {every_steps: 100}`",
    "checkpoint": "write `checkpoint: {every_steps: 100}`",
}
"""What to write where a value is of another kind (a list for a mapping, say)."""


def place_of(path: Sequence[str | int]) -> str:
    """The place of a path: names that users choose become ``*``; the data of a stage are ``data``."""
    parts = list(map(str, path))
    if parts[:1] in (["stages"], ["models"], ["adapters"]) and len(parts) > 1:
        parts[1] = "*"
    if parts[:1] == ["stages"] and len(parts) > 3 and parts[2] == "losses":
        parts[3] = "*"
    if parts[2:4] == ["optimizer", "groups"] and len(parts) > 4:
        parts[4] = "*"
    if parts[:1] == ["stages"] and parts[2:3] == ["data"]:
        parts = parts[2:]
    return ".".join(parts)


def meant(place: str, word: str, keys: Iterable[str]) -> str | None:
    """The key among ``keys`` that a word stands for at a place, None where it is none of them."""
    known = list(keys)
    same = same_word(word, known)
    named = _listed(SYNONYMS.get(place, {}), word)
    return same or (named if named in known else None) or (None if _elsewhere(place, word) else nearest(word, known))


def key_hint(path: Sequence[str | int], keys: Sequence[str], document: Mapping[str, Any]) -> str | None:
    """What to write instead of an unknown key, of which ``keys`` are the known ones at its place."""
    place, word = place_of(path[:-1]), str(path[-1])
    if (place, word) in NO_KEY and not same_word(word, keys):
        return NO_KEY[place, word]
    target = meant(place, word, keys) or _elsewhere(place, word)
    if target is None:
        return did_you_mean(word, list(keys)) if keys else None
    remark = REMARKS.get((place, word))
    return f"did you mean {with_names(target, document)!r}?" + (f" {remark}" if remark else "")


def with_names(path: str, document: Mapping[str, Any]) -> str:
    """A path with the name of the document's first stage for that of a stage."""
    stages = document.get("stages")
    first = next(iter(stages), "NAME") if isinstance(stages, Mapping) else "NAME"
    return path.replace(STAGE, f"stages.{first}", 1)


def _elsewhere(place: str, word: str) -> str | None:
    """The whole path of the key that a word means, where that stands at another or a deeper place."""
    deeper = _listed(SYNONYMS.get(place, {}), word)
    if deeper is not None and "." in deeper:
        return f"{place}.{deeper}" if place else deeper
    if other := _listed(ELSEWHERE.get(place, {}), word):
        return other
    for there in ("", STAGE) if place in ("", STAGE) else ():
        if there != place:
            key = word if word in SCHEMAS[there].model_fields else _listed(SYNONYMS[there], word)
            if key is not None:
                return f"{there}.{key}" if there else key
    return None


def _listed(table: Mapping[str, str], word: str) -> str | None:
    return next((key for key, words in table.items() if word in words.split()), None)
