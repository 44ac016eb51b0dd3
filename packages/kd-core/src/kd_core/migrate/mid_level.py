"""torchdistill's own losses -> terms: each of its registry as the loss here that equals it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kd_core.config.syntax.lazy import RunValue
from kd_core.migrate.draft import number, same_items
from kd_core.migrate.source import Node
from kd_core.migrate.terms import SIDES, Terms


def _kd(terms: Terms, name: str, kwargs: Node, weight: float, **standardize: bool) -> None:
    """KDLoss and LogitStdKDLoss: a term of the labels, and one of the soft targets."""
    alpha = None if kwargs["alpha"].slot.value is None else kwargs["alpha"].number()
    beta = kwargs["beta"].number(1 - (alpha or 0))
    temperature = kwargs["temperature"].number(1)
    wires = terms.pair(kwargs, "module")
    if kwargs["reduction"].text("batchmean") != "batchmean":
        kwargs["reduction"].fail("only the reduction 'batchmean' can be translated")
    soft = beta
    if not terms.labels:
        soft, alpha = (temperature**-2, 0) if terms.differ("labels-ignored", "losses") else (beta, alpha)
    elif not alpha:
        bare = temperature == 1 or terms.differ("alpha-zero", "losses")
        soft = temperature**-2 if bare else beta
    kwargs.skip("eps")
    if alpha:
        hard = {} if not wires else {"student": wires["student"]}
        terms.add("ce" if "ce" not in terms.losses else f"{name}_ce", "cross_entropy", weight * alpha, **hard)
    terms.add(name, "kd", weight * soft, **wires, temperature=number(temperature), **standardize)


def _attention(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    if kwargs["mode"].text("code") != "code":
        kwargs["mode"].fail("only the mode 'code' can be translated", "it is what the authors' code computes")
    for scale, wires in terms.pairs(kwargs, "at_pairs"):
        terms.add(f"{name}_{_end(wires['student'])}", "attention_transfer", weight * scale, **wires)


def _end(wire: str) -> str:
    """A name for a term of this wire: its last part."""
    return "".join(letter if letter.isalnum() else "_" for letter in wire.split(".")[-1].partition(":")[0])


def _listed(
    terms: Terms, name: str, loss: str, weight: float, pairs: list[tuple[float, dict[str, str]]], **values: Any
) -> None:
    """One term on lists where all pairs weigh alike, else a term each."""
    if pairs and same_items([scale for scale, _ in pairs]):
        lists = {side: [wires[side] for _, wires in pairs] for side in SIDES}
        single = {side: listed[0] if len(pairs) == 1 else listed for side, listed in lists.items()}
        terms.add(name, loss, weight * pairs[0][0], **single, **values)
        return
    for scale, wires in pairs:
        terms.add(f"{name}_{_end(wires['student'])}", loss, weight * scale, **wires, **values)


def _activation_boundary(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    scale = 1 if kwargs["reduction"].text("mean") == "mean" else terms.batch
    values = {"margin": number(kwargs["margin"].number(1)), "decay": 1.0}
    _listed(terms, name, "activation_boundary", weight * scale, terms.pairs(kwargs, "feature_pairs"), **values)


def _channel_similarity(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    _listed(terms, name, "ickd_imagenet", weight, terms.pairs(kwargs, "feature_pairs"))


def _fsp(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    distance = {"distance": "norm"} if terms.differ("fsp-distance", "losses") else {}
    for key in kwargs["fsp_pairs"].names():
        pair = kwargs["fsp_pairs"][key]
        wires: dict[str, Any] = {side: [] for side in SIDES}
        for side in SIDES:
            for place in ("first", "second"):
                end = pair[f"{side}_{place}"]
                wires[side].append(terms.side(side).wire(end["path"], end["io"].text("output")))
        terms.add(f"{name}_{key}", "fsp", weight * pair["weight"].number(1), **wires, pooling="max", **distance)


def _vid(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    kwargs.skip("margin")
    pairs, variances, widths = [], set(), set()
    for key in kwargs["feature_pairs"].names():
        pair = kwargs["feature_pairs"][key]
        regressor = terms.student.extra.get(pair["student"]["path"].text())
        if regressor is None:
            pair["student"]["path"].fail("is not a regressor of VariationalDistributor4VID")
            continue
        wire, middle, out, variance = regressor
        pair["student"].skip("io")
        teacher = terms.teacher.wire(pair["teacher"]["path"], pair["teacher"]["io"].text("output"))
        pairs.append((pair["weight"].number(1), {"student": wire, "teacher": teacher}))
        variances.add(variance)
        widths.add(None if middle == out else middle)
    if len(widths) > 1 or len(variances) > 1:
        kwargs.fail("regressors of several widths or variances cannot be translated", "write a term for each")
        return
    values = {"initial_variance": next(iter(variances), 5.0), "width": next(iter(widths), None)}
    _listed(terms, name, "vid", weight, pairs, **values)


def _relations(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    """RKDLoss: a term of distances and one of angles."""
    if kwargs["reduction"].text("mean") != "mean":
        kwargs["reduction"].fail("only the reduction 'mean' can be translated")
    wires = terms.pair(kwargs, "output")
    terms.add("rkd_distance", "rkd_distance", weight * kwargs["dist_factor"].number(), **wires)
    terms.add("rkd_angle", "rkd_angle", weight * kwargs["angle_factor"].number(), **wires)


def _similarity(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    scale = 1 if kwargs["reduction"].text("batchmean") == "batchmean" else terms.batch**2
    terms.differ("similarity-norm", "losses", name)
    terms.add(name, "similarity_preserving", weight * scale, **terms.pair(kwargs, "output"))


def _congruence(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    key = "kernel_config" if "kernel_config" in kwargs else "kernel_params"
    if key == "kernel_params":
        terms.differ("does-not-start", "losses", name, detail="Its CCKDLoss has no `kernel_config`.")
    options = kwargs[key]
    kernel = options["type"].text() or options["key"].text("gaussian")
    scale = 1 if kwargs["reduction"].text("batchmean") == "batchmean" else terms.batch**2
    values: dict[str, Any] = {"kernel": kernel}
    if kernel == "gaussian":
        values |= {"gamma": options["gamma"].number(0.4), "order": options["max_p"].number(2)}
    terms.add(name, "cc_kernel", weight * scale, **terms.pair(kwargs, "linear"), **values)


def _contrast(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    kwargs.skip("student_empty_module_path", "output_size", "num_samples", "eps")
    values: dict[str, Any] = {}
    for key, ours, default in (
        ("input_size", "dim", 128),
        ("num_negative_samples", "negatives", 16384),
        ("temperature", "temperature", 0.07),
        ("momentum", "momentum", 0.5),
    ):
        if kwargs[key].number(default) != default:
            values[ours] = kwargs[key].number(default)
    samples = {"num_samples": RunValue("num_samples"), "targets": RunValue("targets")}
    terms.add(name, "crd", weight, **terms.pair(kwargs, "norm_module"), **values, **samples)


def _contrast_of_views(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    terms.views = "rotations"
    kwargs.skip("reduction")
    terms.add(
        name,
        "view_contrast",
        weight,
        input=terms.teacher.wire(kwargs["module_path"], kwargs["module_io"].text("output")),
    )


def _self_supervision(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    terms.views = "rotations"
    kwargs.skip("reduction")
    hard, soft, similarity, transformed = (weight * w for w in kwargs["loss_weights"].plain() or [1.0] * 4)
    heads = terms.pair(kwargs, "ss_module")
    for side in SIDES:
        kwargs[f"{side}_linear_module_path"].text()
    terms.add("ce", "cross_entropy", hard)
    terms.add("kd", "kd", soft, temperature=kwargs["kl_temp"].number(), mask="batch.original")
    values = {"temperature": kwargs["tf_temp"].number(), "keep": kwargs["tf_ratio"].number(1)}
    terms.add("transformed", "transformed_kd", transformed, **values)
    values = {"temperature": kwargs["ss_temp"].number(), "keep": kwargs["ss_ratio"].number()}
    terms.add("similarity", "self_supervised_kd", similarity, **heads, **values)


def _prime_aware(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    scale = 1 if kwargs["reduction"].text("mean") == "mean" else terms.batch
    wires = terms.pair(kwargs, "embed_module", flat=True)
    variance = terms.student.wire(kwargs["module_path"], kwargs["module_io"].text("output"))
    eps = kwargs["eps"].number(1e-6)
    terms.add(name, "pad_l2", weight * scale, **wires, log_variance=variance, eps=None if eps == 1e-6 else eps)


def _hierarchical(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    """A level of knowledge review: its fusions, deepest first, up to it."""
    if kwargs["output_sizes"].plain() not in (None, [4, 2, 1]) or kwargs["reduction"].text("mean") != "mean":
        kwargs.fail("only the output_sizes [4, 2, 1] and the reduction 'mean' can be translated")
    teacher = terms.teacher.wire(kwargs["teacher_module_path"], kwargs["teacher_module_io"].text("output"))
    path = kwargs["student_module_path"].text()
    kwargs.skip("student_module_io")
    levels = terms.student.extra.get("levels")
    if levels is None or not path.removeprefix("abf_modules.").isdigit():
        wire = terms.student.wire(kwargs["student_module_path"])
        terms.add(name, "hierarchical_context", weight, student=wire, teacher=teacher)
        return
    number_of = int(path.removeprefix("abf_modules."))
    terms.student.extra.setdefault("matches", {})[number_of] = (name, teacher)
    terms.add(name, "hierarchical_context", weight, student=f"adapters.{name}/output", teacher=teacher)


def finish_review(terms: Terms, criterion: Node) -> None:
    """Make the adapters of knowledge review, once it is known with what each level is compared."""
    levels, matches = terms.student.extra.get("levels", []), terms.student.extra.get("matches", {})
    if levels and sorted(matches) != list(range(len(levels))):
        criterion.fail("each level of Student4KnowledgeReview must have a HierarchicalContextLoss")
        return
    before = ""
    for number_of, (wire, width) in enumerate(levels):
        name, teacher = matches[number_of]
        inputs = [wire, f"adapters.{before}/residual"] if before else wire
        terms.draft.adapter(name, module="fusion", inputs=inputs, match=teacher, **width)
        terms.student.adapters.append(f"adapters.{name}")
        before = name


def _dist(terms: Terms, name: str, kwargs: Node, weight: float, part: str = "module") -> None:
    kwargs.skip("eps")
    values = {
        "beta": kwargs["beta"].number(1),
        "gamma": kwargs["gamma"].number(1),
        "temperature": kwargs["tau"].number(1),
    }
    terms.add(name, "dist", weight, **terms.pair(kwargs, part), **{key: number(value) for key, value in values.items()})


def _dist_plus(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    _dist(terms, name, kwargs, weight, "logit_module")
    wires = terms.pair(kwargs, "feature_module")
    iota, kappa = kwargs["iota"].number(1), kwargs["kappa"].number(1)
    sign = -1 if terms.differ("channel-relation", "losses", f"{name}_channel") else 1
    terms.add(f"{name}_channel", "dist_channel", sign * weight * iota, **wires)
    terms.add(f"{name}_spatial", "dist_spatial", weight * kappa, **wires)


def _simple_recipe(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    if kwargs["reduction"].text("batchmean") != "batchmean":
        kwargs["reduction"].fail("only the reduction 'batchmean' can be translated")
    temperature = kwargs["temperature"].number(1)
    outputs = terms.pair(kwargs, "linear_module")
    terms.add("kd", "kd", weight * temperature**-2, **outputs, temperature=number(temperature))
    eps = terms.student.extra.get("eps", 1e-4)
    values = {"exponent": number(kwargs["exponent"].number(1)), "eps": None if eps == 1e-4 else eps}
    terms.add("srd", "srd", 2 * weight, **terms.pair(kwargs, "feature_module"), **values)


def _instance(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    temperature = kwargs["temperature"].number(4)
    terms.add(name, "kd", weight * temperature**-2, **terms.pair(kwargs, "module"), temperature=number(temperature))


def _direction(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    tikhonov = number(kwargs["tikhonov"].number(0.1) / max(terms.num_classes, 1) ** 2)
    terms.add(name, "streamlined_direction", weight, **terms.pair(kwargs, "module"), tikhonov=tikhonov)


def _simple(loss: str, part: str, **renamed: str) -> Callable[[Terms, str, Node, float], None]:
    """A handler for a loss with two wires and hyperparameters ``renamed`` from theirs."""

    def handler(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
        values = {ours: kwargs[theirs].number() for theirs, ours in renamed.items() if theirs in kwargs}
        if kwargs["reduction"].text("mean") != "mean":
            kwargs["reduction"].fail("only the reduction 'mean' can be translated")
        kwargs.skip("eps")
        terms.add(name, loss, weight, **terms.pair(kwargs, part), **values)

    return handler


def _two_paths(loss: str, student: str, teacher: str) -> Callable[[Terms, str, Node, float], None]:
    """A handler for FTLoss and KTALoss, which name an adapter of each side."""

    def handler(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
        wires = {"student": terms.student.wire(kwargs[student]), "teacher": terms.teacher.wire(kwargs[teacher])}
        orders = {key: number(kwargs[key].number(default)) for key, default in (("p", 1), ("q", 2)) if key in kwargs}
        if kwargs["reduction"].text("mean") != "mean":
            kwargs["reduction"].fail("only the reduction 'mean' can be translated")
        other = {key: value for key, value in orders.items() if value != {"p": 1, "q": 2}[key]}
        terms.add(name, loss, weight, **wires, **other)

    return handler


def _penalty(terms: Terms, name: str, kwargs: Node, weight: float) -> None:
    side = terms.teacher if kwargs["is_from_teacher"].flag() else terms.student
    kwargs.skip("io", "io_type")
    p = number(kwargs["p"].number(1))
    terms.add(name, "norm_penalty", weight, input=side.wire(kwargs["module_path"]), p=None if p == 1 else p)


MID_LEVEL: dict[str, Callable[[Terms, str, Node, float], None]] = {
    "KDLoss": _kd,
    "LogitStdKDLoss": lambda *args: _kd(*args, standardize=True),
    "ATLoss": _attention,
    "AltActTransferLoss": _activation_boundary,
    "FSPLoss": _fsp,
    "PKTLoss": _simple("pkt", "module"),
    "FTLoss": _two_paths("factor_transfer", "translator_path", "paraphraser_path"),
    "RKDLoss": _relations,
    "VIDLoss": _vid,
    "CCKDLoss": _congruence,
    "SPKDLoss": _similarity,
    "CRDLoss": _contrast,
    "AuxSSKDLoss": _contrast_of_views,
    "SSKDLoss": _self_supervision,
    "PADL2Loss": _prime_aware,
    "HierarchicalContextLoss": _hierarchical,
    "RegularizationLoss": _penalty,
    "KTALoss": _two_paths("knowledge_adaptation", "feature_adapter_path", "knowledge_translator_path"),
    "AffinityLoss": _simple("affinity", "module"),
    "ChSimLoss": _channel_similarity,
    "DISTLoss": _dist,
    "DISTPlusLoss": _dist_plus,
    "SRDLoss": _simple_recipe,
    "SKDInstanceLoss": _instance,
    "SKDDirectionLoss": _direction,
}
