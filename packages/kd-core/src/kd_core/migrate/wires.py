"""torchdistill's module paths -> wires, and its auxiliary wrappers and adaptations -> adapters.

A path of torchdistill (``student_model.layer4``, ``paraphraser.encoder``, ``+convreg``) names a module of the model or
of what is wrapped around it. Which of them, the wrapper decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from kd_core.migrate.draft import Draft, number
from kd_core.migrate.source import Node

WITHOUT_PARAMETERS = ("relu", "maxpool", "avgpool", "dropout")
"""Names of modules that no pattern of ``train`` or ``freeze`` can match."""


@dataclass
class Side:
    """The student or the teacher in a stage.

    ``modules`` has the paths of what the wrapper adds, each with a function that gives the wire, ``inputs`` the wires
    that some of these modules read. ``arch`` is torchvision's name of the model, ``renamed`` the beginnings of paths
    that are others here.
    """

    draft: Draft
    name: str
    arch: str = ""
    stage: str = ""
    renamed: dict[str, str] = field(default_factory=dict)
    modules: dict[str, Callable[[], str]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    prefixes: list[str] = field(default_factory=list)
    absent: bool = False
    adapters: list[str] = field(default_factory=list)
    """Adapters that this side's wrapper brought, in the order of their use."""

    def module(self, path: str) -> str:
        """The path of a module in the model itself."""
        for prefix in self.prefixes:
            path = path.removeprefix(f"{prefix}.")
        for old, new in self.renamed.items():
            if path == old or path.startswith(f"{old}."):
                return (new + path[len(old) :]).strip(".")
        return path

    def wire(self, path: Node, io: str = "output") -> str:
        """The wire of a path's input or output."""
        text = path.text(".")
        if text in self.modules:
            return self.modules[text]()
        if text.startswith("+"):
            path.fail(f"there is no adaptation {text!r}")
            return ""
        if text == ".":
            return f"{self.name}.output"
        module = self.module(text)
        if module.rpartition(".")[2] == "relu" and "." in module:
            return self._relu(module, io)
        return f"{self.name}.{module}" if io == "output" else f"{self.name}.{module}:in"

    def _relu(self, module: str, io: str) -> str:
        """The wire of a block's ReLU, which runs several times in place."""
        block = module.removesuffix(".relu")
        if io == "output":
            return f"{self.name}.{module}:-1"
        if self.draft.differ("input-changed-in-place", "stages", self.stage):
            return f"{self.name}.{block.removesuffix('.-1')}"
        return f"{self.name}.{module}:in:-1"

    def flat(self, path: Node, io: str = "output", *, pooled: bool = False) -> str:
        """The wire of features (B, D), of a ResNet what its classifier takes; ``pooled``: of the means of a map."""
        module = self.module(path.text("."))
        resnet = self.arch.startswith(("resnet", "resnext", "wide_resnet"))
        if resnet and io == "output" and module == ("layer4" if pooled else "avgpool"):
            return f"{self.name}.@penultimate"
        wire = self.wire(path, io)
        return self.draft.adapter(f"{self.name}_pooled", module="pool", inputs=wire) if pooled else wire

    def add(self, path: str, name: str, part: str = "", **values: Any) -> None:
        """A module of the wrapper: the adapter ``name``, made when a term asks for it."""

        def made() -> str:
            wire = self.draft.adapter(name, **values)
            if wire not in self.adapters:
                self.adapters.append(wire)
            return wire + part

        self.modules[path] = made


def prepare(side: Side, model: Node) -> None:
    """Read the wrapper and the adaptations of a stage's ``teacher`` or ``student``."""
    wrapper = model["auxiliary_model_wrapper"]
    key = wrapper["key"].text()
    if key:
        side.prefixes += [f"{side.name}_model", "model", "seq"]
        handler = WRAPPERS.get(key)
        if handler is None:
            wrapper["key"].fail(f"the wrapper {key!r} cannot be translated", f"these can: {', '.join(WRAPPERS)}")
            wrapper.skip("kwargs")
        else:
            handler(side, wrapper["kwargs"])
            wrapper["kwargs"].skip("find_unused_parameters")
        wrapper.skip("sequential")
    for name in model["adaptations"].names():
        _adaptation(side, model, name)


def _adaptation(side: Side, model: Node, name: str) -> None:
    """A module of ``adaptations``: an adapter on what stands before it in ``sequential``."""
    adaptation = model["adaptations"][name]
    kind, kwargs = adaptation["key"].text(), adaptation["kwargs"]
    steps = [(item, item.text()) for item in model["sequential"].items()]
    before = [item for (item, _), (_, after) in pairwise(steps) if after == f"+{name}"]
    if side.arch == "inception_v3" and name in ("maxpool1", "maxpool2"):
        kwargs.skip("kernel_size", "stride")
        side.modules[f"+{name}"] = lambda: f"{side.name}.{name}"
    elif not before or steps[-1][1] != f"+{name}":
        adaptation.fail(f"the adaptation {name!r} must be the last of `sequential`", "put its work into an adapter")
    elif kind == "ConvReg":
        _conv_reg(side, before[0], name, kwargs)
    else:
        from kd_core.config.syntax.lazy import Call

        call = Call(f"torch.nn.{kind}", kwargs=kwargs.plain() or {})
        side.add(f"+{name}", name, module=call, inputs=side.wire(before[0]))


def _conv_reg(side: Side, before: Node, name: str, kwargs: Node) -> None:
    """FitNets' regressor: a convolution, batch norm and ReLU."""
    kernel = kwargs["kernel_size"].number(1)
    if kwargs["stride"].number(1) != 1 or kwargs["padding"].number(0) != kernel // 2:
        kwargs.fail("a ConvReg that changes the size of the map cannot be translated")
    kwargs.skip("num_input_channels")
    values = {"out_features": kwargs["num_output_channels"].number(), "kernel": kernel, "norm": True}
    relu = {"activation": "relu"} if kwargs["uses_relu"].flag(True) else {}
    side.add(f"+{name}", name, module="projector", inputs=side.wire(before), **values, **relu)


def _empty(side: Side, kwargs: Node) -> None:
    side.absent = True


def _head_rcnn(side: Side, kwargs: Node) -> None:
    kwargs["head_rcnn"]["sequential"].plain()
    side.extra["body"] = True


def _three_by_three(kwargs: Node) -> None:
    """Only the 3x3 convolutions of the paper are here."""
    for key, value in (("kernel_size", 3), ("stride", 1), ("padding", 1)):
        if kwargs[key].number(value) != value:
            kwargs[key].fail(f"{key} must be {value}", "write an adapter of your own, see docs/extending/adapter.md")


def _paraphraser(side: Side, kwargs: Node) -> None:
    options = kwargs["paraphraser_kwargs"]
    _three_by_three(options)
    rate, channels = options["k"].number(0.5), options["num_input_channels"].number(1)
    exact = rate * channels == int(rate * channels)
    width = {"rate": rate} if exact else {"out_features": int(rate * channels)}
    norm = {"norm": True} if options["uses_bn"].flag(True) else {}
    part = "/reconstruction" if kwargs["uses_decoder"].flag() else "/factor"
    minimal = kwargs["minimal"]
    if minimal["auxiliary_model_wrapper"]["key"].text() not in ("", "HeadRCNN"):
        minimal.fail("only HeadRCNN can be wrapped within")
    _ = minimal["auxiliary_model_wrapper"]["kwargs"]["head_rcnn"]["sequential"].plain(), minimal["sequential"].plain()
    kwargs.skip("paraphraser_ckpt")
    values = {"module": "paraphraser", "inputs": side.wire(kwargs["input_module_path"]), **width, **norm}
    side.add("paraphraser", "paraphraser", part, **values)
    side.add("paraphraser.encoder", "paraphraser", "/factor", **values)


def _translator(side: Side, kwargs: Node) -> None:
    options = kwargs["translator_kwargs"]
    _three_by_three(options)
    options.skip("num_input_channels", "num_output_channels")
    norm: dict[str, Any] = {"norm": True} if options["uses_bn"].flag(True) else {}
    inputs = side.wire(kwargs["input_module_path"])
    side.add(
        "translator", "translator", module="translator", inputs=inputs, match="adapters.paraphraser/factor", **norm
    )


def _connectors(side: Side, kwargs: Node) -> None:
    for name in kwargs["connectors"].names():
        connector = kwargs["connectors"][name]
        conv = connector["conv2d_kwargs"]
        conv.skip("in_channels")
        kernel = conv["kernel_size"].number(1)
        if conv["stride"].number(1) != 1 or conv["padding"].number(0) != kernel // 2:
            conv.fail("a connector that changes the size of the map cannot be translated")
        values: dict[str, Any] = {"out_features": conv["out_channels"].number(), "kernel": kernel}
        if not conv["bias"].flag(True):
            values["bias"] = False
        if connector["bn2d_kwargs"]:
            connector["bn2d_kwargs"].skip("num_features")
            values["norm"] = True
        inputs = side.wire(connector["path"], connector["io"].text("output"))
        side.add(f"connector_dict.{name}", name, module="projector", inputs=inputs, **values)


def _regressors(side: Side, kwargs: Node) -> None:
    """VID's regressors belong to the loss here: kept for its term."""
    for name in kwargs["regressors"].names():
        regressor = kwargs["regressors"][name]
        wire = side.wire(regressor["path"], regressor["io"].text("output"))
        key = "kwargs" if "kwargs" in regressor else "regressor_kwargs"
        if key == "regressor_kwargs":
            side.draft.differ("does-not-start", "stages", side.stage, detail="Its regressors have no `kwargs`.")
        options = regressor[key]
        options.skip("in_channels", "eps")
        widths = options["middle_channels"].number(), options["out_channels"].number()
        side.extra[f"regressor_dict.{name}"] = (wire, *widths, options["init_pred_var"].number(5.0))


def _input(side: Side, kwargs: Node) -> tuple[Node, str]:
    """The path that a wrapper's own module reads, in either spelling, and whether its input or output."""
    module = kwargs["input_module"]
    return (module["path"], module["io"].text("output")) if module else (kwargs["input_module_path"], "output")


def _linear_for_cckd(side: Side, kwargs: Node) -> None:
    linear = kwargs["linear_kwargs"]
    linear.skip("in_features")
    bias: dict[str, Any] = {} if linear["bias"].flag(True) else {"bias": False}
    inputs, width = side.flat(*_input(side, kwargs)), linear["out_features"].number()
    side.add("linear", f"{side.name}_embedding", module="projector", inputs=inputs, out_features=width, **bias)


def _linear_for_crd(side: Side, kwargs: Node) -> None:
    linear = kwargs["linear_kwargs"]
    linear.skip("in_features", "bias")
    if kwargs["power"].number(2) != 2:
        kwargs["power"].fail("only the L2 norm (power 2) can be translated")
    width = linear["out_features"].number()
    values = {} if width == 128 else {"out_features": width}
    side.add(
        "normalizer", f"{side.name}_embedding", module="embedding", inputs=side.wire(*_input(side, kwargs)), **values
    )


def _self_supervision(side: Side, kwargs: Node) -> None:
    kwargs.skip("feat_dim", "ss_module_ckpt", "freezes_ss_module")
    side.add("ss_module", f"{side.name}_head", module="projection_head", inputs=side.wire(*_input(side, kwargs)))


def _variance(side: Side, kwargs: Node) -> None:
    kwargs.skip("var_estimator_ckpt")
    inputs, width = side.flat(*_input(side, kwargs)), kwargs["feat_dim"].number()
    side.add("var_estimator", "log_variance", module="projector", inputs=inputs, out_features=width, norm=True)


def _review(side: Side, kwargs: Node) -> None:
    """The levels of knowledge review, deepest first; their terms say what they are compared with."""
    levels = list(kwargs["abfs"].items())[::-1]
    kwargs["sizes"].plain()
    widths = {level["kwargs"]["mid_channels"].number(512) for level in levels}
    for level in levels:
        level["kwargs"].skip("in_channels", "out_channels")
    deepest = levels[0]["kwargs"]["in_channels"].number(512) if levels else 512
    width = {} if widths == {min(deepest, 512)} else {"width": max(widths, default=512)}
    side.extra["levels"] = [(side.wire(level["path"], level["io"].text("output")), width) for level in levels]


def _adapters_for_ktaad(side: Side, kwargs: Node) -> None:
    for part, name in (("feature_adapter", "feature"), ("affinity_adapter", "affinity")):
        options = kwargs[f"{part}_config"]
        conv = options["conv_kwargs"]
        conv.skip("in_channels", "padding", "stride")
        values: dict[str, Any] = {
            "out_features": conv["out_channels"].number(),
            "kernel": conv["kernel_size"].number(1),
        }
        if options["bn_kwargs"]:
            options["bn_kwargs"].skip("num_features")
            values["norm"] = True
        if "relu_kwargs" in options:
            options.skip("relu_kwargs")
            values["activation"] = "relu"
        side.add(part, name, module="projector", inputs=side.wire(kwargs["input_module_path"]), **values)


def _embeddings_for_ickd(side: Side, kwargs: Node) -> None:
    for name in kwargs["embeddings"].names():
        options = kwargs["embeddings"][name]
        options.skip("in_channels")
        inputs, width = side.wire(options["path"], options["io"].text("output")), options["out_channels"].number(128)
        values = {"kernel": 3, "out_features": width}
        side.add(f"embed_dict.{name}", name, module="channel_embedding", inputs=inputs, **values)


def _projector_for_srd(side: Side, kwargs: Node) -> None:
    """The projector, if there is one; the loss standardises by itself."""
    norm, linear = kwargs["norm_kwargs"], kwargs["linear_kwargs"]
    norm.skip("num_features")
    if norm["affine"].flag(True):
        norm["affine"].fail("only a batch norm without weights (affine: False) can be translated")
    side.extra["eps"] = number(norm["eps"].number(1e-5))
    features = side.flat(*_input(side, kwargs), pooled=True)
    if not linear:
        side.modules["norm_layer"] = lambda: features
        return
    linear.skip("in_features")
    side.add(
        "norm_layer", "projector", module="projector", inputs=features, out_features=linear["out_features"].number()
    )


WRAPPERS: dict[str, Callable[[Side, Node], None]] = {
    "EmptyModule": _empty,
    "HeadRCNN": _head_rcnn,
    "Teacher4FactorTransfer": _paraphraser,
    "Student4FactorTransfer": _translator,
    "Connector4DAB": _connectors,
    "VariationalDistributor4VID": _regressors,
    "Linear4CCKD": _linear_for_cckd,
    "Linear4CRD": _linear_for_crd,
    "SSWrapper4SSKD": _self_supervision,
    "VarianceBranch4PAD": _variance,
    "Student4KnowledgeReview": _review,
    "Student4KTAAD": _adapters_for_ktaad,
    "Student4ICKD": _embeddings_for_ickd,
    "SRDModelWrapper": _projector_for_srd,
}
