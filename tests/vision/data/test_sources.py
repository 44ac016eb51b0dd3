"""The data set that comes with scikit-learn."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from kd_vision.data.sources import read_digits


def test_digits_are_scikit_learns() -> None:
    """Read without its functions, which take a second to import."""
    parts, digits = read_digits(), load_digits()
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.target)
    for part in (parts.train, parts.test):
        assert torch.equal(part.images[:, 0], (images * (255 / 16)).round().byte())
        assert torch.equal(part.target, labels[part.index])
    assert torch.equal(torch.cat([parts.train.index, parts.test.index]).sort().values, torch.arange(1797))
