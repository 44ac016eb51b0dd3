"""Words of other tools for the keys of a config: what a hint names where a key is unknown.

Data, used by messages only.

A *place* is a path with ``*`` for every name that the user chooses, ``""`` is the top level. Words are those of
PyTorch, Lightning, transformers and torchdistill, and what else is common in training scripts.
"""

from __future__ import annotations

from collections.abc import Mapping

from kd_core.errors import same_word

STAGE = "stages.*"
TERM = "stages.*.losses.*"

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
        "observers": "callbacks callback",
        "trackers": "tracker loggers logger log_with report_to tracking",
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
        "timm": "timm_model model_name_timm",
        "run": "run_dir run_folder",
        "init_from": "copy_of like",
        "trainable": "requires_grad freeze frozen",
        "edit": "edits redesign sequential adaptations frozen_modules",
        "new_head": "ignore_mismatched_sizes",
    },
    "adapters.*": {
        "module": "adapter key type name layer",
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
        "keep_finished": "keep_checkpoints save_last save_only_model",
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
    "call": {
        "lr": "learning_rate eta",
        "weight_decay": "wd l2 weight_decay_rate",
        "T_max": "t_max max_epochs epochs num_epochs",
        "milestones": "lr_steps decay_epochs",
        "gamma": "decay decay_rate lr_decay",
        "step_size": "decay_every",
        "total_iters": "total_steps num_training_steps warmup_steps",
    },
    "study": {
        "grid": "over parameters params axes",
        "config": "base extends file",
        "seeds": "seed",
        "search_space": "space distributions",
        "trials": "n_trials num_trials",
    },
}
"""For each place the keys, as a path below it where they are deeper, and the words that others have for them."""

ELSEWHERE: dict[str, dict[str, str]] = {
    "data": {f"{STAGE}.sampler": "sampler", f"{STAGE}.batch_size": "batch_size bs", f"{STAGE}.partners": "partners"},
    "runtime": {
        "data.workers": "workers num_workers dataloader_num_workers",
        f"{STAGE}.batch_size": "batch_size bs",
        f"{STAGE}.accumulation_steps": "accumulation_steps gradient_accumulation_steps",
    },
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
    (TERM, "alpha"): "It is the factor of one term, so the other term has a weight of its own",
    (STAGE, "lr"): "Write optimizer: !call:torch.optim.SGD {lr: 0.1}",
    (STAGE, "learning_rate"): "Write optimizer: !call:torch.optim.SGD {lr: 0.1}",
    (STAGE, "weight_decay"): "Write optimizer: !call:torch.optim.SGD {lr: 0.1, weight_decay: 1.0e-4}",
    (STAGE, "momentum"): "Write optimizer: !call:torch.optim.SGD {lr: 0.1, momentum: 0.9}",
    (STAGE, "frozen_modules"): "It is a list of patterns, as student.layer1",
    (STAGE, "greater_is_better"): "It is max or min",
    (STAGE, "train_data_loader"): "The samples come from `data:`",
    (STAGE, "train_loader"): "The samples come from `data:`",
    (STAGE, "train_dataloader"): "The samples come from `data:`",
    (STAGE, "fp16"): "It is fp32, bf16 or fp16",
    (STAGE, "bf16"): "It is fp32, bf16 or fp16",
    ("", "fp16"): "It is fp32, bf16 or fp16",
    ("", "bf16"): "It is fp32, bf16 or fp16",
    ("models.*", "requires_grad"): "The student is always trained, others where trainable is true",
    ("models.*", "freeze"): "Models other than the student are frozen unless trainable is true",
    ("models.*", "frozen"): "Models other than the student are frozen unless trainable is true",
    ("stages.*.optimizer", "key"): "Write !call:torch.optim.SGD {lr: 0.1}",
    ("stages.*.scheduler", "key"): "Write !call:torch.optim.lr_scheduler.CosineAnnealingLR {T_max: 100}",
    ("stages.*.monitor", "greater_is_better"): "It is max or min",
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
    ("data", "shuffle"): "each epoch shows the training samples in a random order; `sampler` of a stage changes that",
    ("runtime", "fast"): "write `runtime: fast`",
    ("runtime", "num_threads"): "the environment variable OMP_NUM_THREADS says how many threads there are",
    ("runtime", "threads"): "the environment variable OMP_NUM_THREADS says how many threads there are",
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
    "models.*": "write `student: {arch: NAME}`, or `zoo:`, `timm:`, `hub:`, `run:`",
    "adapters": "adapters are named: `adapters: {NAME: {module: ..., inputs: ...}, ...}`",
    "adapters.*": "write `NAME: {module: ..., inputs: ...}`",
    "data": "write `data: {name: NAME}`",
    "data.files": "write `files: {train: train.csv, val: val.csv}`",
    "data.shards": "write `shards: {train: 'train-{0000..0099}.tar'}`",
    "stages.*.optimizer": "write `optimizer: !call:torch.optim.SGD {lr: 0.1}`",
    "stages.*.scheduler": "write `scheduler: !call:torch.optim.lr_scheduler.CosineAnnealingLR {T_max: 100}`",
    "stages.*.monitor": "write `monitor: {metric: NAME, mode: max}`",
    "stages.*.early_stopping": "write `early_stopping: {patience: 5}`",
    "stages.*.validate": "write `validate: {every_epochs: 1}` or `validate: {every_steps: 100}`",
    "checkpoint": "write `checkpoint: {every_steps: 100}`",
    "observers": "observers are named: `observers: {gradient_norms: {every_steps: 100}}`",
    "stages.*.sampler": "write `sampler: class_balanced`, or a mapping such as `sampler: {name: class_balanced}`",
    "runtime": "write `runtime: fast`, or a mapping such as `runtime: {precision: bf16}`",
}
"""What to write where a value is of another kind (a list for a mapping, say)."""

VALUES: dict[str, dict[str, str]] = {
    "runtime.device": {"cuda": "gpu nvidia cuda:0", "mps": "metal apple"},
    "runtime.precision": {
        "fp32": "float32 float full 32 32-true",
        "bf16": "bfloat16 amp mixed bf16-mixed",
        "fp16": "float16 half 16 16-mixed",
    },
    "stages.*.sampler": {"class_balanced": "balanced", "weighted": "weighted_random weighted_random_sampler"},
    "data.decoder": {"pillow": "pil"},
}
"""For each place of a choice the words that others have for its values."""

NAMES: dict[str, dict[str, str]] = {
    "loss": {
        "kd": "KDLoss kl kl_div kldiv KLDivLoss kl_divergence soft_target hinton logits",
        "cross_entropy": "ce CrossEntropyLoss ce_loss xent nll",
        "mse": "MSELoss l2 l2_loss",
        "l1": "L1Loss mae",
        "attention_transfer": "at ATLoss",
        "factor_transfer": "ft FTLoss",
        "hint": "fitnet fitnets",
        "crd": "CRDLoss",
        "pkt": "PKTLoss",
        "rkd_distance": "rkd RKDLoss",
        "similarity_preserving": "sp spkd SPKDLoss",
        "hierarchical_context": "HierarchicalContextLoss reviewkd review_kd kr",
        "self_supervised_kd": "sskd SSKDLoss",
        "dist": "DISTLoss",
        "knowledge_adaptation": "kta KTALoss ktaad",
        "affinity": "AffinityLoss",
        "patience": "pkd patient_kd",
        "jensen_shannon": "jsd js",
        "reverse_kl": "rkl",
    },
    "adapter": {
        "projector": "linear conv regressor ConvReg connector",
        "paraphraser": "Paraphraser4FactorTransfer",
        "translator": "Translator4FactorTransfer",
        "fusion": "abf AttentionBasedFusion",
        "projection_head": "mlp head",
        "embedding": "embed Linear4CRD",
    },
    "task": {
        "image_classification": "classification vision images",
        "semantic_segmentation": "segmentation seg",
        "text_classification": "text nlp sequence_classification",
    },
}
"""For each kind of registered thing its names, and the words that others have for them."""


def listed(table: Mapping[str, str], word: str) -> str | None:
    """The key of a table of synonyms that a word stands for, in whatever case."""
    return next((key for key, words in table.items() if same_word(word, words.split())), None)
