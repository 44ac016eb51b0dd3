"""Losses for segmentation: void pixels, what is drawn and remembered, and how much is held at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.adapters import generation
from kd_core.errors import KDError
from kd_core.losses import PixelMemory, cirkd_minibatch, dist, ifvd, kd, mgd

VOID = -100


def random(*shape: int, seed: int = 0) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.requires_grad_()


def labels(*shape: int, classes: int = 3, seed: int = 0) -> Tensor:
    drawn = torch.randint(-1, classes, shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(drawn < 0, VOID, drawn)


def gradients(value: Tensor, *given: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, given))


def changed(logits: Tensor, where: Tensor) -> Tensor:
    """Other numbers in the pixels ``where`` (B, H, W)."""
    return torch.where(where[:, None], 1000.0, logits.detach()).requires_grad_()


# -- pixels without a class


@pytest.mark.parametrize("loss", [kd, dist])
def test_pixels_that_the_mask_leaves_out_change_nothing(loss: Any) -> None:
    student, teacher, counts = random(2, 4, 3, 5), random(2, 4, 3, 5, seed=1), labels(2, 3, 5) != VOID
    value = loss(student, teacher, counts)
    rows = [each.movedim(1, -1)[counts] for each in (student, teacher)]
    torch.testing.assert_close(value, loss(*rows))
    for gradient in gradients(value, student, teacher):
        assert not gradient.movedim(1, -1)[~counts].any()
        assert gradient.movedim(1, -1)[counts].any(1).all()
    assert torch.equal(loss(changed(student, ~counts), changed(teacher, ~counts), counts), value)


@pytest.mark.parametrize("loss", [kd, dist])
def test_where_nothing_counts_the_loss_is_0(loss: Any) -> None:
    student, teacher = random(2, 4, 3, 5), random(2, 4, 3, 5, seed=1)
    value = loss(student, teacher, torch.zeros(2, 3, 5))
    assert value.item() == 0
    assert not any(each.any() for each in gradients(value, student, teacher))


def test_dist_between_the_classes_by_hand() -> None:
    student, teacher = torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.5, 0.3, 0.2]]).log()
    ours, theirs = torch.tensor([11.0, -4.0, -7.0]), torch.tensor([5.0, -1.0, -4.0])  # thirtieths from the mean
    expected = 1 - (ours * theirs).sum() / (ours.norm() * theirs.norm())
    torch.testing.assert_close(dist(student, teacher, gamma=0.0), expected, rtol=1e-5, atol=1e-6)
    assert dist(student, student, gamma=0.0).item() == pytest.approx(0, abs=1e-6)


def test_ifvd_of_a_pixel_without_a_class_is_0_and_it_is_counted() -> None:
    student, teacher, target = random(1, 2, 2, 2), random(1, 3, 2, 2, seed=1), torch.tensor([[[0, 0], [1, VOID]]])
    value = ifvd(student, teacher, target, num_classes=2)
    cosines = []
    for features in (student, teacher):
        pixels = features[0].flatten(1).T
        cosines.append(F.cosine_similarity(pixels[:2], pixels[:2].mean(0), dim=1))
    expected = (cosines[0] - cosines[1]).square().sum() / 4  # alone in its class the third pixel is its mean
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    for gradient in gradients(value, student, teacher):
        assert not gradient[..., 1, 1].any()
        assert gradient[..., 0, :].any()
    more = torch.tensor([[[0, 0], [1, 2]]])
    assert torch.equal(ifvd(student, teacher, more, num_classes=2), value)
    assert ifvd(student, teacher, torch.full((1, 4, 4), VOID), num_classes=2).item() == 0


def test_ifvd_brings_labels_to_the_features() -> None:
    student, teacher, small = random(2, 3, 2, 3), random(2, 3, 2, 3, seed=1), labels(2, 2, 3)
    large = small.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(ifvd(student, teacher, large, num_classes=3), ifvd(student, teacher, small, num_classes=3))


def test_shapes_that_do_not_fit_are_named() -> None:
    small, wide = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 8, 8)
    for call in (lambda: cirkd_minibatch(small, wide), lambda: ifvd(small, wide, torch.zeros(2, 4, 4), num_classes=2)):
        with pytest.raises(KDError, match=r"student \(2, 3, 4, 4\) and teacher \(2, 3, 8, 8\)"):
            call()
    with pytest.raises(KDError, match=r"target \(3, 4, 4\) must be labels"):
        ifvd(small, small, torch.zeros(3, 4, 4), num_classes=2)
    with pytest.raises(KDError, match=r"features \(B, 5, H, W\)(.|\n)*projector"):
        PixelMemory(num_classes=2, dim=5, pixel_memory=20, region_memory=4)(small, small, torch.zeros(2, 4, 4))
    with pytest.raises(KDError, match="one class"):
        dist(torch.zeros(2, 1, 3), torch.zeros(2, 1, 3))


# -- similarities


def test_similarities_are_computed_in_blocks_and_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = random(2, 3, 6, 8), random(2, 5, 6, 8, seed=1)
    whole = cirkd_minibatch(student, teacher)
    expected = gradients(whole, student, teacher)
    monkeypatch.setattr("kd_core.losses.crossimage.BLOCK", 500)  # of 2 x 48 x 2 x 48
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.numel()) or each, lambda each: each):
        blocks = cirkd_minibatch(student, teacher)
    assert max(kept) <= 2 * 48 * 5
    torch.testing.assert_close(blocks, whole)
    for ours, theirs in zip(gradients(blocks, student, teacher), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_large_maps_are_pooled_first(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = random(2, 3, 9, 8), random(2, 5, 9, 8, seed=1)
    pooled = [F.avg_pool2d(each, 4, ceil_mode=True) for each in (student, teacher)]
    expected = cirkd_minibatch(*pooled)
    monkeypatch.setattr("kd_core.losses.crossimage.POOL_FROM", 9)
    assert not torch.equal(cirkd_minibatch(student, teacher), expected)
    monkeypatch.setattr("kd_core.losses.crossimage.POOL_FROM", 8)
    assert torch.equal(cirkd_minibatch(student, teacher), expected)


def test_a_pixels_relations_are_to_each_image_by_itself() -> None:
    student, teacher = random(2, 3, 2, 2), random(2, 5, 2, 2, seed=1)
    pairs = []
    ours, theirs = (F.normalize(each, dim=1).flatten(2).mT for each in (student, teacher))
    for first in range(2):
        for second in range(2):
            softened = ((each[first] @ each[second].T / 0.2).log_softmax(1) for each in (ours, theirs))
            pairs.append(F.kl_div(*softened, reduction="batchmean", log_target=True))
    torch.testing.assert_close(cirkd_minibatch(student, teacher, temperature=0.2), torch.stack(pairs).mean())


# -- CIRKD's memory

SIZES: dict[str, Any] = {"num_classes": 3, "dim": 4, "pixel_memory": 12, "region_memory": 5, "update": 4}


def make(seed: int = 0, **values: Any) -> PixelMemory:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PixelMemory(**{**SIZES, "pixel_contrast": 12, "region_contrast": 4, **values})


def step(loss: PixelMemory, seed: int, target: Tensor | None = None) -> Tensor:
    student = random(2, 4, 3, 5, seed=seed).detach().float().requires_grad_()
    teacher = random(2, 4, 3, 5, seed=seed + 100).detach().float()
    value: Tensor = loss(student, teacher, labels(2, 6, 10, seed=seed) if target is None else target)
    value.backward()
    assert student.grad is not None
    return torch.cat([value.detach()[None], student.grad.flatten()])


def test_a_loaded_memory_goes_on_bit_for_bit() -> None:
    whole, resumed = make(), make(seed=1)
    for seed in range(3):
        step(whole, seed)
    state = {key: value.clone() if isinstance(value, Tensor) else value for key, value in whole.state_dict().items()}
    assert {"pixels", "regions", "next_pixel", "next_region", "seed"} < set(state)
    after = [step(whole, seed) for seed in range(3, 6)]
    assert not torch.equal(step(resumed, 3), after[0])
    resumed.load_state_dict(state)
    assert (resumed.passes, whole.passes) == (3, 6)
    assert all(torch.equal(step(resumed, seed), expected) for seed, expected in zip(range(3, 6), after, strict=True))


def test_drawn_pixels_are_different_ones_of_their_class() -> None:
    loss, target = make(), labels(2, 15, seed=3)
    members = target[:, None] == torch.arange(3)[:, None]
    found: set[int] = set()
    for loss.passes in range(30):
        drawn = loss.drawn(members)
        assert drawn.shape == (2, 3, 4)
        for image in range(2):
            for label in range(3):
                own = (target[image] == label).nonzero().flatten().tolist()
                first = drawn[image, label].tolist()[: min(4, len(own))]
                assert len(set(first)) == len(first) == min(4, len(own))
                assert set(first) <= set(own)
                found |= {15 * image + each for each in first}
    assert found == set((target.flatten() >= 0).nonzero().flatten().tolist())


def test_slots_are_in_an_order_of_their_own_for_each_memory_and_pass() -> None:
    loss = make()
    orders = []
    for loss.passes in range(2):
        orders += [loss.slots(-1, 50).tolist(), loss.slots(-2, 50).tolist()]
    assert all(sorted(each) == list(range(50)) for each in orders)
    assert len({tuple(each) for each in orders}) == 4
    assert make().slots(-1, 50).tolist() == orders[0]
    assert make(seed=1).slots(-1, 50).tolist() != orders[0]


def test_a_pass_adds_means_and_pixels_of_the_classes_in_it() -> None:
    loss, before = make(), make()
    target = torch.full((2, 3, 5), VOID)
    target[0, 0, :2] = 2
    loss.eval()
    step(loss, 0, target)
    assert all(torch.equal(*pair) for pair in zip(loss.buffers(), before.buffers(), strict=True))
    loss.train()
    step(loss, 0, target)
    teacher = F.normalize(random(2, 4, 3, 5, seed=100).detach().float(), dim=1)[0, :, 0, :2].T
    assert (loss.next_pixel.tolist(), loss.next_region.tolist()) == ([0, 0, 2], [0, 0, 1])
    torch.testing.assert_close(loss.regions[2, 0], F.normalize(teacher.mean(0), dim=0))
    assert {tuple(each) for each in loss.pixels[2, :2].tolist()} == {tuple(each) for each in teacher.tolist()}
    loss.pixels[2, :2] = before.pixels[2, :2]
    loss.regions[2, 0] = before.regions[2, 0]
    assert torch.equal(loss.pixels, before.pixels)
    assert torch.equal(loss.regions, before.regions)


def test_without_a_label_the_memorys_loss_is_0_and_nothing_is_added() -> None:
    loss, before = make(), make()
    assert not step(loss, 0, torch.full((2, 6, 10), VOID)).any()
    assert torch.equal(loss.pixels, before.pixels)


def test_void_pixels_are_no_anchors() -> None:
    target = labels(2, 3, 5, seed=7)
    gradient = step(make(), 0, target)[1:].view(2, 4, 3, 5).movedim(1, -1)
    assert not gradient[target < 0].any()
    assert gradient[target >= 0].any(1).all()


def test_weights_of_pixels_and_regions() -> None:
    pixel, region = (step(make(**{name: 0.0}), 0) for name in ("region_weight", "pixel_weight"))
    torch.testing.assert_close(step(make(pixel_weight=2.0, region_weight=0.5), 0), 2 * pixel + 0.5 * region)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"dim": 0}, {"num_classes": 0}, {"pixel_memory": 3}])
def test_values_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(KDError, match=next(iter(wrong))):
        make(**wrong)


# -- MGD


def block(**values: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return generation([torch.zeros(2, 3, 20, 20), torch.zeros(2)], torch.zeros(2, 4, 20, 20), None, **values)


def test_mgd_is_a_sum_over_the_sample() -> None:
    assert mgd(torch.zeros(2, 3, 2, 2), torch.full((2, 3, 2, 2), 0.5)).item() == 3 * 2 * 2 * 0.25


def test_the_share_that_is_masked() -> None:
    features, index = torch.zeros(4, 3, 50, 50), torch.tensor([3, 1, 8, 5])
    kept = block(ratio=0.75).kept(features, index)
    assert kept.shape == (4, 1, 50, 50)
    torch.testing.assert_close(kept.flatten(1).double().mean(1), torch.full((4,), 0.25).double(), atol=0.04, rtol=0)
    channels = block(ratio=0.2, mask="channel").kept(torch.zeros(4, 4000, 1, 1), index)
    assert channels.shape == (4, 4000, 1, 1)
    torch.testing.assert_close(channels.double().mean(1).flatten(), torch.full((4,), 0.8).double(), atol=0.03, rtol=0)
    assert block(ratio=0.0).kept(features, index).all()


def test_a_samples_mask_depends_on_seed_step_and_sample_alone() -> None:
    made = block()
    together = made.kept(torch.zeros(3, 3, 20, 20), torch.tensor([7, 2, 5]))
    assert torch.equal(made.kept(torch.zeros(1, 3, 20, 20), torch.tensor([5])), together[2:])
    assert not torch.equal(together[0], together[1])
    made.after_step()
    assert not torch.equal(made.kept(torch.zeros(1, 3, 20, 20), torch.tensor([5])), together[2:])
    rows = made.kept(torch.zeros(3, 3, 20, 20), None)
    assert torch.equal(rows, made.kept(torch.zeros(3, 3, 20, 20), torch.arange(3)))


def test_masked_places_have_no_influence_and_only_in_training() -> None:
    made, features = block(), random(2, 3, 20, 20).detach().float().requires_grad_()
    kept = made.kept(features, torch.tensor([0, 1]))
    made(features, torch.tensor([0, 1])).square().sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad.any(1, keepdim=True), kept)
    made.eval()
    features.grad = None
    made(features, torch.tensor([0, 1])).square().sum().backward()
    assert features.grad.any(1).all()
    made.after_step()
    assert made.get_extra_state() == 0, "it did not train"


def test_a_loaded_block_goes_on_with_its_masks() -> None:
    whole, resumed, features = block(), block(), random(2, 3, 20, 20).detach().float()
    resumed.seed.fill_(5)
    for _ in range(3):
        whole.after_step()
    resumed.load_state_dict(whole.state_dict())
    first = whole(features)
    assert torch.equal(resumed(features), first)
    for made in (whole, resumed):
        made.after_step()
    assert torch.equal(resumed(features), whole(features))
    assert not torch.equal(whole(features), first)


def test_a_block_says_what_it_cannot_do() -> None:
    source = torch.zeros(2, 3, 8, 8)
    with pytest.raises(KDError, match=r"ratio must be in \[0, 1\), not 1"):
        generation([source], source, None, ratio=1.0)
    with pytest.raises(KDError, match=r"cannot make \(2, 3, 8, 8\) like \(2, 5, 4, 4\)"):
        generation([source], torch.zeros(2, 5, 4, 4), None)
    with pytest.raises(KDError, match=r"batch\.index"):
        generation([source, source], None, 4)
    with pytest.raises(KDError, match="'spatial' or 'channel'"):
        generation([source], None, 4, mask="pixels")  # type: ignore[arg-type]
