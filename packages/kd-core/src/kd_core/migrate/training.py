"""torchdistill's stages -> ``stages:``: batches, what is trained, optimizers and schedulers."""

from __future__ import annotations

from typing import Any

from kd_core.config.syntax.lazy import Call, RunValue
from kd_core.migrate.draft import Draft, number
from kd_core.migrate.source import Node
from kd_core.migrate.wires import WITHOUT_PARAMETERS, Side

LAYERS = ("conv1", "layer1", "layer2", "layer3", "layer4")
"""The children with parameters of a detector's backbone, whose batch norm is frozen."""


def batches(draft: Draft, node: Node, loader: Node) -> dict[str, Any]:
    """``batch_size`` and its like, of a stage's optimizer and data loaders, of which ``loader`` is the training one."""
    values: dict[str, Any] = {}
    validation = node["val_data_loader"]
    micro = number(node["optimizer"]["grad_accum_step"].number(1))
    if loader:
        if sampler := loader["batch_sampler"]:
            _grouped(draft, sampler)
        size = process_batch(loader)
        values["batch_size"] = size * micro * draft.options.processes
        if loader["kwargs"]["drop_last"].flag() or sampler:
            values["drop_last"] = True
        _samplers(loader)
    if micro > 1:
        values["accumulation_steps"] = micro
    if validation:
        size = validation["kwargs"]["batch_size"].number(1)
        if size * draft.options.processes != values.get("batch_size"):
            values["eval_batch_size"] = size
        _samplers(validation)
    return values


def process_batch(loader: Node) -> int:
    """The batch size of one process."""
    sampler = loader["batch_sampler"]
    return int((sampler["kwargs"] if sampler else loader["kwargs"])["batch_size"].number(1))


def _grouped(draft: Draft, sampler: Node) -> None:
    """Batches of images of like shape."""
    if sampler["key"].text() != "GroupedBatchSampler":
        sampler["key"].fail("only GroupedBatchSampler can be translated")
    groups = sampler["kwargs"]["group_ids"].call()
    factor = groups[1]["aspect_ratio_group_factor"].number(3) if groups else 3
    if groups:
        groups[1].skip("dataset")
    if factor != 3:
        draft.config.setdefault("data", {})["group_by_aspect_ratio"] = factor


def _samplers(loader: Node) -> None:
    """Random order in training and none in validation are what there is."""
    loader.skip("cache_output", "requires_supp", "dataset_id")
    loader["kwargs"].skip(
        "num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "batch_size", "drop_last"
    )
    kind = str(loader["sampler"]["class_or_func"].plain() or "").rpartition(".")[2]
    if kind not in ("", "RandomSampler", "SequentialSampler"):
        loader["sampler"]["class_or_func"].fail(f"the sampler {kind} cannot be translated")
    if loader["sampler"]["kwargs"]:
        loader["sampler"]["kwargs"].fail("arguments of a sampler cannot be translated")
    collate = loader["collate_fn"].text()
    known = ("", "coco_collate_fn", "coco_seg_collate_fn", "coco_seg_eval_collate_fn", "default_data_collator")
    if collate not in (*known, "DataCollatorWithPadding"):
        loader["collate_fn"].fail(f"the collate function {collate!r} cannot be translated")
    wrapper = loader["dataset_wrapper"]
    if wrapper["key"].text() not in ("", "CRDDatasetWrapper", "SSKDDatasetWrapper"):
        wrapper["key"].fail("only CRDDatasetWrapper and SSKDDatasetWrapper can be translated")
    wrapper["kwargs"].skip("num_negative_samples", "mode", "ratio")


def read_model(draft: Draft, node: Node, side: Side) -> None:
    """Look at the keys of a stage's ``teacher`` or ``student`` that a config does not need, or only in part."""
    node.skip("forward_hook", "wrapper", *(("sequential",) if side.name == "teacher" else ()))
    learns = node["requires_grad"].flag(True)
    frozen = node["frozen_modules"].plain() or []
    if side.name == "teacher" and node and learns and not {"teacher_model", "model"} & set(frozen):
        node["requires_grad"].fail(
            "a teacher that learns cannot be translated", "write `trainable: true` at the model by hand"
        )
    procedure = node["forward_proc"].text()
    known = ("", "forward_batch_only", "forward_batch_target", "forward_batch_supp_dict", "forward_batch4sskd")
    if procedure not in (*known, "forward_batch_as_kwargs", "forward_batch_only_as_kwargs", "forward_all"):
        node["forward_proc"].fail(f"the procedure {procedure!r} cannot be translated")


def trained(draft: Draft, stage: str, student: Node, teacher: Node, sides: tuple[Side, Side]) -> dict[str, Any]:
    """``train`` and ``freeze`` of a stage, where they are not the default."""
    pupil, master = sides
    frozen = [pupil.module(path.text()) for path in student["frozen_modules"].items()]
    if draft.config["models"]["student"].get("norm") == "frozen":  # which has no parameters
        frozen = [path for path in frozen if not path.rpartition(".")[2].startswith("bn")]
    sequential = [path for path in student["sequential"].items() if not path.text().startswith("+")]
    adapters = [*pupil.adapters, *(master.adapters if teacher["requires_grad"].flag(True) else [])]
    values: dict[str, Any] = {}
    if pupil.absent or not student["requires_grad"].flag(True):
        return {"train": list(dict.fromkeys(adapters))}
    if pupil.extra.get("body"):
        layers = [f"backbone.body.{layer}" for layer in LAYERS]
        return {"train": [f"student.{layer}" for layer in layers if layer not in frozen]}
    if sequential:
        _frozen_statistics(draft, stage, frozen)
        values["train"] = _parts([pupil.module(path.text()) for path in sequential], frozen) + adapters
    elif frozen:
        _frozen_statistics(draft, stage, frozen)
        values["freeze"] = [f"student.{path}" for path in frozen if path.rpartition(".")[2] not in WITHOUT_PARAMETERS]
    left_alone = [wire for wire in master.adapters if not teacher["requires_grad"].flag(True)]
    if left_alone and "train" not in values:
        values["freeze"] = [*values.get("freeze", []), *left_alone]
    return values


def _frozen_statistics(draft: Draft, stage: str, frozen: list[str]) -> None:
    if frozen and draft.task == "image_classification":
        draft.differ("frozen-statistics", "stages", stage)


def _parts(modules: list[str], frozen: list[str]) -> list[str]:
    """Patterns of the modules that are trained: what is frozen within one is left out by naming its other children."""
    patterns = []
    for module in modules:
        if module.rpartition(".")[2] in WITHOUT_PARAMETERS or module in frozen:
            continue
        inside = [path for path in frozen if path.startswith(f"{module}.") or not module]
        if not inside:
            patterns.append(f"student.{module}")
        elif not module:
            patterns += [f"student.{name}" for name in ("Mixed_5b",) if name not in frozen]
    return patterns


def optimizer(draft: Draft, stage: str, node: Node, side: Side) -> dict[str, Any]:
    """``optimizer`` and how gradients are clipped."""
    key, kwargs = node["key"].text(), dict(node["kwargs"].plain() or {})
    node.skip("filters_params", "grad_accum_step")
    groups: list[dict[str, Any]] = []
    if key == "optimizer_no_decay":
        key = str(kwargs.pop("optimizer_key", "AdamW"))
        kwargs.pop("no_decay", None)
        if kwargs.get("weight_decay"):
            groups.append({"params": ["*.bias", "*LayerNorm.weight"], "weight_decay": 0.0})
    for part in (node["module_wise_configs"] or node["module_wise_kwargs"]).items():
        module, options = side.module(part["module"].text()), dict(part["kwargs"].plain() or {})
        if options:
            groups.append({"params": f"student.{module}", **_rates(draft, options)})
    call = Call(f"torch.optim.{key}", kwargs=_rates(draft, kwargs))
    values: dict[str, Any] = {"optimizer": {"call": call, "groups": groups} if groups else call}
    if node["max_grad_norm"]:
        values["max_grad_norm"] = node["max_grad_norm"].number()
    return values


def _rates(draft: Draft, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the learning rate of all processes, and numbers as a person writes them."""
    factor = draft.options.rate_factor
    scaled = {key: value * factor if key == "lr" and factor != 1 else value for key, value in kwargs.items()}
    return {key: number(value) if isinstance(value, float) and key == "lr" else value for key, value in scaled.items()}


def scheduler(draft: Draft, stage: str, node: Node, accumulation: int) -> Any:
    """``scheduler``; None without one."""
    key, kwargs = node["key"].text(), node["kwargs"]
    if not key:
        return None
    per_step = node["scheduling_step"].number(0)
    if per_step > 1:
        node["scheduling_step"].fail("a scheduler can be stepped after each step or each epoch only")
    if key == "poly_lr_scheduler":
        kwargs.skip("num_iterations", "num_epochs")
        if accumulation > 1:
            draft.differ("schedule-half-way", "stages", stage, "scheduler")
        power = number(kwargs["power"].number(0.9))
        call = Call("torch.optim.lr_scheduler.PolynomialLR", kwargs={"total_iters": RunValue("steps"), "power": power})
        return {"call": call, "interval": "step"}
    if key in ("get_linear_schedule_with_warmup", "linear"):
        kwargs.skip("num_training_steps")
        if kwargs["num_warmup_steps"].number(0):
            kwargs["num_warmup_steps"].fail("a warm-up of steps cannot be translated", "choose a scheduler by hand")
        rates = {"start_factor": 1.0, "end_factor": 0.0, "total_iters": RunValue("steps")}
        return {"call": Call("torch.optim.lr_scheduler.LinearLR", kwargs=rates), "interval": "step"}
    if key.startswith("get_"):
        node["key"].fail(f"transformers' scheduler {key} cannot be translated", "choose one of torch by hand")
        return None
    call = Call(f"torch.optim.lr_scheduler.{key}", kwargs=kwargs.plain() or {})
    if call.kwargs.get("gamma") == 0.1 and key in ("MultiStepLR", "StepLR"):
        del call.kwargs["gamma"]
    return {"call": call, "interval": "step"} if per_step else call
