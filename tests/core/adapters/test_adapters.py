"""Adapters: what a projector becomes for each pair of shapes, and what may be registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_core.adapters import ADAPTERS, Adapter, projector, validate_adapter
from kd_core.errors import KDError
from kd_core.registry import Registry
from kd_core.signatures import value_text, values_of

Shape = tuple[int, ...]


def build(source: Shape, match: Shape | None = None, out_features: int | None = None, **values: Any) -> nn.Module:
    """From shapes alone, as ``check`` builds it."""
    return projector(
        [torch.empty(source, device="meta")],
        None if match is None else torch.empty(match, device="meta"),
        out_features,
        **values,
    )


@pytest.mark.parametrize(
    ("source", "match", "out_features", "values", "layer"),
    [
        ((2, 3), (2, 5), None, {}, nn.Linear),
        ((2, 7, 3), (2, 7, 5), None, {}, nn.Linear),
        ((2, 3), None, 5, {}, nn.Linear),
        ((2, 3, 8, 6), (2, 5, 8, 6), None, {}, nn.Conv2d),
        ((2, 3, 8, 6), (2, 5, 8, 6), None, {"kernel": 3}, nn.Conv2d),
        ((2, 3, 8, 6), (2, 5, 4, 3), None, {}, nn.Conv2d),
        ((2, 3, 8, 6), (2, 5, 4, 3), None, {"kernel": 1}, nn.Conv2d),
        ((2, 3, 8, 6), (2, 5, 4, 3), None, {"kernel": 5}, nn.Conv2d),
        ((2, 3, 8, 6), (2, 5, 16, 12), None, {}, nn.ConvTranspose2d),
        ((2, 3, 8, 6), None, 5, {}, nn.Conv2d),
    ],
)
def test_the_output_is_like_what_it_is_to_be_like(
    source: Shape, match: Shape | None, out_features: int | None, values: dict[str, Any], layer: type
) -> None:
    module = build(source, match, out_features, **values)
    expected = match or (source[0], 5, *source[2:])
    assert [type(each) for each in module.children()] == [layer]
    assert module(torch.zeros(source)).shape == expected


def test_a_width_beside_like_wins_and_like_gives_the_size() -> None:
    assert build((2, 3, 8, 8), (2, 5, 4, 4), 7)(torch.zeros(2, 3, 8, 8)).shape == (2, 7, 4, 4)


def test_kernels_of_the_fitnet_regressor() -> None:
    same, half = build((2, 3, 8, 8), (2, 5, 8, 8)), build((2, 3, 8, 8), (2, 5, 4, 4))
    assert [same[0].kernel_size, half[0].kernel_size] == [(1, 1), (3, 3)]  # type: ignore[index]
    double = build((2, 3, 8, 8), (2, 5, 16, 16))[0]  # type: ignore[index]
    assert (double.kernel_size, double.stride, double.padding) == ((4, 4), (2, 2), (1, 1))


@pytest.mark.parametrize(
    ("source", "norm"),
    [((2, 3), nn.BatchNorm1d), ((2, 7, 3), nn.LayerNorm), ((2, 3, 4, 4), nn.BatchNorm2d)],
)
def test_norm_activation_and_bias(source: Shape, norm: type) -> None:
    module = build(source, out_features=5, norm=True, activation="relu", bias=False)
    assert [type(each) for each in module.children()][1:] == [norm, nn.ReLU]
    assert module[0].bias is None  # type: ignore[index]
    assert (module(torch.randn(source)) >= 0).all()


def test_without_resize_only_the_width_follows() -> None:
    module = build((2, 3, 8, 8), (2, 5, 2, 2), resize=False, bias=False)
    assert module(torch.zeros(2, 3, 8, 8)).shape == (2, 5, 8, 8)
    assert isinstance(module[0], nn.Conv2d)  # type: ignore[index]


def test_weights_drawn_by_fan_out_have_its_variance() -> None:
    torch.manual_seed(0)
    layer = build((2, 3, 8, 8), (2, 400, 8, 8), kernel=3, init="fan_out")[0]  # type: ignore[index]
    assert layer.weight.std().item() == pytest.approx((2 / (400 * 9)) ** 0.5, rel=0.05)


def test_projectors_differ_and_train() -> None:
    first, second = build((2, 3), out_features=5), build((2, 3), out_features=5)
    assert not torch.equal(first[0].weight, second[0].weight)  # type: ignore[index]
    assert all(each.requires_grad and each.device.type == "cpu" for each in first.parameters())


@pytest.mark.parametrize(
    ("source", "match", "out_features", "values", "message"),
    [
        ((2, 3), None, None, {}, "write `match:`"),
        ((2, 3), None, 0, {}, "out_features must be at least 1, not 0"),
        ((2,), None, 5, {}, r"not \(2,\)"),
        ((2, 3, 4, 4, 4), None, 5, {}, r"not \(2, 3, 4, 4, 4\)"),
        ((2, 3, 4, 4), (2, 5), None, {}, r"cannot make \(2, 3, 4, 4\) like \(2, 5\)"),
        ((2, 3), (2, 5, 4, 4), 5, {}, r"cannot make \(2, 3\) like \(2, 5, 4, 4\)"),
        ((2, 7, 3), (2, 9, 5), None, {}, r"cannot make \(2, 7, 3\) like \(2, 9, 5\)"),
        ((2, 3, 8, 8), (2, 5, 6, 6), None, {}, "cannot bring 8x8 to 6x6"),
        ((2, 3, 8, 8), (2, 5, 4, 8), None, {}, "cannot bring 8x8 to 4x8"),
        ((2, 3, 8, 8), (2, 5, 8, 8), None, {"kernel": 2}, "kernel must be odd, not 2"),
        ((2, 3, 8, 8), (2, 5, 8, 8), None, {"kernel": 0}, "kernel must be at least 1, not 0"),
        ((2, 3, 8, 8), (2, 5, 16, 16), None, {"kernel": 3}, "transposed convolution with kernel 4"),
        ((2, 3), None, 5, {"kernel": 1}, r"kernel is for feature maps \(B, C, H, W\)"),
        ((2, 3), None, 5, {"activation": "rellu"}, "did you mean 'relu'"),
    ],
)
def test_a_projector_refuses(
    source: Shape, match: Shape | None, out_features: int | None, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(KDError, match=message):
        build(source, match, out_features, **values)


def test_a_projector_takes_one_input() -> None:
    with pytest.raises(KDError, match="one input, not 2"):
        projector([torch.zeros(2, 3), torch.zeros(2, 3)], None, 5)


def test_a_projector_takes_tensors() -> None:
    with pytest.raises(KDError, match="input is a tuple, not a tensor"):
        projector([(torch.zeros(2, 3),)], None, 5)  # type: ignore[list-item]
    with pytest.raises(KDError, match="match is a dict, not a tensor"):
        projector([torch.zeros(2, 3)], {}, 5)  # type: ignore[arg-type]


def test_values_are_the_keyword_only_parameters() -> None:
    assert list(values_of(projector)) == ["kernel", "bias", "norm", "activation", "resize", "init", "keep_equal"]
    assert values_of(projector)["norm"].annotation is bool


def test_documentation_has_the_signature_of_every_adapter() -> None:
    page = (Path(__file__).parents[3] / "docs" / "losses.md").read_text(encoding="utf-8")
    for name in ADAPTERS:
        values = values_of(ADAPTERS.get(name)).values()
        assert f"### `{name}({', '.join(map(value_text, values))})`" in page


def without_out_features(inputs: list[Tensor], match: Tensor | None, *, width: int) -> nn.Module: ...
def positional(inputs: list[Tensor], match: Tensor | None, out_features: int | None, width: int) -> nn.Module: ...
def unannotated(inputs: list[Tensor], match: Tensor | None, out_features: int | None, *, width) -> nn.Module: ...  # type: ignore[no-untyped-def]
def reserved(inputs: list[Tensor], match: Tensor | None, out_features: int | None, *, module: str) -> nn.Module: ...
def keywords(inputs: list[Tensor], match: Tensor | None, out_features: int | None, **more: int) -> nn.Module: ...


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (without_out_features, r"must take \(inputs, match, out_features, \*, ...\), not \(inputs, match\)"),
        (positional, r"not \(inputs, match, out_features, width\)"),
        (keywords, r"not \(inputs, match, out_features, \*\*more: int\)"),
        (unannotated, "'width' has no annotation"),
        (reserved, "'module' is a reserved word"),
    ],
)
def test_registration_refuses_and_names_the_culprit(builder: Adapter, message: str) -> None:
    registry = Registry[Adapter]("adapter", "kd.none", validate_adapter)
    with pytest.raises(KDError, match=message) as caught:
        registry("mine")(builder)
    assert builder.__qualname__ in str(caught.value)


def from_shapes(
    name: str, *sources: Shape, match: Shape | None = None, out_features: int | None = None, **values: Any
) -> nn.Module:
    """A registered adapter, from shapes alone."""
    match_shape = None if match is None else torch.empty(match, device="meta")
    return ADAPTERS.get(name)(
        [torch.empty(each, device="meta") for each in sources], match_shape, out_features, **values
    )


def test_a_paraphraser_gives_factors_and_the_features_again() -> None:
    features = torch.randn(2, 6, 5, 4)
    for how, width in (({}, 3), ({"rate": 0.2}, 1), ({"out_features": 4}, 4), ({"match": (2, 5, 3, 3)}, 5)):
        output = from_shapes("paraphraser", (2, 6, 5, 4), **how)(features)  # type: ignore[arg-type]
        assert output["factor"].shape == (2, width, 5, 4)
        assert output["reconstruction"].shape == features.shape


def test_a_translator_is_a_paraphrasers_encoder() -> None:
    whole, half = (
        from_shapes("paraphraser", (2, 6, 5, 4), norm=True),
        from_shapes("translator", (2, 6, 5, 4), out_features=3, norm=True),
    )
    half.load_state_dict(whole.get_submodule("encoder").state_dict())
    features = torch.randn(2, 6, 5, 4)
    assert torch.equal(half(features), whole(features)["factor"])


def test_fusions_form_a_chain_of_one_width() -> None:
    deep = from_shapes("fusion", (2, 7, 2, 2), match=(2, 9, 2, 2))
    handed = deep(torch.randn(2, 7, 2, 2))
    assert (handed["output"].shape, handed["residual"].shape) == ((2, 9, 2, 2), (2, 7, 2, 2))
    shallow = from_shapes("fusion", (2, 5, 4, 6), (2, 7, 2, 2), match=(2, 3, 8, 12))
    output = shallow(torch.randn(2, 5, 4, 6), handed["residual"])
    assert (output["output"].shape, output["residual"].shape) == ((2, 3, 8, 12), (2, 7, 8, 12))
    assert from_shapes("fusion", (2, 600, 1, 1), out_features=3)(torch.randn(2, 600, 1, 1))["residual"].shape[1] == 512
    with pytest.raises(KDError, match="the residual has 7 channels"):
        from_shapes("fusion", (2, 5, 4, 4), (2, 7, 2, 2), out_features=3, width=8)


def test_embeddings_have_length_one() -> None:
    made = from_shapes("embedding", (3, 4, 2, 2))(torch.randn(3, 4, 2, 2))
    assert made.shape == (3, 128)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(3))
    assert from_shapes("embedding", (3, 4), out_features=5)(torch.zeros(3, 4)).shape == (3, 5)


def test_a_projection_head_keeps_the_width() -> None:
    assert from_shapes("projection_head", (3, 4, 2, 1))(torch.randn(3, 4, 2, 1)).shape == (3, 8)
    assert from_shapes("projection_head", (3, 4), out_features=5)(torch.randn(3, 4)).shape == (3, 5)


def test_simkds_projector_and_pool_meet_at_the_smaller_size() -> None:
    for sizes in ((8, 8), (8, 4), (4, 8)):
        student, teacher = (2, 3, *(sizes[:1] * 2)), (2, 6, *(sizes[1:] * 2))
        projected = from_shapes("simkd_projector", student, match=teacher)(torch.randn(student))
        given = torch.randn(teacher)
        pooled = from_shapes("pool", teacher, match=tuple(projected.shape))(given)
        assert projected.shape == pooled.shape == (2, 6, min(sizes), min(sizes))
        assert torch.allclose(pooled.mean((2, 3)), given.mean((2, 3)), atol=1e-6)
    for name in ("pool", "simkd_projector"):
        with pytest.raises(KDError, match=f"{name} cannot bring 8x8 to 4x9"):
            from_shapes(name, (2, 3, 8, 8), match=(2, 3, 4, 9))


@pytest.mark.parametrize("name", ["paraphraser", "translator", "fusion", "simkd_projector"])
def test_adapters_of_maps_refuse_anything_else(name: str) -> None:
    with pytest.raises(KDError, match=rf"{name} takes feature maps \(B, C, H, W\), not \(2, 3\)"):
        from_shapes(name, (2, 3), out_features=4)


@pytest.mark.parametrize("name", ["translator", "fusion", "simkd_projector"])
def test_adapters_without_a_width_say_so(name: str) -> None:
    with pytest.raises(KDError, match=f"{name} has no output width"):
        from_shapes(name, (2, 3, 4, 4))


def maps(*shapes: Shape) -> list[Tensor]:
    return [torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) for shape in shapes]


def test_class_maps_average_to_the_logits() -> None:
    features, weight = maps((2, 4, 3, 5), (6, 4))
    module = ADAPTERS.get("class_maps")([features, weight], None, None)
    averaged = module(features, weight).mean((2, 3))
    torch.testing.assert_close(averaged, features.mean((2, 3)) @ weight.T)


def test_pool_gives_what_a_classifier_reads() -> None:
    features, rows = maps((2, 4, 3, 5), (2, 4))
    module = ADAPTERS.get("pool")([features], None, None)
    torch.testing.assert_close(module(features), features.mean((2, 3)))
    assert module(rows) is rows
    with pytest.raises(KDError, match="pool keeps the channels"):
        ADAPTERS.get("pool")([features], None, 3)


def test_margin_relu_pools_to_the_student() -> None:
    features, weight, bias = maps((2, 4, 6, 6), (4,), (4,))
    module = ADAPTERS.get("margin_relu")([features, weight, bias], torch.empty(2, 9, 3, 3), None)
    assert module(features + 9, weight, bias).shape == (2, 4, 3, 3)
    assert module(torch.zeros(2, 4, 6, 6), torch.zeros(4), bias.abs()).isfinite().all()


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("class_maps", [(2, 4, 3, 3)], "not 1 inputs"),
        ("class_maps", [(2, 4, 3, 3), (6, 5)], "does not read the channels"),
        ("margin_relu", [(2, 4, 3, 3), (4,)], "not 2 inputs"),
        ("margin_relu", [(2, 4, 3, 3), (4,), (5,)], "do not fit"),
        ("margin_relu", [(2, 4), (4,), (4,)], "feature maps"),
    ],
)
def test_adapters_that_read_parameters_refuse_others(name: str, inputs: list[Shape], message: str) -> None:
    with pytest.raises(KDError, match=message):
        ADAPTERS.get(name)([torch.empty(shape) for shape in inputs], None, None)


def test_a_connector_is_nothing_where_shapes_are_equal() -> None:
    source, like = torch.empty(2, 4, 8, 8, device="meta"), torch.empty(3, 4, 8, 8, device="meta")
    assert isinstance(ADAPTERS.get("connector")([source], like, None), nn.Identity)
    for match in ((2, 6, 8, 8), (2, 4, 4, 4), (2, 6, 16, 16)):
        module = ADAPTERS.get("connector")([source], torch.empty(match, device="meta"), None)
        assert module(torch.randn(2, 4, 8, 8)).shape == match
        assert module[0].bias is None
    for match, width in ((None, 3), (like, 3), (None, None)):
        with pytest.raises(KDError, match="connector makes features like those of a teacher"):
            ADAPTERS.get("connector")([source], match, width)


def test_a_channel_embedding_keeps_height_and_width() -> None:
    source, like = torch.empty(2, 4, 8, 8, device="meta"), torch.empty(2, 6, 3, 3, device="meta")
    for kernel in (1, 3):
        module = ADAPTERS.get("channel_embedding")([source], like, None, kernel=kernel)
        assert module(torch.randn(2, 4, 8, 8)).shape == (2, 6, 8, 8)
    with pytest.raises(KDError, match="kernel is 2, but must be odd"):
        ADAPTERS.get("channel_embedding")([source], like, None, kernel=2)


def test_a_review_is_of_any_two_models() -> None:
    meta = {"device": "meta"}
    features = [torch.empty(2, 3, 8, 8, **meta), torch.empty(2, 4, 4, 4, **meta)]
    likes = [torch.empty(2, 5, 8, 8, **meta), torch.empty(2, 6, 7, 7, **meta)]
    pooled, target = torch.empty(2, 10, **meta), torch.empty(2, 11, **meta)
    build = ADAPTERS.get("review")
    given = [torch.randn(2, 3, 8, 8), torch.randn(2, 4, 4, 4)], torch.randn(2, 10)
    for inputs, width in (([features, pooled], 10), ([features, pooled, target], 11)):
        outputs = build(inputs, likes, None)(*given)
        assert [tensor.shape for tensor in outputs["maps"]] == [like.shape for like in likes]
        assert outputs["pooled"].shape == (2, width)
    wrong: list[tuple[Any, Any, str]] = [
        ([features], likes, "two or three inputs"),
        ({"features": features, "pooled": pooled}, likes, "two or three inputs"),
        ([features[0], pooled], likes, "a list of feature maps, and another to match"),
        ([features, pooled], likes[0], "a list of feature maps, and another to match"),
        ([features, features], likes, r"pooled features \(B, D\)"),
        ([features, pooled], likes[:1], "2 feature maps, and match 1"),
    ]
    for inputs, match, message in wrong:
        with pytest.raises(KDError, match=message):
            build(inputs, match, None)
