"""The probe: too few samples for batch norm are told from other errors."""

import pytest
import torch
from torch import Tensor, nn

from kd_core.train.probe import TooFewSamples, batch_norm_errors


@pytest.mark.parametrize(("samples", "says"), [(1, "a batch of one sample"), (3, "a batch of 3 samples")])
def test_one_value_a_channel_is_an_error_with_its_batch_and_stage(samples: int, says: str) -> None:
    with pytest.raises(TooFewSamples) as caught, batch_norm_errors(samples, "distill"):
        nn.BatchNorm1d(2).train()(torch.rand(1, 2))
    (problem,) = caught.value.problems
    assert says in problem.message
    assert problem.path == "stages.distill"
    assert "drop_last: true" in (problem.hint or "")


def test_other_errors_pass_unchanged() -> None:
    def broken() -> Tensor:
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"), batch_norm_errors(1):
        broken()
