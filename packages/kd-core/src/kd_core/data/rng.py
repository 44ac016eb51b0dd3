"""Random numbers by counting, not by state: each is a hash of where it is used."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of splitmix64 (Steele, Lea & Flood, OOPSLA 2014), a bijection of 64-bit words."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def derive_key(*words: int | str) -> int:
    """A 64-bit number for a sequence of words; sequences that differ share none but by chance."""
    return int.from_bytes(hashlib.blake2b(repr(words).encode(), digest_size=8).digest(), "little")


def random_u64(key: int, index: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 random bits for each index (N,): output number ``index`` of the splitmix64 sequence that starts at ``key``."""
    return _mix((index.astype(np.uint64) + np.uint64(1)) * np.uint64(_STEP) + np.uint64(key & _MASK))


class CounterRNG:
    """Random numbers for the samples of a batch.

    What sample i gets at the n-th draw is a pure function of (seed, epoch, i, n): the other samples in ``index`` (B,),
    their order, and every random state are without influence.
    """

    def __init__(self, seed: int, epoch: int, index: NDArray[np.int64]) -> None:
        self._key = derive_key("augment", seed, epoch)
        self._index = index
        self._drawn = 0

    def bits(self) -> NDArray[np.uint64]:
        """(B,) 64 random bits each."""
        self._drawn += 1
        return random_u64(self._key + self._drawn * 0xD1342543DE82EF95, self._index)

    def uniform(self) -> NDArray[np.float64]:
        """(B,) in [0, 1), with 53 bits."""
        return (self.bits() >> np.uint64(11)) * 2.0**-53

    def integers(self, high: int) -> NDArray[np.int64]:
        """(B,) in 0 .. high - 1."""
        return (self.uniform() * high).astype(np.int64)


GOLDEN = -7046029254386353131
"""splitmix64's increment, 2**64 over the golden ratio, as a signed number."""
MIX = ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1))
"""splitmix64's shifts and factors (Steele, Lea & Flood, OOPSLA 2014)."""


def random_bits(seed: Tensor, keys: Tensor, count: int) -> Tensor:
    """Whole numbers of 31 random bits, (B, count): row i is a pure function of ``seed`` and ``keys[i]``."""
    counter = torch.arange(1, count + 1, device=keys.device) * GOLDEN
    return shifted(_mixed(_mixed(seed + keys * GOLDEN)[:, None] + counter), 33)


def _mixed(numbers: Tensor) -> Tensor:
    """splitmix64's output function, in place."""
    for shift, factor in MIX:
        numbers.bitwise_xor_(shifted(numbers, shift)).mul_(factor)
    return numbers


def shifted(numbers: Tensor, by: int) -> Tensor:
    """64 bits shifted to the right, zeros coming in."""
    return (numbers >> by).bitwise_and_((1 << (64 - by)) - 1)


def below(bits: Tensor, bound: Tensor) -> Tensor:
    """31 random bits -> whole numbers from 0 to ``bound`` - 1 (0 where that is 0)."""
    return (bits * bound) >> 31
