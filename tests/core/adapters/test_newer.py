"""Adapters of NORM, OFA-KD, VkD and DiffKD: what they refuse, and what holds while they learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kd_core.adapters import ADAPTERS, FeatureExpansion, denoiser, ofa_branch, orthogonal_projector, standardize
from kd_core.errors import KDError


@pytest.mark.parametrize(("features", "out"), [(5, 3), (3, 5), (4, 4)])
def test_a_projection_stays_orthogonal_while_it_learns_in_half_precision(features: int, out: int) -> None:
    projector = orthogonal_projector([torch.zeros(2, features)], torch.zeros(2, out), None)
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = projector(torch.randn(6, features).bfloat16())
        assert output.dtype == torch.float32
        output.square().sum().backward()
        optimizer.step()
    weight = projector.linear.weight  # type: ignore[union-attr]
    gram = weight @ weight.T if out <= features else weight.T @ weight
    torch.testing.assert_close(gram, torch.eye(min(features, out)), atol=1e-5, rtol=0)


def test_a_projection_of_equal_weights_in_a_checkpoint_is_the_same() -> None:
    first, second = (orthogonal_projector([torch.zeros(2, 5)], None, 3) for _ in range(2))
    second.load_state_dict(first.state_dict())
    rows = torch.randn(4, 5)
    assert torch.equal(first(rows), second(rows))


@pytest.mark.parametrize("name", ["orthogonal_projector", "standardize"])
def test_vkds_adapters_run_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        rows = torch.zeros(2, 5)
        assert ADAPTERS.get(name)([rows], rows, None).to("meta")(rows).shape == (2, 5)


def test_standardised_vectors_have_mean_0_and_the_variance_that_was_asked_for() -> None:
    rows = standardize([torch.zeros(1, 7)], None, None, scale=2.0)(torch.randn(3, 7) + 5)
    torch.testing.assert_close(rows.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.var(1, correction=0), torch.full((3,), 4.0), atol=1e-3, rtol=0)


def test_a_constant_vector_is_standardised_to_0() -> None:
    assert not standardize([torch.zeros(1, 7)], None, None)(torch.ones(3, 7)).any()


@pytest.mark.parametrize(
    ("name", "shapes", "said"),
    [
        ("orthogonal_projector", [(2, 3, 4, 4)], "takes (B, D) or (B, L, D), not (2, 3, 4, 4)"),
        ("orthogonal_projector", [(2, 3)], "has no output width"),
        ("standardize", [(2, 3, 4, 4)], "takes (B, D) or (B, L, D), not (2, 3, 4, 4)"),
        ("ofa_branch", [(2, 3)], "takes feature maps (B, C, H, W), not (2, 3)"),
        ("ofa_branch", [(2, 3, 4, 4), (2, 8, 1, 1)], "has no output width"),
        ("ofa_branch", [(2, 3, 4, 4), (2, 8, 1, 1), (2, 8, 1, 1)], "and vectors (B, F)"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, shapes: list[tuple[int, ...]], said: str) -> None:
    with pytest.raises(KDError) as error:
        ADAPTERS.get(name)([torch.zeros(shape) for shape in shapes], None, None)
    assert said in str(error.value)


def test_a_branch_alone_makes_logits_of_the_deepest_map() -> None:
    branch = ofa_branch([torch.zeros(2, 3, 4, 4)], torch.zeros(2, 5), None)
    assert branch(torch.zeros(2, 3, 4, 4)).shape == (2, 5)


def test_a_byot_branch_needs_a_deeper_map_to_be_like() -> None:
    with pytest.raises(KDError, match="no map to be like"):
        ADAPTERS.get("byot_branch")([torch.zeros(2, 3, 4, 4)], None, 8)
    with pytest.raises(KDError, match="cannot bring"):
        ADAPTERS.get("byot_branch")([torch.zeros(2, 3, 2, 2)], torch.zeros(2, 8, 4, 4), None)


def test_an_expansion_keeps_the_shape_and_has_a_range() -> None:
    module = FeatureExpansion(channels=3, teacher_channels=4, parts=2)
    assert module(torch.zeros(2, 3, 4, 4)).shape == (2, 3, 4, 4)
    assert module.expand(torch.zeros(2, 3, 4, 4)).shape == (2, 8, 4, 4)
    with pytest.raises(KDError, match="parts"):
        FeatureExpansion(channels=3, teacher_channels=4, parts=0)


@pytest.mark.parametrize(
    ("student", "teacher", "values", "message"),
    [
        ((2, 3, 4, 4), (2, 8, 2, 2), {}, "maps of one size"),
        ((2, 3, 4, 4), (2, 6, 4, 4), {}, "needs at least 8"),
        ((2, 3), (2, 8), {}, r"takes maps \(B, C, H, W\) of both models, not \(2, 3\)"),
        ((2, 3, 4), (2, 8, 4), {"kernel": 1}, r"or vectors \(B, C\) of both"),
        ((2, 3), (2, 8), {"kernel": 1, "inference_steps": 501}, "must be at most 500"),
    ],
)
def test_what_a_denoiser_refuses(student: tuple[int, ...], teacher: tuple[int, ...], values: Any, message: str) -> None:
    with pytest.raises(KDError, match=message):
        denoiser([torch.zeros(student), torch.zeros(teacher)], None, None, **values)


def test_a_denoiser_learns_from_what_it_gives() -> None:
    student, teacher = torch.randn(4, 3, 2, 2, requires_grad=True), torch.randn(4, 8, 2, 2, requires_grad=True)
    fields = denoiser([student, teacher], None, None, latent=16)(student, teacher)
    assert {name: tuple(field.shape[1:]) for name, field in fields.items()} == {
        **dict.fromkeys(("refined", "target", "predicted", "noise"), (16, 2, 2)),
        "reconstruction": (8, 2, 2),
    }
    assert not fields["target"].requires_grad
    fields["refined"].square().mean().backward()
    assert student.grad is not None
    assert teacher.grad is None
    vectors = denoiser([torch.randn(4, 3), torch.randn(4, 5)], None, None, kernel=1)
    assert vectors(torch.randn(4, 3), torch.randn(4, 5))["refined"].shape == (4, 5)
    with pytest.raises(KDError, match="takes the student's and the teacher's features"):
        denoiser([student], None, None)
    with pytest.raises(KDError, match="neither match nor out_features"):
        denoiser([student, teacher], teacher, None)
