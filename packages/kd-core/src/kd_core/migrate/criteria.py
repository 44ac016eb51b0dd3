"""torchdistill's criteria -> terms: what a model computes by itself, losses of torch, and its own."""

from __future__ import annotations

from kd_core.config.syntax.lazy import Call
from kd_core.migrate.mid_level import MID_LEVEL
from kd_core.migrate.source import Node
from kd_core.migrate.terms import Terms


def translate_criterion(terms: Terms, criterion: Node) -> None:
    """Add the terms of a stage's ``criterion``."""
    key = criterion["key"].text()
    if key != "WeightedSumLoss":
        criterion["key"].fail(f"the criterion {key!r} cannot be translated", "write its terms by hand")
        criterion.skip("kwargs", "func2extract_model_loss")
        return
    kwargs = criterion["kwargs"]
    if kwargs["model_term"]:
        _model_term(terms, criterion, kwargs["model_term"]["weight"].number(1))
    for name in kwargs["sub_terms"].names():
        term = kwargs["sub_terms"][name]
        loss, weight = term["criterion"], term["weight"].number(1)
        key = loss["key"].text()
        if handler := MID_LEVEL.get(key):
            handler(terms, name, loss["kwargs"], weight)
        elif term["criterion_wrapper"]:
            _wrapped(terms, name, term, weight)
        else:
            loss["key"].fail(f"the loss {key!r} cannot be translated", f"these can: {', '.join(MID_LEVEL)}")
            loss.skip("kwargs")


def _model_term(terms: Terms, criterion: Node, weight: float) -> None:
    """The losses that the model computes by itself."""
    extractor = criterion["func2extract_model_loss"].text()
    if extractor == "extract_model_loss_dict" and terms.draft.task == "object_detection":
        terms.add("detector", "identity", weight, value="student.output/loss", mean_over="samples")
    elif extractor == "extract_transformers_loss" and terms.draft.task == "text_classification":
        problem = terms.student.extra.get("problem")
        if problem == "regression":
            terms.add("labels", "mse", weight, teacher="batch.target")
        elif problem == "multi_label_classification":
            call = Call("torch.nn.BCEWithLogitsLoss")
            terms.add("labels", call, weight, input="student.output/logits", target="batch.target")
        else:
            terms.add("ce", "cross_entropy", weight)
    else:
        criterion["func2extract_model_loss"].fail(f"{extractor!r} cannot be translated")


def _source(terms: Terms, config: Node) -> str:
    """The wire of the ``input`` or ``target`` of a wrapped loss."""
    if config["uses_label"].flag():
        return "batch.target"
    side = terms.teacher if config["is_from_teacher"].flag() else terms.student
    return side.wire(config["module_path"], config["io"].text("output"))


def _wrapped(terms: Terms, name: str, term: Node, weight: float) -> None:
    """A loss of torch.nn in SimpleLossWrapper or DictLossWrapper."""
    wrapper = term["criterion_wrapper"]
    key, options = wrapper["key"].text(), wrapper["kwargs"]
    if key not in ("SimpleLossWrapper", "DictLossWrapper"):
        wrapper["key"].fail(
            f"the wrapper {key!r} cannot be translated", "these can: SimpleLossWrapper, DictLossWrapper"
        )
        return
    wires = {"input": _source(terms, options["input"]), "target": _source(terms, options["target"])}
    loss = term["criterion"]
    if key == "SimpleLossWrapper":
        _low_level(terms, name, loss, weight, **wires)
        return
    for part in options["weights"].names():
        scale = options["weights"][part].number(1)
        default = part == "out" and terms.draft.task == "semantic_segmentation"
        source = wires["input"] if default else f"{wires['input']}/{part}"
        _low_level(terms, name if part == "out" else part, loss, weight * scale, source, wires["target"])


def _low_level(terms: Terms, name: str, loss: Node, weight: float, input: str, target: str) -> None:
    """A term of a loss of torch.nn, as the loss here where there is one."""
    key, kwargs = loss["key"].text(), loss["kwargs"]
    reduction = kwargs["reduction"].text("mean")
    if key == "CrossEntropyLoss" and target == "batch.target" and reduction == "mean":
        smoothing, weights = kwargs["label_smoothing"].number(0), kwargs["weight"].plain()
        kwargs.skip("ignore_index")
        terms.add(
            name,
            "cross_entropy",
            weight,
            student=None if input == "student.output" else input,
            label_smoothing=smoothing or None,
            class_weights=weights,
        )
    elif key == "MSELoss" and reduction in ("mean", "sum"):
        compared = {"student": input, "teacher": target}
        compared = {} if terms.outputs(compared) else compared
        if reduction == "mean":
            terms.add(name, "mse", weight, **compared)
        else:
            if terms.last_batch:
                terms.differ("sum-of-last-batch")
            terms.add(name, "squared_error", weight * terms.batch, **compared)
    else:
        call = Call(f"torch.nn.{key}", kwargs=kwargs.plain() or {})
        terms.add(name, call, weight, input=input, target=target)
